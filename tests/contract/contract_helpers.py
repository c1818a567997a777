"""What contract tests share: topics, waiting with a limit, and reading all there is."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from infra.log import Log, Mark, Membership, Message, StateReader, WorkReader
from schemas import learning
from schemas.records import Partition, Record
from schemas.topics import Topic

IN = Topic("in", (learning.Problem,), partitions=2)
OUT = Topic("out", (learning.SampleGroup,), partitions=1)
FOUR = Topic("four", (learning.Problem,), partitions=4)
ALONE = Partition("out", 0)


class Tracked:
    """A log that remembers what was opened, so that nothing outlives its test."""

    def __init__(self, log: Any, opened: list[Any]) -> None:
        self._log, self._opened = log, opened

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._log, name)
        if name not in ("work_reader", "state_reader", "writer", "live_reader", "live_writer"):
            return found

        def opening(*args: Any, **named: Any) -> Any:
            made = found(*args, **named)
            # A test may have closed it itself.
            made.close = functools.cache(made.close)
            self._opened.append(made)
            return made

        return opening


@dataclass
class World:
    """A cluster and what a test must be able to do to it, on either backend."""

    name: str
    namespace: str
    make: Callable[[str], Any]
    truncate: Callable[[Any, Partition, int], None]
    nobody: Membership
    """What to publish with where there are no offsets to commit."""
    patience_s: float
    quiet_s: float
    """How long nothing must come before a test believes that nothing comes."""
    opened: list[Any] = field(default_factory=list)

    def log(self, suffix: str = "") -> Log:
        """A view of the cluster; with a suffix, under another namespace."""
        log: Any = Tracked(self.make(self.namespace + suffix), self.opened)
        return log

    def close(self) -> None:
        """Close all that a test has opened, however it ended."""
        for reader_or_writer in self.opened:
            with contextlib.suppress(Exception):
                reader_or_writer.close()

    def tries(self) -> Iterator[None]:
        """Turns of a loop that waits for something; ends when that has taken too long."""
        if self.name == "memory":
            yield from [None] * 40
            return
        until = time.monotonic() + self.patience_s
        while time.monotonic() < until:
            yield None

    def quiet_tries(self) -> Iterator[None]:
        """Turns of a loop in which nothing may happen."""
        if self.name == "memory":
            yield from [None] * 5
            return
        until = time.monotonic() + self.quiet_s
        while time.monotonic() < until:
            yield None


class Crash(BaseException):
    """The process dies here."""


def crash_at(wanted: str) -> Callable[[str], None]:
    """A point that kills at one named moment."""

    def point(name: str) -> None:
        if name == wanted:
            raise Crash(name)

    return point


def during(moment: str, act: Callable[[], None]) -> Callable[[str], None]:
    """A point that does something at one named moment."""
    return lambda name: act() if name == moment else None


def message(value: str, topic: Topic = OUT, key: str = "k") -> Message:
    """A message whose text is its value."""
    return Message(topic.name, key.encode(), value.encode())


def texts(records: Iterable[Record]) -> list[str]:
    """The values as text."""
    return [(record.value or b"").decode() for record in records]


def until(world: World, reader: WorkReader | StateReader, count: int) -> list[Record]:
    """Poll until `count` records have come; fails when they do not."""
    records: list[Record] = []
    for _ in world.tries():
        records += reader.poll(100, 0.05)
        if len(records) >= count:
            return records
    pytest.fail(f"{len(records)} of {count} records came: {texts(records)}")


def silent(world: World, reader: WorkReader | StateReader) -> None:
    """Poll for a while; fails when a record comes."""
    for _ in world.quiet_tries():
        assert texts(reader.poll(100, 0.05)) == []


def wait_for(world: World, what: str, condition: Callable[[], bool]) -> None:
    """Repeat until the condition holds; fails when it never does."""
    for _ in world.tries():
        if condition():
            return
    pytest.fail(f"waited in vain for {what}")


def joined(world: World, reader: WorkReader, count: int) -> list[Partition]:
    """Poll until the member owns `count` partitions; they stay paused."""

    def owns() -> bool:
        assert reader.poll(100, 0.05) == []
        return len(reader.assignment()) == count

    wait_for(world, f"{count} partitions", owns)
    return sorted(reader.assignment(), key=str)


def started(world: World, reader: WorkReader, count: int) -> list[Partition]:
    """Join, and read from the committed offsets on."""
    mine = joined(world, reader, count)
    resume(reader, mine)
    return mine


def resume(reader: WorkReader, partitions: Iterable[Partition]) -> None:
    """Read these from the committed offsets, or from the start."""
    marks = reader.committed(list(partitions))
    reader.start({p: mark.offset if mark else 0 for p, mark in marks.items()})


def one_step(world: World, log: Log, reader: WorkReader) -> Partition:
    """Copy the one record of the input; answers its partition."""
    (record,) = until(world, reader, 1)
    marks = {record.partition: Mark(record.offset + 1)}
    log.writer("w").publish([message("out")], marks, "g", reader.membership())
    return record.partition


def visible(world: World, log: Log, topic: Topic = OUT) -> list[Record]:
    """All that a read_committed reader finds up to the ends as of now."""
    ends = log.ends(topic.name)
    reader = log.state_reader({p: first for p, (first, _) in ends.items()})
    reader.snapshot([topic.name])
    records: list[Record] = []
    for _ in world.tries():
        if not reader.behind([topic.name]):
            break
        records += reader.poll(100, 0.05)
    else:
        pytest.fail(f"{topic.name} could not be read to its end; so far {texts(records)}")
    reader.close()
    return records


def settle(log: Log, transactional_id: str) -> None:
    """Let a successor settle what a dead writer left open."""
    log.writer(transactional_id).close()


def marks_of(reader: WorkReader, partitions: Iterable[Partition]) -> dict[Partition, Mark]:
    """The current positions as marks."""
    return {p: Mark(reader.position(p) or 0) for p in partitions}
