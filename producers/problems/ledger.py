"""What the log says of missions and of the problems on their way; the provider's whole memory.

Everything here is rebuilt by reading `missions`, `problems`, `weight-versions` and `dead-letters`.
Counts are kept, never ids: what is in flight is what was emitted less what was accounted for.
"""

import base64
from dataclasses import dataclass, field

from schemas.learning import (
    DeadLetter,
    DeadLetterResolution,
    Problem,
    SampleGroup,
    UploadsRefused,
    WeightVersion,
)
from schemas.missions import Mission, MissionControl, MissionReport, RobotMission
from schemas.records import Partition, Record
from schemas.tensors import ObjectRef
from schemas.topics import MISSIONS, PROBLEMS, SAMPLES, NewerSchema, Undecodable, decode

Files = dict[str, ObjectRef]


@dataclass(frozen=True)
class Base:
    """The model that a policy's version 0 is, as it is stored.

    It has no `shards` where the log does not say: a policy with versions but no prepared mission.
    """

    files: Files
    shards: Files = field(default_factory=dict)


@dataclass
class Course:
    """One mission and how far it has come."""

    mission: Mission
    at: str
    offset: int
    prepared: MissionReport | None = None
    rejected: bool = False
    drained: bool = False
    paused: bool = False
    ended: bool = False
    """`end` or `cancel` was asked for."""
    announced: set[str] = field(default_factory=set)
    """Stages reported by this instance and not read back yet."""

    @property
    def answered(self) -> bool:
        """Whether the provider has said if this mission can run."""
        return self.prepared is not None or self.rejected

    @property
    def finished(self) -> bool:
        """Whether nothing more will come of it."""
        return self.drained or (self.rejected and self.prepared is None)


@dataclass
class Flow:
    """One policy: its missions in log order and its problems on their way.

    Missions of a policy are fed strictly one after the other, so its problems need no telling
    apart: what any version accounts for is the current mission's.
    """

    queue: list[Course] = field(default_factory=list)
    """Missions that are not finished."""
    observed: int = 0
    """Records read from `problems`."""
    pending: set[tuple[str, int]] = field(default_factory=set)
    """(mission, index) emitted by this instance and not read back yet."""
    accounted: int = 0
    dead: set[str] = field(default_factory=set)
    again: int = 0
    """Dead samples requeued: their uploads have accounted for them, and others will once more."""
    base: Course | None = None
    """The mission that the policy's model was made for."""
    head: WeightVersion | None = None
    _observed_next: dict[str, int] = field(default_factory=dict)
    _emitted_next: dict[str, int] = field(default_factory=dict)

    @property
    def in_flight(self) -> int:
        """Problems emitted and neither learnt from, dropped, refused nor dead."""
        emitted = self.observed + len(self.pending)
        return max(0, emitted + self.again - self.accounted - len(self.dead))

    def next_of(self, mission_id: str) -> int:
        """The index of the mission's next problem, so also how many it has had."""
        return max(self._observed_next.get(mission_id, 0), self._emitted_next.get(mission_id, 0))

    def emitted(self, mission_id: str, index: int) -> None:
        """Count a problem that this instance emits, before it is read back."""
        self.pending.add((mission_id, index))
        self._emitted_next[mission_id] = index + 1

    def read_back(self, problem: Problem) -> None:
        """Count a record of `problems`; one requeued by an operator is on its way once more."""
        id_ = problem.mission_id
        self.observed += 1
        self.pending.discard((id_, problem.index))
        self._observed_next[id_] = max(self._observed_next.get(id_, 0), problem.index + 1)

    def forget_unread(self) -> None:
        """Drop what was emitted and not read back."""
        self.pending.clear()
        self._emitted_next.clear()

    @property
    def model(self) -> Base | None:
        """What every mission of the policy begins from; None before there is anything."""
        if self.base is not None and self.base.prepared is not None:
            return Base(self.base.prepared.base_files, self.base.prepared.base_shards)
        return Base(self.head.files) if self.head else None

    def stopped(self, course: Course) -> bool:
        """Whether the course gets no more problems."""
        limit = course.mission.budget.problems
        spent = limit is not None and self.next_of(course.mission.mission_id) >= limit
        return course.ended or course.rejected or spent

    def current(self) -> Course | None:
        """The mission to feed: the one that has begun, else the first that may begin.

        A mission that was paused after it began keeps its place, or problems of two missions
        would be on their way at once.
        """
        prepared = [c for c in self.queue if c.prepared]
        begun = (c for c in prepared if self.next_of(c.mission.mission_id))
        return next(begun, None) or next((c for c in prepared if not c.paused), None)


class Ledger:
    """All missions and policies, as far as the log was read."""

    def __init__(self) -> None:
        self.courses: dict[str, Course] = {}
        self.flows: dict[str, Flow] = {}
        self._of_robots: dict[str, int] = {}
        """Where missions for robots lie: an order for one of them is no mistake."""
        self._deadly: dict[str, str] = {}
        """Where records of `missions` lay that killed the provider, and what was said of it."""
        self._read: dict[Partition, int] = {}

    def flow(self, policy: str) -> Flow:
        """The policy's flow, empty at first."""
        return self.flows.setdefault(policy, Flow())

    def knew(self, mission_id: str, record: Record) -> bool:
        """Whether the mission was in the log before this record of `missions`."""
        course = self.courses.get(mission_id)
        offset = course.offset if course else self._of_robots.get(mission_id)
        return offset is not None and offset < record.offset

    def condemned(self, flow: Flow) -> list[tuple[Course, str]]:
        """The policy's missions that nobody will prepare, for they kill the provider; and why."""
        waiting = (c for c in flow.queue if not c.answered and not c.announced)
        return [(c, self._deadly[c.at]) for c in waiting if c.at in self._deadly]

    def has_read(self, record: Record) -> bool:
        """Whether everything up to and including this record was observed."""
        return self._read.get(record.partition, 0) > record.offset

    def forget_unread(self) -> None:
        """Drop what this instance emitted and did not read back: it may have been aborted."""
        for flow in self.flows.values():
            flow.forget_unread()
        for course in self.courses.values():
            course.announced.clear()

    def observe(self, record: Record) -> None:
        """Take in one record; one that was read before has no effect."""
        if self.has_read(record):
            return
        self._read[record.partition] = record.offset + 1
        match record.event:
            case Mission() as mission:
                self._mission(mission, record)
            case RobotMission() as mission:
                self._of_robots.setdefault(mission.mission_id, record.offset)
            case MissionControl() as control:
                self._control(control)
            case MissionReport() as report:
                self._report(report)
            case Problem() as problem:
                self.flow(problem.policy).read_back(problem)
            case WeightVersion() | UploadsRefused() as event:
                self._accounted(event)
            case DeadLetter() as letter:
                self._dead(letter)
            case DeadLetterResolution(action="requeued", policy=str(policy)) as resolution:
                self.flow(policy).again += resolution.origin.startswith(f"{SAMPLES.name}[")

    def _mission(self, mission: Mission, record: Record) -> None:
        if mission.mission_id not in self.courses:
            course = self.courses[mission.mission_id] = Course(mission, record.at, record.offset)
            self.flow(mission.policy).queue.append(course)

    def _control(self, control: MissionControl) -> None:
        course = self.courses.get(control.mission_id)
        if course is None:
            return
        if control.action in ("pause", "resume"):
            course.paused = control.action == "pause"
        else:
            course.ended = True

    def _report(self, report: MissionReport) -> None:
        course = self.courses.get(report.mission_id)
        if course is None:
            return
        course.announced.discard(report.stage)
        flow = self.flow(course.mission.policy)
        match report.stage:
            case "prepared":
                course.prepared = course.prepared or report
                if flow.base is None and report.base_files:
                    flow.base = course
            case "rejected":
                course.rejected = True
            case "drained":
                course.drained = True
        if course.finished and course in flow.queue:
            flow.queue.remove(course)

    def _accounted(self, event: WeightVersion | UploadsRefused) -> None:
        flow = self.flow(event.policy)
        flow.accounted = max(flow.accounted, event.totals.groups)
        if isinstance(event, WeightVersion):
            flow.head = event

    def _dead(self, letter: DeadLetter) -> None:
        if letter.origin_topic == MISSIONS.name and letter.reason == "deadly":
            self._deadly[letter.at] = letter.detail
        # What kills a trainer is tried alone, so it is in no upload, which would account for it.
        in_no_upload = letter.origin_topic == SAMPLES.name and letter.reason == "deadly"
        if letter.origin_topic != PROBLEMS.name and not in_no_upload:
            return
        try:
            event = decode(letter.origin_topic, base64.b64decode(letter.value_base64))
        except (Undecodable, NewerSchema, ValueError):
            return  # It was no problem, so it was never counted as one on its way.
        if isinstance(event, Problem | SampleGroup):
            self.flow(event.policy).dead.add(letter.at)
