"""Reads one partition from an offset up to another: committed records, in order."""

import contextlib
import time
from collections.abc import Iterator

from infra.log import Log, LogUnavailable
from schemas.records import Partition, Record

AHEAD = 100
"""Records that are fetched at a time, so at most so many wait in memory per partition."""

_POLL_S = 0.02
_PATIENCE_S = 120.0


class Reading:
    """The committed records of a partition in [first, next); reads ahead from when it is made.

    Iterate it once, or close it. Raises `LogUnavailable` after `patience_s` without a record,
    where a transaction hangs open.
    """

    def __init__(
        self, log: Log, partition: Partition, first: int, next: int, patience_s: float = _PATIENCE_S
    ) -> None:
        self._partition, self._next, self._patience_s = partition, next, patience_s
        self._reader = log.state_reader({partition: first}) if first < next else None

    def __iter__(self) -> Iterator[Record]:
        with contextlib.closing(self):
            idle_since: float | None = None
            while self._reader and self._reader.positions()[self._partition] < self._next:
                records = self._reader.poll(AHEAD, _POLL_S)
                # The time that the caller takes between two records is no waiting for the log.
                idle_since = None if records else idle_since or time.monotonic()
                if idle_since and time.monotonic() - idle_since > self._patience_s:
                    raise LogUnavailable(self._stuck())
                yield from (record for record in records if record.offset < self._next)

    def close(self) -> None:
        """Stop reading."""
        reader, self._reader = self._reader, None
        if reader:
            reader.close()

    def _stuck(self) -> str:
        at = self._reader.positions()[self._partition] if self._reader else 0
        return (
            f"{self._partition.topic}[{self._partition.number}]@{at}: nothing came for "
            f"{self._patience_s:.0f} s before offset {self._next}; a transaction hangs open (the "
            "broker ends it after its timeout): try again"
        )
