"""The newest records of a selection, and those that come after them."""

from collections import deque
from collections.abc import Iterator, Mapping

from consumers.read import follow_from
from consumers.selection.merge import in_order
from consumers.selection.select import Report, Selection, nothing
from consumers.selection.spans import Reading
from infra.log import Log
from schemas.records import Partition, Record

_WIDER = 8
"""By how much more is read where the filters let too few pass."""


def newest(
    log: Log,
    selection: Selection,
    count: int,
    ends: Mapping[Partition, int],
    report: Report = nothing,
) -> list[Record]:
    """The last `count` records before these ends that pass, by time; its range does not matter.

    Each partition is read from its end backward, in ever longer stretches, until enough is found.
    Raises `LogError`.
    """
    firsts = {p: first for topic in selection.topics for p, (first, _) in log.ends(topic).items()}
    found: dict[Partition, deque[Record]] = {}
    length, left = count, [p for p, end in ends.items() if count and firsts[p] < end]
    while left:
        starts = {p: max(firsts[p], ends[p] - length) for p in left}
        # All are made before the first is waited for, so that they fetch at the same time.
        readings = {p: Reading(log, p, start, ends[p]) for p, start in starts.items()}
        for n, (partition, reading) in enumerate(readings.items()):
            report(", ".join(selection.topics), n * length, len(left) * length)
            taken = (one for record in reading if (one := selection.take(record)))
            found[partition] = deque(taken, maxlen=count)
        left = [p for p in left if len(found[p]) < count and firsts[p] < starts[p]]
        length *= _WIDER
    return list(deque(in_order(map(iter, found.values())), maxlen=count))


def followed(
    log: Log, selection: Selection, start: Mapping[Partition, int]
) -> Iterator[Record | None]:
    """What comes from these offsets on and passes, for ever; None when nothing came for a moment.

    Raises `LogError`.
    """
    for record in follow_from(log, start):
        found = None if record is None else selection.take(record)
        if record is None or found is not None:
            yield found
