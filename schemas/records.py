"""One record of the log as processors see it, and where it lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.base import Event, Sources


@dataclass(frozen=True, slots=True)
class Partition:
    """A topic (without namespace) and partition; written `samples-0` in events."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """The partition written as `topic-number`; raises ValueError."""
        topic, _, number = text.rpartition("-")
        return cls(topic, int(number))


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read; `event` is None where it was not decoded."""

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] = field(default_factory=dict)
    timestamp_ms: int = 0
    event: Event | None = field(default=None, compare=False)

    @property
    def at(self) -> str:
        """Where it lies: `topic[partition]@offset`."""
        return f"{self.partition.topic}[{self.partition.number}]@{self.offset}"


def parse_at(at: str) -> tuple[Partition, int]:
    """The partition and offset of `topic[partition]@offset`; raises ValueError."""
    place, _, offset = at.rpartition("@")
    topic, _, number = place.removesuffix("]").rpartition("[")
    return Partition(topic, int(number)), int(offset)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records to work on together, with the ranges of the log that each stands for.

    `spans[i]` is what record i accounts for: from the end of the last published range of its
    partition to one past its own offset, so that skipped records (of other policies, or control
    records of transactions) leave no gap. `source` is the union over the batch.
    """

    records: Sequence[Record]
    spans: Sequence[Sources]
    source: Sources
    dead: Sequence[str] = ()
    """Where the dead-lettered records inside `source` lie."""
