"""Where records lie, as text and as one integer, and where the log begins and ends."""

import re
from collections.abc import Callable, Mapping

from schemas.records import Partition, Record

Ends = Callable[[str], Mapping[Partition, tuple[int, int]]]
"""The first and the next offset of each partition of a topic, as `infra.log.Log.ends` says."""

_AT = re.compile(r"(.+)\[(\d+)\]@(\d+)")
_BITS = 48


def code(number: int, offset: int) -> int:
    """A position in a topic as one integer: what a million of costs 32 MB, not 120."""
    return number << _BITS | offset


def decode(position: int) -> tuple[int, int]:
    """The partition number and offset of a code."""
    return position >> _BITS, position & ((1 << _BITS) - 1)


def code_of(at: str, topic: str) -> int | None:
    """The code of a position of this topic written as `topic[partition]@offset`, or None."""
    match = _AT.fullmatch(at)
    if match is None or match[1] != topic:
        return None
    return code(int(match[2]), int(match[3]))


def text(topic: str, position: int) -> str:
    """The position as `topic[partition]@offset`."""
    number, offset = decode(position)
    return f"{topic}[{number}]@{offset}"


def partition_of(name: str) -> Partition | None:
    """The partition written as `topic-number`, or None where the text is none."""
    try:
        return Partition.parse(name)
    except ValueError:
        return None


class Bounds:
    """What was read of each partition, and what the log has of it."""

    def __init__(self, ends: Ends | None) -> None:
        self._ends = ends
        self._seen: dict[Partition, tuple[int, int]] = {}

    def note(self, record: Record) -> None:
        """One record was read."""
        first, _ = self._seen.get(record.partition, (record.offset, 0))
        self._seen[record.partition] = (first, record.offset + 1)

    def read_to(self, partition: Partition) -> int:
        """One past the last record that was read."""
        return self._seen.get(partition, (0, 0))[1]

    def has(self, partition: Partition, end: int) -> bool:
        """Whether the log goes as far as this; asks the log only beyond what was read."""
        return end <= self.read_to(partition) or end <= self.log(partition)[1]

    def log(self, partition: Partition) -> tuple[int, int]:
        """The first and the next offset of the partition now; of what was read, without a log."""
        if self._ends is not None:
            return self._ends(partition.topic).get(partition, (0, 0))
        return self._seen.get(partition, (0, 0))

    def was_deleted(self, partition: Partition, offset: int) -> bool:
        """Whether retention took this record."""
        return offset < self.log(partition)[0]

    def is_trimmed(self, topic: str) -> bool:
        """Whether retention took anything of this topic."""
        if self._ends is not None:
            return any(first > 0 for first, _ in self._ends(topic).values())
        return any(first > 0 for p, (first, _) in self._seen.items() if p.topic == topic)
