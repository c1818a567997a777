"""Brings a robot's feedback and safety events to the log: in order, and never given up.

Feedback is delivered at least once and dropped by its id by readers. Before safety events are
delivered again, the log is asked which of them it has: a failed or killed delivery repeats none.
"""

import logging
from pathlib import Path

from infra.envelope import message
from infra.log import Log
from infra.robot.spool import Delivered, read_delivered, undelivered, write_delivered
from schemas.acting import Feedback, SafetyEvent
from schemas.partitioner import partition_for
from schemas.records import Partition, Record
from schemas.topics import FEEDBACK, SAFETY_EVENTS, Topic, decode

logger = logging.getLogger("ralo.link")

AT_ONCE = 200
_LOOK_BACK = (1_000, 10_000, 100_000)
_SKEW_MS = 60_000


def partition_of(topic: Topic, robot_id: str) -> Partition:
    """Where the records of this robot lie."""
    return Partition(topic.name, partition_for(robot_id.encode(), topic.partitions))


def records_between(log: Log, partition: Partition, first: int) -> list[Record]:
    """All records of a partition from an offset to its end as of now; raises `LogUnavailable`."""
    reader = log.state_reader({partition: first})
    found: list[Record] = []
    try:
        reader.snapshot([partition.topic])
        while reader.behind([partition.topic]):
            found += reader.poll(1000, 0.1)
    finally:
        reader.close()
    return found


def newest_records(log: Log, topic: Topic, robot_id: str, count: int = 1) -> list[Record]:
    """The newest records of a robot, so many at most, looked for from the end backwards."""
    partition = partition_of(topic, robot_id)
    first, end = log.ends(topic.name)[partition]
    mine: list[Record] = []
    for back in (*_LOOK_BACK, end - first):
        start = max(first, end - back)
        key = robot_id.encode()
        mine = [r for r in records_between(log, partition, start) if r.key == key][-count:]
        if len(mine) == count or start == first:
            break
    return mine


def last_feedback(log: Log, robot_id: str) -> Feedback | None:
    """The newest feedback of a robot; None where it never gave any."""
    for record in newest_records(log, FEEDBACK, robot_id):
        event = decode(FEEDBACK.name, record.value)
        return event if isinstance(event, Feedback) else None
    return None


class SpoolDelivery:
    """Delivers one robot's spool."""

    def __init__(self, log: Log, folder: Path, robot_id: str) -> None:
        self._log, self._folder = log, folder
        self._partition = partition_of(SAFETY_EVENTS, robot_id)
        self._doubtful = True
        """Whether the log may have more than is remembered here."""

    def deliver(self) -> int:
        """Bring what is there; answers how many events. Raises `LogUnavailable`."""
        waiting = undelivered(self._folder, AT_ONCE)
        if not waiting:
            return 0
        known = self._known(waiting[0][0]) if self._doubtful else {}
        self._doubtful = True
        fresh = [event for event, _ in waiting if (event.boot_id, event.seq) not in known]
        records = self._log.append([message(event) for event in fresh]) if fresh else []
        offset = max([*known.values(), *(record.offset for record in records)])
        write_delivered(self._folder, Delivered(waiting[-1][1], offset))
        self._doubtful = False
        return len(waiting)

    def _known(self, oldest: SafetyEvent) -> dict[tuple[str, int], int]:
        """What the log has of what may be delivered twice, and where."""
        remembered = read_delivered(self._folder).offset
        if remembered >= 0:
            first = remembered + 1
        else:
            first = self._log.offset_at(self._partition, int(oldest.wall_ms) - _SKEW_MS)
        known = {}
        for record in records_between(self._log, self._partition, first):
            if record.key == oldest.key.encode():
                event = decode(SAFETY_EVENTS.name, record.value)
                if isinstance(event, SafetyEvent):
                    known[event.boot_id, event.seq] = record.offset
        return known
