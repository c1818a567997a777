"""What a processor on a control path is: it is given records as they come and answers with events.

It has no group and no transaction: what it publishes is dropped by id, or by time, by its readers.
It knows no broker and no clock but the one in its records.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.base import Event
from schemas.records import Record
from schemas.topics import Topic


@dataclass(frozen=True, slots=True)
class LiveInput:
    """A topic to read, and how much of its past a start goes through first.

    `rewind_s` None is all of it; 0 begins at the end. Of topics keyed by robot, only the records of
    the processor's robots are given.
    """

    topic: Topic
    rewind_s: float | None = 0.0
    past_only: bool = False
    """Only the past is gone through: what comes later is the processor's own."""


class LiveProcessor(Protocol):
    """A function of the live log for some robots."""

    name: str
    robots: Sequence[str]
    inputs: Sequence[LiveInput]
    tick_ms: float | None
    """How often `tick` is called; None for never."""

    def replay(self, record: Record) -> None:
        """Take in a record of the past, to be where it left; nothing is published."""
        ...

    def take(self, record: Record) -> Iterable[Event]:
        """Take in a new record; what is to be published because of it."""
        ...

    def tick(self, now_ms: float) -> Iterable[Event]:
        """Time has passed: the host's monotonic clock."""
        ...
