"""What to take of the log: topics, a range, and filters by key, header, mission and expression."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from consumers.read import belongs, decoded
from consumers.selection.expression import Expression
from consumers.selection.ranges import Range, ends_of
from consumers.selection.spans import Reading
from infra.intake import foreign
from infra.log import Log
from schemas.records import Partition, Record
from schemas.topics import TOPICS

Report = Callable[[str, int, int], None]
"""Told the topic that is being read, how many of its offsets are done, and of how many."""

Spans = Mapping[Partition, tuple[int, int]]
REPORT_EVERY = 1000


class BadSelection(ValueError):
    """A topic that there is not, or none."""


def nothing(topic: str, done: int, of: int) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Selection:
    """The records of some topics in a range that pass all filters; None lets all pass.

    What does not decode has no event: it passes unless a filter asks for something in it. With
    `raw`, events are decoded only where a filter needs them; with `partition`, the others are left
    out. Raises `BadSelection`.
    """

    topics: tuple[str, ...]
    range: Range = Range()  # noqa: RUF009  (it is frozen)
    mission: str | None = None
    policy: str | None = None
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    where: Expression | None = None
    raw: bool = False
    partition: int | None = None

    def __post_init__(self) -> None:
        unknown = [repr(name) for name in self.topics if name not in TOPICS]
        if unknown or not self.topics:
            what = f"no topic {', '.join(unknown)}" if unknown else "no topic is named"
            raise BadSelection(f"{what}: there are {', '.join(TOPICS)}")
        if len(set(self.topics)) < len(self.topics):
            raise BadSelection(f"a topic is named twice: {', '.join(self.topics)}")

    def records(self, log: Log, report: Report = nothing) -> Iterator[Record]:
        """The records, topic by topic, partition by partition, each decoded, in order of offsets.

        Only up to the ends as of this call; open transactions are waited for. Raises `LogError`.
        """
        return self._records(log, {topic: self.spans(log, topic) for topic in self.topics}, report)

    def spans(self, log: Log, topic: str) -> Spans:
        """The part of the range that lies in each selected partition of a topic, as of now.

        Raises `LogError`, and `BadSelection` where the topic has no such partition.
        """
        spans = ends_of(log, topic, self.range)
        if self.partition is None:
            return spans
        if (only := Partition(topic, self.partition)) not in spans:
            raise BadSelection(f"{topic} has partitions 0 to {len(spans) - 1}, no {self.partition}")
        return {only: spans[only]}

    def take(self, record: Record) -> Record | None:
        """The record, decoded, if it passes; None if not."""
        if not self._passes_outside(record):
            return None
        if not self._looks_inside:
            return record if self.raw else decoded(record)
        found = decoded(record)
        if not belongs(found, self.mission, self.policy):
            return None
        return found if self.where is None or self.where.holds(found) else None

    @property
    def _looks_inside(self) -> bool:
        return not (self.mission is None and self.policy is None and self.where is None)

    def _passes_outside(self, record: Record) -> bool:
        if self.key is not None and record.key != self.key.encode():
            return False
        wanted = self.headers.items()
        # A record's own header spares it the decoding.
        return not foreign(record, self.policy) and all(
            record.headers.get(name) == value.encode() for name, value in wanted
        )

    def _records(self, log: Log, spans: Mapping[str, Spans], report: Report) -> Iterator[Record]:
        for topic, parts in spans.items():
            of, before = sum(after - first for first, after in parts.values()), 0
            for partition, (first, after) in parts.items():
                for n, record in enumerate(Reading(log, partition, first, after)):
                    if n % REPORT_EVERY == 0:
                        report(topic, before + record.offset - first, of)
                    if found := self.take(record):
                        yield found
                before += after - first
            report(topic, of, of)
