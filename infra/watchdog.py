"""Notices a reader that is given nothing although records wait for it: it would look idle for ever.

Compared are its positions with the last stable offsets, which leave out open transactions and count
aborted records and markers, as a read_committed reader's position does. Only idle turns count, for
a partition may rightly wait while others are worked on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from infra.log import Log, LogUnavailable
from infra.patience import Patience
from schemas.records import Partition

CHECK_EVERY_S = 5.0
"""One request to the broker so often, while there is nothing to do."""
LEAST_S = 5.0
"""A new member's first records may take a second or two: no patience is shorter than this."""


@dataclass(frozen=True, slots=True)
class Starved:
    """A position that did not move, though records lie before `end`."""

    partition: Partition
    offset: int
    end: int
    limit_s: float
    again: bool
    """Whether it was said before and nothing has come since."""

    def __str__(self) -> str:
        at = f"{self.partition.topic}[{self.partition.number}]@{self.offset}"
        return f"{at}: records wait up to offset {self.end}, none was read in {self.limit_s:.0f} s"


class Watchdog:
    """Watches the positions of one process's readers."""

    def __init__(
        self,
        log: Log,
        partitions: Sequence[Partition],
        patience: Patience,
        clock: Callable[[], float],
    ) -> None:
        self._log, self._partitions = log, partitions
        self._patience, self._clock = patience, clock
        self._limit_s = max(LEAST_S, patience.limit_s)
        self._every_s = min(CHECK_EVERY_S, self._limit_s / 4)
        self._vain = patience.wait("the last stable offsets")
        self._turned: float | None = None
        self._checked = clock()
        self._idle_s = 0.0
        self._since: dict[Partition, tuple[int, float]] = {}
        self._told: dict[Partition, int] = {}

    def busy(self) -> None:
        """A turn in which records came: until the next idle one, no time counts."""
        self._turned = None

    def idle(self, positions: Mapping[Partition, int | None]) -> Starved | None:
        """A turn in which none came to these readers; who has starved for the limit, if one has.

        Raises `GaveUp` when the broker has not answered for the limit.
        """
        now = self._clock()
        if self._turned is not None:
            # A process that was suspended was not starved.
            self._idle_s += min(now - self._turned, self._every_s)
        self._turned = now
        if now - self._checked < self._every_s:
            return None
        self._checked = now
        try:
            ends = self._log.stable_ends(self._partitions)
        except LogUnavailable as error:
            self._vain(error)
            return None
        self._vain = self._patience.wait("the last stable offsets")
        return self._compare(positions, ends)

    def _compare(
        self, positions: Mapping[Partition, int | None], ends: Mapping[Partition, int]
    ) -> Starved | None:
        since, self._since = self._since, {}
        for partition, at in positions.items():
            if at is None:
                continue
            if at >= ends[partition] or at > self._told.get(partition, at):
                self._told.pop(partition, None)
            if at >= ends[partition]:
                continue
            seen, idle_s = since.get(partition, (-1, 0.0))
            self._since[partition] = (at, idle_s if seen == at else self._idle_s)
            if self._idle_s - self._since[partition][1] > self._limit_s:
                self._since.clear()
                again = partition in self._told
                self._told[partition] = at
                return Starved(partition, at, ends[partition], self._limit_s, again)
        return None
