"""The controller of one robot: fused states in, commands out; its missions and its releases.

It is started with an epoch of its own and keeps nothing but caches: missions and how far they are
are in the log, which policy acts is in the robot's folder (`streams.acting.release`). Commands go
on in every mode but TERMINATED, so that a reset after a stop finds a fresh one; what a mode allows
is for the actuator to judge.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence

from schemas.acting import (
    Command,
    Feedback,
    FusedState,
    Mode,
    PolicyRef,
    Release,
    SafetyEvent,
)
from schemas.base import Event, Sources
from schemas.live import LiveInput
from schemas.missions import Patrol, RobotMission
from schemas.records import Record
from schemas.robot_file import RobotFile
from schemas.robots import DriverSpec
from schemas.topics import (
    FEEDBACK,
    FUSED_STATES,
    MISSION_RESULTS,
    MISSIONS,
    RELEASES,
    SAFETY_EVENTS,
)
from streams.acting.control.courses import Course, Courses
from streams.acting.control.observation import Observer
from streams.acting.control.situation import Hearing, Situation
from streams.acting.control.tracker import WaypointTracker, tracker_ref
from streams.acting.release.candidate import Moment
from streams.acting.release.machine import Releases
from streams.learning.control.mlp import Floats

logger = logging.getLogger(__name__)

_FEEDBACK_REWIND_S = 2.0
"""So much of the past says in which mode the robot is."""
_MOVING: tuple[Mode, ...] = ("NORMAL", "DEGRADED")
_SAFE: tuple[Mode, ...] = ("NORMAL", "DEGRADED", "HOLD")


class Controller:
    """Drives one robot; implements `LiveProcessor`."""

    def __init__(
        self, robot: RobotFile, driver: DriverSpec, epoch: int, releases: Releases | None = None
    ) -> None:
        self.name = "controller"
        self.robots: Sequence[str] = (robot.robot_id,)
        self.inputs: Sequence[LiveInput] = _inputs(releases is not None)
        rate_hz = robot.controller.rate_hz
        self.tick_ms: float | None = 1000.0 / rate_hz if rate_hz else None
        self._robot_id, self._spec, self._driver = robot.robot_id, robot.controller, driver
        self._epoch, self._releases = epoch, releases
        self._tracker_ref = tracker_ref(robot.controller)
        self._waypoints: WaypointTracker | None = None
        if robot.controller.tracker == "waypoints":
            self._waypoints = WaypointTracker(robot.controller.steering, driver)
        self._courses = Courses(robot.robot_id)
        self._hearing = Hearing(driver)
        self._observers: dict[tuple[str, ...], Observer] = {}
        self._latest: Situation | None = None
        self._fresh = False
        self._source: Sources = {}
        self._episode: float | None = None
        self._mode: Mode = "NORMAL"
        self._seq = 0
        self._superseded = False

    # -- the log ------------------------------------------------------------------------------

    def replay(self, record: Record) -> None:
        """Missions, results and releases of the past, and the mode that the robot is in."""
        match record.event:
            case Feedback() as feedback:
                self._mode = feedback.mode
            case Release() as release if self._releases:
                self._releases.known(release)
            case FusedState() | SafetyEvent():
                pass
            case _:
                self._courses.observe(record)

    def take(self, record: Record) -> Iterable[Event]:
        """A command for each new state, where no rate is set; else at the next tick."""
        match record.event:
            case FusedState() as state:
                if self._note(state, record) and self.tick_ms is None:
                    yield from self._act()
            case Feedback() as feedback:
                self._heed(feedback)
            case SafetyEvent() as event if self._releases:
                self._releases.note_safety(event)
            case Release() as release if self._releases:
                self._releases.known(release)
                if not self._superseded:
                    yield from self._releases.due()
            case _:
                self.replay(record)

    def tick(self, now_ms: float) -> Iterable[Event]:
        """A command from the newest state, where there has been one since the last."""
        yield from self._act()

    def _note(self, state: FusedState, record: Record) -> bool:
        """Keep a state; False where it is no newer than the one before, as after a repetition."""
        before = self._latest.state if self._latest else None
        if before and before.boot_id == state.boot_id and state.frame_seq <= before.frame_seq:
            return False
        place = str(record.partition)
        first, _ = self._source.get(place, (record.offset, 0))
        self._source[place] = (first, record.offset + 1)
        self._latest, self._fresh = Situation.of(state, self._hearing.silent(state)), True
        return True

    def _heed(self, feedback: Feedback) -> None:
        self._mode = feedback.mode
        newest = feedback.controller_epoch
        if not self._superseded and newest is not None and newest > self._epoch:
            self._superseded = True
            logger.warning("another controller has taken %s over: silent now", self._robot_id)

    # -- acting -------------------------------------------------------------------------------

    def _act(self) -> Iterator[Event]:
        situation, self._fresh, fresh = self._latest, False, self._fresh
        if situation is None or not fresh or self._superseded:
            return
        yield from self._courses.follow(situation)
        course = self._courses.current()
        if course is not None and (reason := self._cannot(course.mission)):
            yield self._courses.close(course, situation, "failed", reason)
            return
        if self._mode == "TERMINATED":
            return
        set_point, ref, released = self._decide(situation, course)
        yield from released
        yield self._command(situation.state, set_point, ref, course)

    def _cannot(self, mission: RobotMission) -> str:
        """Why this robot cannot go on with a mission; empty where it can."""
        if self._mode == "TERMINATED":
            return "the robot was terminated"
        if mission.policy is not None and mission.policy != self._spec.policy:
            follows = self._spec.policy or "none"
            return f"its policy is {mission.policy}, {self._robot_id} follows {follows}"
        return ""

    def _decide(
        self, situation: Situation, course: Course | None
    ) -> tuple[list[float], PolicyRef, list[Release]]:
        """The set-point, which policy it is by, and what is to be said of releases before."""
        goes = course is not None and not course.paused
        learnt = goes and course is not None and course.mission.policy is not None
        released: list[Release] = []
        if self._releases is not None:
            moment = self._moment(situation, course, learnt)
            released = self._releases.step(moment)
            if learnt and not self._releases.wants_rest:
                key = (self._robot_id, self._epoch, self._seq)
                set_point, more = self._releases.action(moment, *key)
                released += more
                if set_point is not None:
                    return set_point, self._releases.ref, released
        return self._track(situation, course if goes else None), self._tracker_ref, released

    def _track(self, situation: Situation, course: Course | None) -> list[float]:
        """What the classical tracker does: rest, where there is nowhere to go."""
        rests = self._releases is not None and self._releases.wants_rest
        if course is None or course.goal is None or self._waypoints is None or rests:
            return list(self._driver.rest)
        assert isinstance(course.part, Patrol)
        return self._waypoints.set_point(situation, course.goal, course.part.speed_mps)

    def _moment(self, situation: Situation, course: Course | None, learnt: bool) -> Moment:
        goal = course.goal if course else None

        def observe(names: Sequence[str]) -> Floats | None:
            key = tuple(names)
            if key not in self._observers:
                self._observers[key] = Observer(key, self._driver)
            return self._observers[key](situation, goal)

        told = situation.held(self._spec.reward_channel) or ()
        reward, episode = (*told, None, None)[:2]
        begins = episode is not None and episode != self._episode
        self._episode = episode
        slow = situation.is_slow(self._spec.release.slow_speed_max)
        is_safe = self._mode in _SAFE and (begins or slow or not learnt)
        return Moment(observe, learnt and self._mode in _MOVING, is_safe, reward)

    def _command(
        self, state: FusedState, set_point: list[float], ref: PolicyRef, course: Course | None
    ) -> Command:
        source, self._source = self._source, {p: (end, end) for p, (_, end) in self._source.items()}
        command = Command(
            robot_id=self._robot_id,
            boot_id=state.boot_id,
            controller_epoch=self._epoch,
            seq=self._seq,
            stamp_ms=state.stamp_ms,
            deadline_ms=state.stamp_ms + self._spec.horizon_ms,
            frame_seq=state.frame_seq,
            set_point=set_point,
            policy=ref,
            mission_id=course.mission.mission_id if course else "",
            source=source,
        )
        self._seq += 1
        return command


def _inputs(with_releases: bool) -> Sequence[LiveInput]:
    inputs = [
        LiveInput(MISSIONS, None),
        LiveInput(MISSION_RESULTS, None),
        LiveInput(FUSED_STATES),
        LiveInput(FEEDBACK, _FEEDBACK_REWIND_S),
        LiveInput(SAFETY_EVENTS),
    ]
    return [*inputs, LiveInput(RELEASES, None)] if with_releases else inputs
