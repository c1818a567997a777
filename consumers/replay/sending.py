"""Sends the selected records into the sandbox, at the recorded pace or as fast as it goes."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from consumers.replay.offsets import Offsets
from consumers.replay.pace import Pace, Punctuality
from consumers.replay.promptness import prompt
from consumers.replay.source import Ahead, Run, merged
from infra.copying import Copier
from infra.log import Log
from schemas.records import Partition

Stopped = Callable[[], bool]
NEVER: Stopped = lambda: False  # noqa: E731

_NAP_S = 0.2
"""A long pause is slept in parts, so that Ctrl-C is heeded soon."""


@dataclass
class Sent:
    """What was sent so far; another thread may look at it meanwhile."""

    records: int = 0
    size_bytes: int = 0
    topics: Counter[str] = field(default_factory=Counter)
    last: dict[Partition, int] = field(default_factory=dict)
    """The last offset of each partition."""
    now_ms: int = 0
    """The time of the last record."""
    due_s: float = 0.0
    seconds: float = 0.0
    punctuality: Punctuality = field(default_factory=Punctuality)
    interrupted: bool = False

    def note(self, run: Run) -> None:
        """These were sent."""
        partition, records = run
        self.records += len(records)
        self.size_bytes += sum(len(raw.value or b"") for raw in records)
        self.topics[partition.topic] += len(records)
        self.last[partition] = records[-1].offset
        self.now_ms = records[-1].timestamp_ms


@dataclass(frozen=True)
class Clock:
    """What time is it, and wait; tests turn one by hand."""

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


REAL = Clock()


def send(
    source: Log,
    into: Log,
    offsets: Mapping[Partition, Offsets],
    namespace: str,
    pace: Pace | None = None,
    stopped: Stopped = NEVER,
    sent: Sent | None = None,
    clock: Clock = REAL,
) -> Sent:
    """Copy these records into another log; `namespace` is the source's, for `replay-of`.

    Without a pace, as fast as it goes. All that is counted is in the log when this returns, also
    where `stopped` said so before the end. Raises `LogError`.
    """
    sent = sent or Sent()
    began_s = clock.now_s()
    with closing(into.copier(paced=pace is not None)) as copier:
        target = _Target(copier, namespace, sent)
        if pace is None:
            with closing(merged(source, offsets, coarse=True)) as runs:
                sent.interrupted = not _all(runs, target, stopped)
        else:
            with closing(Ahead(merged(source, offsets))) as ahead, prompt():
                sent.interrupted = not _paced(ahead, target, pace, stopped, clock)
        copier.flush()
    sent.seconds = clock.now_s() - began_s
    return sent


class _Target:
    """The copier, told where each run comes from."""

    def __init__(self, copier: Copier, namespace: str, sent: Sent) -> None:
        self._copier, self._namespace, self.sent = copier, namespace, sent

    def take(self, run: Run) -> None:
        partition, records = run
        self._copier.copy(partition, origin_of(self._namespace, partition), records)
        self.sent.note(run)


def origin_of(namespace: str, partition: Partition) -> str:
    """How `replay-of` names a partition: as the broker does, with its namespace."""
    return f"{namespace}{partition.topic}[{partition.number}]"


def _all(runs: Iterator[Run], target: _Target, stopped: Stopped) -> bool:
    for run in runs:
        if stopped():
            return False
        target.take(run)
    return True


def _paced(ahead: Ahead, target: _Target, pace: Pace, stopped: Stopped, clock: Clock) -> bool:
    """Each record at its time, by absolute deadlines; False where it was stopped."""
    began_s: float | None = None
    sent = target.sent
    for partition, records in ahead:
        for raw in records:
            due_s = pace.due_s(raw.timestamp_ms)
            began_s = clock.now_s() if began_s is None else began_s
            if not _wait_until(began_s + due_s, stopped, clock):
                return False
            sent.punctuality.note(due_s, clock.now_s() - began_s)
            target.take((partition, (raw,)))
            sent.due_s = due_s
    return True


def _wait_until(due_s: float, stopped: Stopped, clock: Clock) -> bool:
    """Sleep until then; False where it was stopped."""
    while not stopped():
        left_s = due_s - clock.now_s()
        if left_s <= 0:
            return True
        clock.sleep(min(left_s, _NAP_S))
    return False
