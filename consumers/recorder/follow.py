"""Follows topics of the log into a recording, until told to stop."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from consumers.read import decoded
from consumers.recorder.entries import EPOCH_LIMIT_MS, entry_of
from consumers.recorder.recording import Recording
from consumers.recorder.views import Views
from infra.log import Log, LogUnavailable
from schemas.base import Event
from schemas.missions import MissionControl, RobotMission, RobotMissionResult
from schemas.records import Partition, Record
from schemas.topics import (
    COMMANDS,
    FEEDBACK,
    FUSED_STATES,
    MISSION_RESULTS,
    MISSIONS,
    RELEASES,
    SAFETY_EVENTS,
    SENSOR_FRAMES,
)

ACTING = (
    SENSOR_FRAMES,
    FUSED_STATES,
    COMMANDS,
    FEEDBACK,
    SAFETY_EVENTS,
    RELEASES,
    MISSIONS,
    MISSION_RESULTS,
)
"""What is recorded by default."""

_OF_ALL = (MISSIONS.name, MISSION_RESULTS.name)
"""Topics that hold the missions of learners too."""

FLUSH_EVERY_S = 0.25
_POLL_S = 0.1
_MAX_RECORDS = 1000

Report = Callable[["Recorder"], None]


@dataclass
class Wanted:
    """Which events are recorded: of these robots, or of all; and where their mission ends."""

    robots: frozenset[str] | None = None
    mission: RobotMission | None = None
    learners: bool = False
    """Missions of learners too, which are no part of what robots do."""

    def __contains__(self, event: Event) -> bool:
        if isinstance(event, MissionControl):
            return self.mission is None or event.mission_id == self.mission.mission_id
        robots = robots_of(event)
        if self.robots is None:
            return bool(robots) or self.learners or event.topic not in _OF_ALL
        return not self.robots.isdisjoint(robots)


def robots_of(event: Event) -> set[str]:
    """The robots that an event is about."""
    if isinstance(event, RobotMission):
        return set(event.robots)
    robot_id = getattr(event, "robot_id", None)
    return set() if robot_id is None else {robot_id}


@dataclass
class Recorder:
    """Writes records as they come; `counts` and the rest are what its summary says."""

    recording: Recording
    views: Views
    wanted: Wanted = field(default_factory=Wanted)
    clock: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], float] = lambda: time.time() * 1000
    events: Counter[str] = field(default_factory=Counter)
    """Recorded, by type."""
    undecodable: list[str] = field(default_factory=list)
    """Where the records lie that are no events."""
    ended: set[str] = field(default_factory=set)
    """Robots whose part of the mission has a result."""
    _flushed_s: float = 0.0

    def take(self, record: Record) -> None:
        """Write what a record holds and what can be drawn of it."""
        if record.timestamp_ms <= EPOCH_LIMIT_MS:
            record = replace(record, timestamp_ms=int(self.wall_ms()))
        known = decoded(record)
        if known.event is None:
            self.undecodable.append(record.at)
        elif known.event in self.wanted:
            self._write(known, known.event)

    def _write(self, record: Record, event: Event) -> None:
        self.recording.write(entry_of(record, event))
        for entry in self.views.of(record, event):
            self.recording.write(entry)
        self.events[event.type] += 1
        mission = self.wanted.mission
        of_it = mission is not None and getattr(event, "mission_id", "") == mission.mission_id
        if of_it and isinstance(event, RobotMissionResult):
            self.ended.add(event.robot_id)

    def turn(self, records: Iterable[Record]) -> None:
        """Take records, and put them on the disk when it is time."""
        for record in records:
            self.take(record)
            self._flush()
        self._flush()

    def _flush(self) -> None:
        if self.clock() - self._flushed_s >= FLUSH_EVERY_S:
            self.recording.flush()
            self._flushed_s = self.clock()

    def is_through(self) -> bool:
        """Whether the mission that is recorded has ended for all of its robots."""
        mission = self.wanted.mission
        return mission is not None and self.ended >= set(mission.robots)


def follow(
    recorder: Recorder,
    log: Log,
    start: Mapping[Partition, int],
    stop: Callable[[], bool],
    once: bool = False,
    report: Report = lambda recorder: None,
) -> None:
    """Record from these offsets on until `stop` says so, or, `once`, to the end as of now.

    A broker that does not answer is waited for. Raises `OffsetLost` where retention was faster.
    """
    reader = log.state_reader(start)
    topics = sorted({partition.topic for partition in start})
    try:
        if once:
            reader.snapshot(topics)
        while not stop() and not recorder.is_through() and (not once or reader.behind(topics)):
            try:
                records = reader.poll(_MAX_RECORDS, _POLL_S)
            except LogUnavailable:
                records = []  # It may come back; what came so far is kept.
            recorder.turn(records)
            report(recorder)
    finally:
        reader.close()


def beginnings(log: Log, topics: Iterable[str], since_ms: float | None) -> dict[Partition, int]:
    """Where to begin in each partition: at a time of day, at the first (0) or at the end (None)."""
    return {
        partition: offset for topic in topics for partition, offset in _begin(log, topic, since_ms)
    }


def _begin(log: Log, topic: str, since_ms: float | None) -> Iterator[tuple[Partition, int]]:
    for partition, (first, end) in log.ends(topic).items():
        if since_ms is None:
            yield partition, end
        elif since_ms <= 0 or first == end:
            yield partition, first
        else:
            yield partition, log.offset_at(partition, int(since_ms))
