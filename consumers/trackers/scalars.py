"""From events to scalars by weight version: a pure fold that knows where to go on after a restart.

What a trainer says of an upload becomes a scalar of the version that applied it; topics are read
side by side, so a version waits until its uploads were read.
"""

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.learning import Evaluation, GradientUpload, UploadsRefused, WeightVersion
from schemas.records import Partition, Record, parse_at
from schemas.topics import EVALUATIONS, GRADIENT_CHUNKS, WEIGHT_VERSIONS, Topic

TOPICS: tuple[Topic, ...] = (GRADIENT_CHUNKS, WEIGHT_VERSIONS, EVALUATIONS)


@dataclass(frozen=True, slots=True)
class Scalars:
    """Named values of one weight version of one policy."""

    policy: str
    version: int
    timestamp_ms: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Upload:
    offset: int
    policy: str
    weight: float
    stats: dict[str, float]


Settling = WeightVersion | UploadsRefused


class ScalarFold:
    """Takes in decoded records and gives out scalars, each once."""

    def __init__(self, policy: str | None = None) -> None:
        self._policy = policy
        self._next: dict[Partition, int] = {}
        self._uploads: defaultdict[Partition, dict[str, _Upload]] = defaultdict(dict)
        self._waiting: defaultdict[Partition, deque[tuple[Record, Settling]]] = defaultdict(deque)

    def begin(self, start: Mapping[Partition, int]) -> None:
        """Reading starts here: what lies before was taken in, or is not in the log any more."""
        self._next.update(start)

    def positions(self) -> dict[Partition, int]:
        """Where to begin after a restart, so that no scalar is missed or given out again."""
        positions = dict(self._next)
        for partition, uploads in self._uploads.items():
            first = min((upload.offset for upload in uploads.values()), default=None)
            positions[partition] = self._next[partition] if first is None else first
        for partition, waiting in self._waiting.items():
            if waiting:
                positions[partition] = waiting[0][0].offset
        return positions

    def observe(self, record: Record) -> list[Scalars]:
        """Take in one record; answers what is now known."""
        self._next[record.partition] = record.offset + 1
        event = record.event
        found: list[Scalars] = []
        if getattr(event, "policy", None) in (None, self._policy or getattr(event, "policy", "")):
            match event:
                case GradientUpload():
                    upload = _Upload(record.offset, event.policy, event.weight, event.stats)
                    self._uploads[record.partition][record.at] = upload
                case WeightVersion() | UploadsRefused():
                    self._waiting[record.partition].append((record, event))
                case Evaluation():
                    values = {"heldout/accuracy": event.accuracy, "heldout/reward": event.reward}
                    found.append(_scalars(record, event, values))
        return found + self._ready()

    def _ready(self) -> list[Scalars]:
        """What waits no more; in order per partition, so one that waits holds up those behind."""
        found = []
        for waiting in self._waiting.values():
            while waiting and self._has_read_uploads(waiting[0][1]):
                record, event = waiting.popleft()
                if isinstance(event, WeightVersion) and event.kind == "step":
                    found.append(_scalars(record, event, self._values(event)))
                self._forget(event)
        return found

    def _has_read_uploads(self, event: Settling) -> bool:
        named = event.refused if isinstance(event, UploadsRefused) else event.uploads
        places = (parse_at(upload.at) for upload in named)
        return all(offset < self._next.get(part, offset + 1) for part, offset in places)

    def _values(self, event: WeightVersion) -> dict[str, float]:
        parts = [self._uploads[parse_at(u.at)[0]].get(u.at) for u in event.uploads]
        values = _means([part for part in parts if part is not None])
        if event.step is not None:
            values |= {
                "optimizer/learning_rate": event.step.learning_rate,
                "optimizer/grad_norm": event.step.grad_norm,
                "optimizer/clip_factor": event.step.clip_factor,
            }
        if event.staleness is not None:
            values["loop/staleness"] = event.staleness
        totals = event.totals.model_dump()
        return values | {f"loop/{name}": float(count) for name, count in totals.items()}

    def _forget(self, event: Settling) -> None:
        """Drop the uploads that this event accounts for."""
        for name, resume in event.resume.items():
            uploads = self._uploads[Partition.parse(name)]
            done = [
                at
                for at, upload in uploads.items()
                if upload.policy == event.policy and upload.offset < resume
            ]
            for at in done:
                del uploads[at]


def _scalars(
    record: Record, event: WeightVersion | Evaluation, values: dict[str, float]
) -> Scalars:
    return Scalars(event.policy, event.version, record.timestamp_ms, values)


def _means(uploads: list[_Upload]) -> dict[str, float]:
    """The mean of each statistic over the uploads of a step, by their weights in the fold."""
    sums: defaultdict[str, float] = defaultdict(float)
    weights: defaultdict[str, float] = defaultdict(float)
    for upload in uploads:
        for name, value in upload.stats.items():
            sums[name] += upload.weight * value
            weights[name] += upload.weight
    return {f"train/{name}": sums[name] / weights[name] for name in sums if weights[name] > 0}
