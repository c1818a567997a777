"""The missions of one robot, one after another as the log has them, and how far it is in each.

All of it is in the log: a controller that starts anew finds a patrol where its newest
`RobotMissionReport` says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot
from typing import Literal

from schemas.base import Event
from schemas.missions import (
    MissionControl,
    Patrol,
    Reach,
    RobotMission,
    RobotMissionReport,
    RobotMissionResult,
)
from schemas.records import Record
from streams.acting.control.situation import Situation

GAP_MAX_S = 1.0
"""What was driven while no state came for longer is not known."""


@dataclass
class Course:
    """One robot's part of one mission."""

    mission: RobotMission
    part: Patrol | Reach
    since_ms: float
    waypoints: int = 0
    distance_m: float = 0.0
    paused: bool = False
    ended: tuple[Literal["done", "cancelled"], str] | None = None
    _stamp_ms: float | None = None

    @property
    def goal(self) -> tuple[float, float] | None:
        """The waypoint to go to; None where there is none (any more)."""
        if not isinstance(self.part, Patrol) or self.waypoints >= self.total:
            return None
        return self.part.waypoints[self.waypoints % len(self.part.waypoints)]

    @property
    def total(self) -> int:
        """Waypoints to be reached in all."""
        return len(self.part.waypoints) * self.part.laps if isinstance(self.part, Patrol) else 0

    def advance(self, situation: Situation) -> bool:
        """Note where the robot is; whether it has come to waypoints by that.

        The way is the sum of its speeds: a sum of positions would count their noise.
        """
        stamp_ms, speed_mps = situation.state.stamp_ms, situation.values.get("v_mps", 0.0)
        gap_s = (stamp_ms - self._stamp_ms) / 1000 if self._stamp_ms is not None else 0.0
        if 0 < gap_s <= GAP_MAX_S:
            self.distance_m += abs(speed_mps) * gap_s
        self._stamp_ms, before = stamp_ms, self.waypoints
        while self._is_there(situation):
            self.waypoints += 1
        return self.waypoints > before

    def _is_there(self, situation: Situation) -> bool:
        """Whether the next waypoint is reached, as far as the robot can know."""
        goal, pose = self.goal, situation.pose
        if goal is None or pose is None:
            return False
        assert isinstance(self.part, Patrol)
        near_m = self.part.tolerance_m
        away_m = hypot(goal[0] - pose[0], goal[1] - pose[1])
        return away_m <= near_m and situation.position_std_m <= near_m


class Courses:
    """All missions of one robot."""

    def __init__(self, robot_id: str) -> None:
        self._robot_id = robot_id
        self._courses: dict[str, Course] = {}
        self._over: set[str] = set()

    def observe(self, record: Record) -> None:
        """Take a record of `missions` or `mission-results` in."""
        match record.event:
            case RobotMission() as mission if self._robot_id in mission.robots:
                part = mission.robots[self._robot_id]
                course = Course(mission, part, record.timestamp_ms)
                self._courses.setdefault(mission.mission_id, course)
            case MissionControl(mission_id=id_) as order if id_ in self._courses:
                self._obey(self._courses[id_], order)
            case RobotMissionReport() as report if self._is_mine(report):
                course = self._courses[report.mission_id]
                course.waypoints = max(course.waypoints, report.waypoints)
                course.distance_m = max(course.distance_m, report.distance_m)
            case RobotMissionResult() as result if result.robot_id == self._robot_id:
                self._over.add(result.mission_id)

    def _is_mine(self, report: RobotMissionReport) -> bool:
        return report.robot_id == self._robot_id and report.mission_id in self._courses

    @staticmethod
    def _obey(course: Course, order: MissionControl) -> None:
        match order.action:
            case "pause" | "resume":
                course.paused = order.action == "pause"
            case "cancel":
                course.ended = course.ended or ("cancelled", order.reason)
            case "end":
                course.ended = course.ended or ("done", order.reason)

    def current(self) -> Course | None:
        """The first mission that is not over."""
        return next((c for id_, c in self._courses.items() if id_ not in self._over), None)

    def follow(self, situation: Situation) -> Iterator[Event]:
        """Note a new state; what there is to be said of the missions because of it."""
        while (course := self.current()) is not None:
            if course.ended is not None:
                yield self.close(course, situation, *course.ended)
                continue
            if isinstance(course.part, Reach):
                age_s = self._age_s(course, situation)
                if course.part.seconds is None or age_s < course.part.seconds:
                    return
                yield self.close(course, situation, "done", "its time is over")
                continue
            if situation.pose is None:
                yield self.close(course, situation, "failed", "a patrol needs a pose: fuse one")
                continue
            if not course.paused and course.advance(situation):
                yield self._report(course)
            if course.waypoints < course.total:
                return
            yield self.close(course, situation, "done", "")

    def close(
        self,
        course: Course,
        situation: Situation,
        outcome: Literal["done", "cancelled", "failed"],
        reason: str,
    ) -> RobotMissionResult:
        """The one closing event of a course; the next mission is the current one then."""
        self._over.add(course.mission.mission_id)
        return RobotMissionResult(
            mission_id=course.mission.mission_id,
            robot_id=self._robot_id,
            outcome=outcome,
            reason=reason,
            waypoints=course.waypoints,
            distance_m=round(course.distance_m, 3),
            seconds=round(self._age_s(course, situation), 3),
        )

    def _report(self, course: Course) -> RobotMissionReport:
        return RobotMissionReport(
            mission_id=course.mission.mission_id,
            robot_id=self._robot_id,
            waypoints=course.waypoints,
            distance_m=round(course.distance_m, 3),
        )

    @staticmethod
    def _age_s(course: Course, situation: Situation) -> float:
        return max(0.0, (situation.state.wall_ms - course.since_ms) / 1000)
