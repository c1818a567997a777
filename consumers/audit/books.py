"""What the books of all topics share, and the ranges of the log that derived events cover."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from consumers.audit.dead import DeadLetters
from consumers.audit.objects import References
from consumers.audit.positions import Bounds, decode, partition_of
from consumers.audit.ranges import Ranges
from consumers.audit.report import Findings
from schemas.base import Sources


@dataclass(frozen=True)
class Books:
    """Findings, dead letters, references and the bounds of the log."""

    findings: Findings
    bounds: Bounds
    dead: DeadLetters
    refs: References


class Coverage:
    """Which records of `topic` the events of each policy cover, by their `source`."""

    def __init__(self, books: Books, derived: Literal["samples", "uploads"], topic: str) -> None:
        self._books, self._derived, self._topic = books, derived, topic
        self._ranges: defaultdict[tuple[str, int], Ranges] = defaultdict(Ranges)

    def add(self, policy: str, source: Sources, at: str, judged: bool = True) -> None:
        """Cover a source; `judged` says that it may overlap no other."""
        judge = self._books.findings.judge
        for name, (start, stop) in source.items():
            place = f"{at}: {name} [{start}, {stop})"
            number = self._inside(name, start, stop)
            if not judge(f"{self._derived}-source-end", number is not None, place):
                continue
            fresh = self._ranges[policy, number or 0].add(start, stop)
            if judged:
                judge(f"{self._derived}-source-overlap", fresh, place)

    def _inside(self, name: str, start: int, stop: int) -> int | None:
        partition = partition_of(name)
        if partition is None or partition.topic != self._topic or start > stop:
            return None
        bounds = self._books.bounds
        fits = stop <= bounds.read_to(partition) or stop <= bounds.log(partition)[1]
        return partition.number if fits else None

    def verdict(self, policy: str, position: int) -> Literal["covered", "gap", "ahead"]:
        """Whether a record is inside a source, between sources, or not come to yet."""
        number, offset = decode(position)
        ranges = self._ranges.get((policy, number))
        if ranges is None or offset >= ranges.high:
            return "ahead"
        return "covered" if offset in ranges else "gap"

    def passed(self, policy: str | None, position: int) -> bool:
        """Whether this policy (any, for None) has read past the record."""
        number, offset = decode(position)
        return any(
            offset < ranges.high
            for (name, partition), ranges in self._ranges.items()
            if partition == number and policy in (None, name)
        )
