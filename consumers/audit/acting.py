"""The books of the acting loop: frames, states, commands, feedback, releases, safety, results.

Every partition is read once, beside the one that it is held against, so that what is kept is what
is on its way and a few numbers a robot, however long the log is.
"""

from collections.abc import Callable, Iterator

from consumers.audit.acting_commands import CommandBook
from consumers.audit.acting_frames import FrameBook
from consumers.audit.acting_releases import ReleaseBook
from consumers.audit.acting_safety import SafetyBook
from consumers.audit.books import Books
from schemas.acting import Feedback, FusedState, Release, SafetyEvent
from schemas.base import Event
from schemas.missions import RobotMission, RobotMissionResult
from schemas.records import Record
from schemas.topics import COMMANDS, FEEDBACK, FUSED_STATES, RELEASES, SAFETY_EVENTS, Topic
from schemas.topics import SENSOR_FRAMES as FRAMES

Events = Iterator[tuple[Record, Event]]
EventsOf = Callable[[Topic, int], Events]
"""The events of one partition of a topic, in order."""


class Lane:
    """One partition, read only as far as another one needs it."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._next = next(events, None)

    def up_to(self, offset: int) -> Events:
        """What lies before this offset and was not given yet."""
        while self._next is not None and self._next[0].offset < offset:
            yield self._next
            self._next = next(self._events, None)

    def rest(self) -> Events:
        """All that was not given yet."""
        while self._next is not None:
            yield self._next
            self._next = next(self._events, None)


class ActingBook:
    """The books of all robots."""

    def __init__(self, books: Books, events: EventsOf) -> None:
        self._books, self._events = books, events
        self._releases = ReleaseBook(books)
        self._safety = SafetyBook(books)
        self._missions: dict[str, set[str]] = {}
        self._ended: set[tuple[str, str]] = set()

    def mission(self, mission: RobotMission) -> None:
        """Take in a mission for robots."""
        self._missions.setdefault(mission.mission_id, set(mission.robots))

    def has(self, mission_id: str) -> bool:
        """Whether the log has a mission of this id for robots."""
        return mission_id in self._missions

    def read(self) -> None:
        """Read all topics that are keyed by a robot, and judge them."""
        for number in range(RELEASES.partitions):
            for record, event in self._events(RELEASES, number):
                if isinstance(event, Release):
                    self._releases.observe(record, event)
        for number in range(SAFETY_EVENTS.partitions):
            for record, event in self._events(SAFETY_EVENTS, number):
                if isinstance(event, SafetyEvent):
                    self._safety.observe(record, event)
        for number in range(FUSED_STATES.partitions):
            self._read_states(number)
        for number in range(COMMANDS.partitions):
            self._read_commands(number)

    def _read_states(self, number: int) -> None:
        book, frames = FrameBook(self._books, number), Lane(self._events(FRAMES, number))
        for record, event in self._events(FUSED_STATES, number):
            if isinstance(event, FusedState):
                for frame_record, frame in frames.up_to(book.end_of(event)):
                    book.frame(frame_record, frame)
                book.state(record, event)
        for frame_record, frame in frames.rest():
            book.frame(frame_record, frame)
        book.finish()

    def _read_commands(self, number: int) -> None:
        book = CommandBook(self._books, self._releases, number)
        commands = Lane(self._events(COMMANDS, number))
        for record, event in self._events(FEEDBACK, number):
            if isinstance(event, Feedback):
                for command_record, command in commands.up_to(book.end_of(event)):
                    book.command(command_record, command)
                book.feedback(record, event)
        for command_record, command in commands.rest():
            book.command(command_record, command)
        book.finish()

    def result(self, record: Record, result: RobotMissionResult) -> None:
        """Take in how a robot's part of a mission ended."""
        judge = self._books.findings.judge
        key = result.mission_id, result.robot_id
        known = result.robot_id in self._missions.get(result.mission_id, ())
        where = f"{record.at}: robot {result.robot_id} of mission {result.mission_id}"
        judge("robot-mission-known", known, where)
        judge("robot-result-once", key not in self._ended, f"{where} again")
        self._ended.add(key)
        self._books.findings.counts["robot_results"] += 1
