"""Reads pieces of the log, and no more than is asked for; counts what it read."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from infra.log import Log, LogUnavailable
from schemas.records import Partition, Record, parse_at
from schemas.topics import TOPICS

Report = Callable[[str, int, int], None]
"""Told now and then what is read, how far it is and of how many offsets."""

PATIENCE_S = 60.0
NEAR = 256
"""Places with fewer offsets between them are read in one go: that is quicker than to seek."""
_POLL_S, _BATCH = 0.05, 1000


def quiet(what: str, done: int, of: int) -> None:
    """Progress that nobody looks at."""


class Reading:
    """The committed records of a log up to the end as of the first look at each topic."""

    def __init__(self, log: Log, report: Report = quiet) -> None:
        self._log, self._report = log, report
        self._ends: dict[str, dict[Partition, tuple[int, int]]] = {}
        self.records = self.bytes = 0
        self.ranges: dict[str, list[tuple[int, int]]] = {}
        """What was read of each partition, range by range."""

    def ends(self, topic: str) -> dict[Partition, tuple[int, int]]:
        """First and next offset of each partition, settled transactions alone."""
        if topic not in self._ends:
            ends = self._log.ends(topic)
            stable = self._log.stable_ends(list(ends))
            self._ends[topic] = {p: (first, stable[p]) for p, (first, _) in ends.items()}
        return self._ends[topic]

    def of(self, partition: Partition) -> tuple[int, int]:
        """First and next offset of one partition; of none where there is no such partition."""
        known = self.ends(partition.topic) if partition.topic in TOPICS else {}
        return known.get(partition, (0, 0))

    def since(self, partition: Partition, timestamp_ms: int) -> int:
        """The first offset of this time or a later one."""
        return self._log.offset_at(partition, max(0, timestamp_ms))

    def span(self, partition: Partition, start: int, stop: int) -> Iterator[Record]:
        """The records of [start, stop), as far as the log has them; it may be left in the middle.

        Raises `LogUnavailable` when nothing comes.
        """
        first, end = self.of(partition)
        start, stop = max(start, first), min(stop, end)
        if start >= stop:
            return
        reader = self._log.state_reader({partition: start})
        at, heard = start, time.monotonic()
        try:
            while at < stop:
                records = reader.poll(min(_BATCH, stop - at), _POLL_S)
                heard = time.monotonic() if records else heard
                if time.monotonic() - heard > PATIENCE_S:
                    raise LogUnavailable(f"{partition}: nothing came for {PATIENCE_S:.0f} s")
                for record in records:
                    self.records += 1
                    self.bytes += len(record.value or b"")
                    if record.offset < stop:
                        at = record.offset + 1
                        yield record
                at = max(at, reader.positions()[partition])
                self._report(f"{partition.topic}[{partition.number}]", at - start, stop - start)
        finally:
            reader.close()
            self.ranges.setdefault(str(partition), []).append((start, min(at, stop)))

    def places(self, places: Iterable[str]) -> Iterator[Record]:
        """The records at these places, those that there are."""
        wanted: dict[Partition, set[int]] = {}
        for at in places:
            partition, offset = parse_at(at)
            wanted.setdefault(partition, set()).add(offset)
        for partition, offsets in wanted.items():
            for start, stop in runs(offsets):
                yield from (r for r in self.span(partition, start, stop) if r.offset in offsets)

    # -- saying what is not there -------------------------------------------------------------

    def why_not(self, partition: Partition, start: int, stop: int) -> str:
        """Why there is no record in [start, stop): deleted, not written yet, or never committed."""
        if partition.topic not in TOPICS or partition not in self.ends(partition.topic):
            return f"there is no partition {partition.topic}[{partition.number}]"
        first, end = self.of(partition)
        place = f"{partition.topic}[{partition.number}]"
        if start < first:
            return f"retention deleted it: {place} begins at {first}{self._date(partition, first)}"
        if start >= end:
            return f"{place} ends at {end}"
        where = f"{place}@{start}" if stop == start + 1 else f"{place} from {start} to {stop}"
        return f"no such record at {where}: it was aborted, or that is a mark of a transaction"

    def reach(self, topic: str) -> str:
        """How far back a topic reaches: which offsets it holds, and since when."""
        parts = []
        for partition, (first, end) in self.ends(topic).items():
            if first < end:
                parts.append(f"[{partition.number}] {first}:{end}{self._date(partition, first)}")
        return f"{topic} {', '.join(parts)}" if parts else f"{topic} is empty"

    def _date(self, partition: Partition, first: int) -> str:
        record = next(self.span(partition, first, self.of(partition)[1]), None)
        if record is None:
            return ""
        when = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
        return f" since {when:%Y-%m-%d %H:%M:%S} UTC"


def runs(offsets: Iterable[int]) -> list[tuple[int, int]]:
    """Half-open ranges that cover these offsets, those near to one another in one."""
    found: list[tuple[int, int]] = []
    for offset in sorted(offsets):
        if found and offset - found[-1][1] < NEAR:
            found[-1] = (found[-1][0], offset + 1)
        else:
            found.append((offset, offset + 1))
    return found
