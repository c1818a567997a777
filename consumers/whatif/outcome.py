"""What came out, of the recorded run and of the what-if, in the same figures."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consumers.whatif.recorded import History, Recorded
from schemas.learning import Evaluation, GradientUpload, WeightVersion


@dataclass(frozen=True)
class Outcome:
    """The figures of one side, up to one version."""

    version: int
    steps: int
    rollbacks: int
    uploads: int
    groups: int
    samples: int
    dropped: Mapping[str, int]
    refused: Mapping[str, int]
    evaluations: Sequence[Evaluation]
    grad_norms: Mapping[int, float]
    weights: Mapping[int, str]
    """SHA-256 of the weights of each version; of several shards over their hashes."""

    @property
    def final(self) -> Evaluation | None:
        """The newest evaluation, the final one where there is one."""
        finals = [e for e in self.evaluations if e.final] or self.evaluations
        return finals[-1] if finals else None

    def to_json(self) -> dict[str, Any]:
        """All of it; curves as lists of points."""
        return {
            "version": self.version,
            "steps": self.steps,
            "rollbacks": self.rollbacks,
            "uploads_applied": self.uploads,
            "groups_learnt": self.groups,
            "samples": self.samples,
            "groups_dropped": dict(self.dropped),
            "uploads_refused": dict(self.refused),
            "evaluations": [
                e.model_dump(include={"version", "accuracy", "reward", "correct", "total", "final"})
                for e in self.evaluations
            ],
            "grad_norms": {str(version): norm for version, norm in self.grad_norms.items()},
            "weights_sha256": {str(version): sha for version, sha in self.weights.items()},
        }


def outcome_of(history: History, mission_id: str, version: int | None = None) -> Outcome:
    """The figures of a policy's history up to a version, evaluations of this mission alone."""
    last = max(v.version for v in history.versions) if version is None else version
    versions = [v for v in history.versions if v.version <= last]
    applied = {one.at for v in versions for one in v.uploads}
    reached = max((v for v in versions), key=lambda v: v.version).resume
    refused = [one for one in history.refused if _offset(one.at) < max(reached.values(), default=0)]
    settled = applied | {one.at for one in refused}
    uploads = {r.at: r.event for r in history.uploads if isinstance(r.event, GradientUpload)}
    learnt = [uploads[at] for at in applied if at in uploads]
    dropped = [d.reason for at, up in uploads.items() if at in settled for d in up.dropped]
    return Outcome(
        version=last,
        steps=sum(v.kind == "step" for v in versions),
        rollbacks=sum(v.kind == "rollback" for v in versions),
        uploads=len(applied),
        groups=sum(len(upload.groups) for upload in learnt),
        samples=sum(group.rollouts for upload in learnt for group in upload.groups),
        dropped=Counter(dropped),
        refused=Counter(one.reason for one in refused),
        evaluations=_curve(history, mission_id, last),
        grad_norms={v.version: v.step.grad_norm for v in versions if v.kind == "step" and v.step},
        weights={v.version: weights_sha256(v) for v in versions},
    )


def weights_sha256(version: WeightVersion) -> str:
    """The hash of a version's weight shard, or over those of all in the order of their names."""
    from schemas.ids import digest

    hashes = [ref.sha256 for _, ref in sorted(version.shards.items())]
    return hashes[0] if len(hashes) == 1 else digest("".join(hashes).encode())


def _offset(at: str) -> int:
    return int(at.rpartition("@")[2])


def _curve(history: History, mission_id: str, last: int) -> list[Evaluation]:
    mine = [e for e in history.evaluations if e.mission_id == mission_id and e.version <= last]
    return sorted(mine, key=lambda e: (e.version, e.final))


@dataclass(frozen=True)
class Comparison:
    """The recorded run beside the what-if."""

    recorded: Outcome
    whatif: Outcome

    @property
    def base_is_same(self) -> bool:
        """Whether version 0 has the recorded weights; else nothing else can be compared."""
        return self.recorded.weights.get(0) == self.whatif.weights.get(0)

    @property
    def differs_from(self) -> int | None:
        """The first version whose weights differ, or that only one side has; None where none."""
        theirs, ours = self.recorded.weights, self.whatif.weights
        return next((v for v in sorted({*theirs, *ours}) if theirs.get(v) != ours.get(v)), None)

    def curve(self) -> Iterator[tuple[int, Evaluation | None, Evaluation | None]]:
        """The points of both learning curves, by version."""
        theirs = {e.version: e for e in self.recorded.evaluations}
        ours = {e.version: e for e in self.whatif.evaluations}
        for version in sorted({*theirs, *ours}):
            yield version, theirs.get(version), ours.get(version)

    def to_json(self) -> dict[str, Any]:
        """Both sides, and where they part."""
        return {
            "recorded": self.recorded.to_json(),
            "whatif": self.whatif.to_json(),
            "base_is_same": self.base_is_same,
            "differs_from": self.differs_from,
        }


def compare(recorded: Recorded, played: History) -> Comparison:
    """The recorded run, as far as it was replayed, beside what was played of it."""
    mission_id = recorded.mission.mission_id
    last = recorded.history.head_after(recorded.entries[-1].record)
    theirs = outcome_of(recorded.history, mission_id, last)
    return Comparison(theirs, outcome_of(played, mission_id))
