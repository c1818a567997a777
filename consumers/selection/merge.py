"""Several topics and partitions in one order: that of their timestamps."""

import contextlib
import heapq
from collections.abc import Iterable, Iterator, Mapping

from consumers.selection.select import REPORT_EVERY, Report, Selection, nothing
from consumers.selection.spans import Reading
from infra.log import Log
from schemas.records import Partition, Record
from schemas.topics import TOPICS

_RANK = {name: rank for rank, name in enumerate(TOPICS)}


def merged(log: Log, selection: Selection, report: Report = nothing) -> Iterator[Record]:
    """The selected records of all partitions by timestamp, up to the ends as of this call.

    Of one time, topics come in the order of `TOPICS`, then partitions. A partition's own order is
    kept, also where its timestamps go backward: then a record waits for those before it. Each
    partition is read on as it is needed, so hardly more is in memory than `spans.AHEAD` records
    of each. Raises `LogError`.
    """
    spans: dict[Partition, tuple[int, int]] = {}
    for topic in selection.topics:
        spans |= selection.spans(log, topic)
    filled = {partition: span for partition, span in spans.items() if span[0] < span[1]}
    of = sum(after - first for first, after in filled.values())
    return _merged(log, selection, filled, _Progress(", ".join(selection.topics), of, report))


def in_order(streams: Iterable[Iterator[Record]]) -> Iterator[Record]:
    """The records of several partitions, each a stream, in the order of `merged`."""
    return heapq.merge(*streams, key=_order)


class _Progress:
    """Counts the records that were read, as far as the last of them of each partition says."""

    def __init__(self, what: str, of: int, report: Report) -> None:
        self._what, self._of, self._report = what, of, report
        self._done = self._told = 0

    def moved(self, offsets: int) -> None:
        """So many offsets more are done."""
        self._done += offsets
        if self._done - self._told >= REPORT_EVERY:
            self._told = self._done
            self._report(self._what, self._done, self._of)


def _merged(
    log: Log,
    selection: Selection,
    spans: Mapping[Partition, tuple[int, int]],
    progress: _Progress,
) -> Iterator[Record]:
    with contextlib.ExitStack() as stack:
        # All are made before the first is waited for, so that they fetch at the same time.
        readings = [
            stack.enter_context(contextlib.closing(Reading(log, partition, *span)))
            for partition, span in spans.items()
        ]
        firsts = [first for first, _ in spans.values()]
        yield from in_order(
            _taken(reading, first, selection, progress)
            for reading, first in zip(readings, firsts, strict=True)
        )


def _taken(
    reading: Reading, at: int, selection: Selection, progress: _Progress
) -> Iterator[Record]:
    for record in reading:
        progress.moved(record.offset + 1 - at)
        at = record.offset + 1
        if found := selection.take(record):
            yield found


def _order(record: Record) -> tuple[int, int, int]:
    partition = record.partition
    return record.timestamp_ms, _RANK[partition.topic], partition.number
