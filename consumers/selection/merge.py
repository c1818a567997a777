"""Several topics and partitions in one order: that of their timestamps."""

import contextlib
import heapq
from collections.abc import Iterator

from consumers.selection.ranges import ends_of
from consumers.selection.select import Selection
from consumers.selection.spans import Reading
from infra.log import Log
from schemas.records import Partition, Record
from schemas.topics import TOPICS

_RANK = {name: rank for rank, name in enumerate(TOPICS)}


def merged(log: Log, selection: Selection) -> Iterator[Record]:
    """The selected records of all partitions by timestamp, up to the ends as of this call.

    Of one time, topics come in the order of `TOPICS`, then partitions. A partition's own order is
    kept, also where its timestamps go backward: then a record waits for those before it. Each
    partition is read on as it is needed, so hardly more is in memory than `spans.AHEAD` records
    of each. Raises `LogError`.
    """
    spans: dict[Partition, tuple[int, int]] = {}
    for topic in selection.topics:
        spans |= ends_of(log, topic, selection.range)
    filled = {partition: span for partition, span in spans.items() if span[0] < span[1]}
    return _merged(log, selection, filled)


def _merged(
    log: Log, selection: Selection, spans: dict[Partition, tuple[int, int]]
) -> Iterator[Record]:
    with contextlib.ExitStack() as stack:
        # All are made before the first is waited for, so that they fetch at the same time.
        readings = [
            stack.enter_context(contextlib.closing(Reading(log, partition, *span)))
            for partition, span in spans.items()
        ]
        yield from heapq.merge(*(_taken(reading, selection) for reading in readings), key=_order)


def _taken(reading: Reading, selection: Selection) -> Iterator[Record]:
    return (found for record in reading if (found := selection.take(record)))


def _order(record: Record) -> tuple[int, int, int]:
    partition = record.partition
    return record.timestamp_ms, _RANK[partition.topic], partition.number
