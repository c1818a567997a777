"""Finds out whether a mission can run, and stores what it starts from: base model, held-out set."""

import logging
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from producers.problems.environments import tasks_of
from producers.problems.fit import NEEDED, check_fit
from producers.problems.ledger import Base, Files
from producers.problems.sources import Item
from producers.problems.split import Split, load_split
from producers.problems.verifiers import resolve, scorer
from schemas.effects import Effect, Get, Put
from schemas.environments import EnvironmentTask
from schemas.ids import problem_id
from schemas.learning import Problem
from schemas.missions import Mission, MissionReport, ModelSpec, NewPolicy
from schemas.topics import GROUPS_PER_UPLOAD_MAX

logger = logging.getLogger("ralo.provider")

Check = Callable[[Mission], None]
"""Raises ValueError when the algorithm is unknown or its settings are wrong."""
BaseFolder = Callable[[ModelSpec, Path, int], None]
"""Writes a model's folder, in shards of so many bytes at most; raises when it cannot be had."""

PolicyFolder = Callable[[NewPolicy, Sequence[EnvironmentTask], Path], None]
"""Writes the folder of a control policy for these tasks; raises when it cannot be had."""

HELDOUT = "heldout"
"""Takes the mission's place in ids of held-out problems: equal questions have equal ids."""

_PROBES = 8
_DESCRIBED = 8
"""Tasks that are made to see that one policy can act in them."""
_LEAST_OWN_SCORE = 0.5


class CannotRun(ValueError):
    """The mission cannot run, and why; the message names the field to mend."""


class Preparer:
    """Prepares missions with the callables of whoever knows algorithms and models."""

    def __init__(
        self,
        check: Check,
        base_folder: BaseFolder,
        allow_local_code: bool,
        policy_folder: PolicyFolder | None = None,
    ) -> None:
        self._check, self._base_folder = check, base_folder
        self._allow_local_code, self._policy_folder = allow_local_code, policy_folder

    def prepare(
        self, mission: Mission, base: Base | None
    ) -> Generator[Effect, Any, tuple[MissionReport, Split]]:
        """Check all, then store; `base` is the policy's base model, None where it has none yet.

        Every report names the base, for that is what a KL term holds any mission near. Raises
        ValueError when the mission cannot run; nothing was stored then.
        """
        self._check(mission)
        _check_pace(mission)
        _check_upload(mission)
        if mission.model.mlp is not None and not mission.acts:
            raise CannotRun("model.mlp: a control policy learns from the source gymnasium alone")
        if not mission.acts:
            resolve(mission.problems.verifier.name, self._allow_local_code)
        split = self._load(mission)
        if base is None:
            base = yield from self._store_base(mission, split)
        else:
            held = yield from _fetch(base.files)
            check_fit(held, split.train + split.heldout, mission.rollout)
        heldout = yield Put(heldout_key(mission), heldout_lines(mission, split.heldout))
        report = MissionReport(
            mission_id=mission.mission_id,
            policy=mission.policy,
            stage="prepared",
            reason=split.describe(),
            train_size=len(split.train),
            heldout_size=len(split.heldout),
            heldout=heldout,
            base_files=base.files,
            base_shards=base.shards,
        )
        return report, split

    def _load(self, mission: Mission) -> Split:
        split = load_mission_items(mission)
        if not split.train or not split.heldout:
            raise CannotRun(
                f"problems.heldout {mission.problems.heldout}: of {split.describe()} this leaves "
                f"{len(split.train)} to train on and {len(split.heldout)} held out; both are needed"
            )
        if not mission.acts:
            self._probe(mission, split.train)
        return split

    def _probe(self, mission: Mission, items: list[Item]) -> None:
        """A verifier that does not know its own answers would judge nothing rightly."""
        score, name = scorer(self._allow_local_code), mission.problems.verifier.name
        best = 0.0
        for index, item in enumerate(items[:_PROBES]):
            problem = to_problem(mission, item, epoch=0, index=index)
            try:
                best = max(best, score(problem, item.answer, True))
            except Exception as error:
                raise CannotRun(f"problems.verifier {name!r}: {error}") from error
        if best < _LEAST_OWN_SCORE:
            raise CannotRun(
                f"problems.verifier {name!r} scores the source's own answers {best:g} at best: "
                "check problems.answer, or take another verifier or source"
            )

    def _store_base(self, mission: Mission, split: Split) -> Generator[Effect, Any, Base]:
        with tempfile.TemporaryDirectory(prefix="ralo-base-") as name:
            folder = Path(name)
            self._build(mission, folder)
            small = {n: (folder / n).read_bytes() for n in NEEDED if (folder / n).is_file()}
            check_fit(small, split.train + split.heldout, mission.rollout)
            files, shards = Files(), Files()
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                relative = path.relative_to(folder).as_posix()
                ref = yield Put(f"bases/{mission.mission_id}/{relative}", path)
                (shards if path.suffix == ".safetensors" else files)[relative] = ref
        return Base(files, shards)

    def _build(self, mission: Mission, folder: Path) -> None:
        logger.info("mission %s: making the base model", mission.mission_id)
        try:
            if mission.acts and mission.model.base == "new":
                self._new_policy(mission, folder)
            elif mission.acts:
                copy_policy(Path(mission.model.base), folder)
            else:
                self._base_folder(mission.model, folder, mission.training.shard_bytes)
        except Exception as error:
            # Whatever a library raises for a folder or hub name that is no model.
            raise CannotRun(str(error) or type(error).__name__) from error

    def _new_policy(self, mission: Mission, folder: Path) -> None:
        size = mission.model.mlp
        if self._policy_folder is None or size is None:
            raise CannotRun("model.mlp: no control policy can be made here")
        self._policy_folder(size, tasks_of(mission.problems)[:_DESCRIBED], folder)


def copy_policy(base: Path, folder: Path) -> None:
    """Copy a control policy from a folder, such as an exported version; raises `CannotRun`."""
    for name in ("config.json", "model.safetensors"):
        if not (base / name).is_file():
            raise CannotRun(f"model.base {str(base)!r}: no control policy, for it has no {name}")
        (folder / name).write_bytes((base / name).read_bytes())


def _fetch(files: Files) -> Generator[Effect, Any, dict[str, bytes]]:
    held = {}
    for name in NEEDED:
        if name in files:
            held[name] = yield Get(files[name])
    return held


def _check_pace(mission: Mission) -> None:
    step = mission.training.groups_per_upload * mission.training.uploads_per_step
    if mission.in_flight_limit < step:
        raise CannotRun(
            f"max_in_flight {mission.max_in_flight} is less than one step's {step} groups "
            "(groups_per_upload x uploads_per_step): no step would ever close"
        )


def _check_upload(mission: Mission) -> None:
    groups = mission.training.groups_per_upload
    if groups > GROUPS_PER_UPLOAD_MAX:
        raise CannotRun(
            f"groups_per_upload {groups}: an upload's event holds {GROUPS_PER_UPLOAD_MAX} at most; "
            "take several uploads_per_step"
        )


def load_mission_items(mission: Mission) -> Split:
    """Read the mission's source; raises `SourceError`."""
    logger.info("mission %s: reading %s", mission.mission_id, mission.problems.name)
    split = load_split(mission.problems)
    logger.info("mission %s: %s", mission.mission_id, split.describe())
    return split


def to_problem(mission: Mission, item: Item, epoch: int, index: int, scope: str = "") -> Problem:
    """The event for an item; `scope` takes the mission's place in the id where it is given."""
    return Problem(
        problem_id=problem_id(scope or mission.mission_id, epoch, item.question),
        mission_id=mission.mission_id,
        policy=mission.policy,
        epoch=epoch,
        index=index,
        question=item.question,
        prompt=item.prompt,
        answer=item.answer,
        verifier=mission.problems.verifier,
        metadata=item.metadata,
    )


def heldout_key(mission: Mission) -> str:
    """The key of the mission's held-out problems: JSON Lines, one `Problem` a line."""
    return f"missions/{mission.mission_id}/heldout.jsonl"


def heldout_lines(mission: Mission, items: list[Item]) -> bytes:
    """The held-out problems as they are stored, in the order of the split."""
    problems = (to_problem(mission, item, 0, index, HELDOUT) for index, item in enumerate(items))
    return b"".join(problem.to_bytes() + b"\n" for problem in problems)
