"""The one loop of processors on a control path: the past first, then each record as it comes."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from infra.clock import monotonic, wall
from infra.envelope import dead_letter, live_message
from infra.log import Log, LogUnavailable
from infra.patience import GaveUp, Patience
from schemas.base import Event
from schemas.effects import Bury
from schemas.learning import DeadLetter
from schemas.live import LiveInput, LiveProcessor
from schemas.partitioner import partition_for
from schemas.records import Partition, Record
from schemas.topics import FOR_EVER, TOPICS, NewerSchema, Topic, Undecodable, decode

logger = logging.getLogger("ralo.live")

_POLL_S = 0.05
_MAX_RECORDS = 500
_SAY_EVERY_S = 5.0
LASTING_S = 24 * 3600.0
"""How long the broker may be away before events are lost that their topic would keep for ever."""

Stop = threading.Event
Positions = dict[Partition, int]


class LiveLoop:
    """Runs one processor: `start` goes through the past, `turn` through what has come since."""

    def __init__(
        self,
        processor: LiveProcessor,
        log: Log,
        patience: Patience | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._processor, self._log, self._clock = processor, log, clock
        self._patience = patience or Patience(processor.name)
        self._keys = {robot.encode() for robot in processor.robots}
        self._next_tick_s = 0.0
        self._outbox = _Outbox(log, processor.name, clock)

    def start(self) -> None:
        """Go through the past that the processor asks for; raises `GaveUp`."""
        positions: Positions = self._patience.until_available("the broker", self._past)
        followed = {i.topic.name for i in self._processor.inputs if not i.past_only}
        self._reader = self._log.live_reader(
            {p: offset for p, offset in positions.items() if p.topic in followed}
        )

    def _past(self) -> Positions:
        first = {
            partition: offset
            for wanted in self._processor.inputs
            for partition, offset in self._first(wanted)
        }
        topics = [wanted.topic.name for wanted in self._processor.inputs]
        reader = self._log.state_reader(first)
        try:
            reader.snapshot(topics)
            while reader.behind(topics):
                for record in reader.poll(_MAX_RECORDS, _POLL_S):
                    known = self._read(record) if self._concerns(record) else None
                    if isinstance(known, Record):
                        self._processor.replay(known)
            return reader.positions()
        finally:
            reader.close()

    def _first(self, wanted: LiveInput) -> Iterator[tuple[Partition, int]]:
        """Where to begin in each partition that has records of these robots."""
        mine = partitions_of(wanted.topic, self._processor.robots)
        for partition, (first, end) in self._log.ends(wanted.topic.name).items():
            if partition.number not in mine:
                continue
            if wanted.rewind_s is None:
                yield partition, first
            elif wanted.rewind_s == 0:
                yield partition, end
            else:
                since_ms = int((wall() - wanted.rewind_s) * 1000)
                yield partition, self._log.offset_at(partition, since_ms)

    def turn(self, wait_s: float = _POLL_S) -> int:
        """Take in what has come, publish what follows; answers how many records there were."""
        try:
            records = self._reader.poll(_MAX_RECORDS, self._until_tick_s(wait_s))
        except LogUnavailable as error:  # nothing to do but go on: silence stops the robot
            logger.debug("%s: %s", self._processor.name, error)
            records = []
        for record in records:
            if self._concerns(record):
                self._outbox.send(self._take(record))
        self._tick()
        self._outbox.serve()
        return len(records)

    def _take(self, record: Record) -> Iterable[Event]:
        match self._read(record):
            case Record() as known:
                yield from self._processor.take(known)
            case letter:
                yield letter

    def _read(self, record: Record) -> Record | DeadLetter:
        """The record with its event, or a dead letter where it is none; raises `GaveUp`."""
        try:
            return replace(record, event=decode(record.partition.topic, record.value))
        except Undecodable as error:
            return dead_letter(Bury(record, "undecodable", str(error)), self._processor.name)
        except NewerSchema as error:
            raise GaveUp(f"{record.at}: {error}, newer than this program: upgrade it") from error

    def _concerns(self, record: Record) -> bool:
        return not is_keyed_by_robot(record.partition.topic) or record.key in self._keys

    def _until_tick_s(self, wait_s: float) -> float:
        if self._processor.tick_ms is None:
            return wait_s
        return max(0.0, min(wait_s, self._next_tick_s - self._clock()))

    def _tick(self) -> None:
        period_ms = self._processor.tick_ms
        now_s = self._clock()
        if period_ms is not None and now_s >= self._next_tick_s:
            self._next_tick_s = max(self._next_tick_s + period_ms / 1000, now_s)
            self._outbox.send(self._processor.tick(now_s * 1000))

    def close(self) -> None:
        """Deliver what is under way, for a second at most, and stop."""
        self._outbox.close()
        self._reader.close()


class _Outbox:
    """Hands events over, and says now and then how many found no room or were given up.

    What a topic keeps for ever is not given up, however long the broker is away; of the rest what
    is late is worth nothing.
    """

    def __init__(self, log: Log, name: str, clock: Callable[[], float]) -> None:
        self._writer, self._name, self._clock = log.live_writer(), name, clock
        self._lasting = log.live_writer(patience_s=LASTING_S)
        self._refused = 0
        self._said = (0, 0)
        self._say_next_s = 0.0

    def send(self, events: Iterable[Event]) -> None:
        for event in events:
            lasts = TOPICS[event.topic].retention_ms == FOR_EVER
            writer = self._lasting if lasts else self._writer
            self._refused += not writer.send(live_message(event))

    def serve(self) -> None:
        self._writer.serve()
        self._lasting.serve()
        counts = (self._refused, self._writer.lost + self._lasting.lost)
        if counts != self._said and self._clock() >= self._say_next_s:
            logger.warning("%s: %d events found no room, %d were given up", self._name, *counts)
            self._said, self._say_next_s = counts, self._clock() + _SAY_EVERY_S

    def close(self) -> None:
        for writer in (self._lasting, self._writer):
            writer.flush(1.0)
            writer.close()


def is_keyed_by_robot(topic: str) -> bool:
    """Whether the key of this topic's records is a robot's id."""
    return all(event.key_field == "robot_id" for event in TOPICS[topic].events)


def partitions_of(topic: Topic, robots: Iterable[str]) -> set[int]:
    """The partitions in which records of these robots lie."""
    if not is_keyed_by_robot(topic.name):
        return set(range(topic.partitions))
    return {partition_for(robot.encode(), topic.partitions) for robot in robots}


def run_live(processor: LiveProcessor, log: Log, stop: Stop, patience_s: float = 60.0) -> None:
    """Run a processor until told to stop; raises `GaveUp` where the log stays away at the start."""
    loop = LiveLoop(processor, log, Patience(processor.name, patience_s))
    loop.start()
    logger.info("%s: running for %s", processor.name, ", ".join(processor.robots))
    try:
        while not stop.is_set():
            loop.turn()
    finally:
        loop.close()
