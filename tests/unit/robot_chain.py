"""Robots whose fusion, controller and actuator are called in turn, in a world in virtual time."""

from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path

import yaml

from infra.robots import read_robot
from producers.robots.frames import FramePacker
from producers.robots.simulation import Simulation
from schemas.acting import (
    Command,
    CommandOutcome,
    Feedback,
    FusedState,
    Release,
    SafetyEvent,
    SensorFrame,
)
from schemas.base import Event
from schemas.missions import RobotMission, RobotMissionReport, RobotMissionResult
from schemas.records import Partition, Record
from schemas.robot_file import RobotFile
from schemas.worlds import World
from streams.acting.actuator import Actuator
from streams.acting.control.controller import Controller
from streams.acting.fusion import SensorFusion
from streams.acting.limits import Limits
from streams.acting.monitor import SafetyMonitor
from streams.acting.release.machine import Releases

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PERIOD_MS = 5.0


def example_world(name: str) -> World:
    return World.model_validate(yaml.safe_load((EXAMPLES / "worlds" / f"{name}.yaml").read_text()))


def example_mission(name: str) -> RobotMission:
    document = yaml.safe_load((EXAMPLES / "missions" / f"{name}.yaml").read_text())
    return RobotMission.model_validate({"mission_id": name, **document})


def example_robot(kind: str, robot_id: str) -> RobotFile:
    robot = read_robot(EXAMPLES / "robots" / f"{kind}.yaml")
    return robot.model_copy(update={"robot_id": robot_id})


class ChainedRobot:
    """One robot; a command takes effect `delay_ms` after its state's frame."""

    def __init__(
        self,
        robot: RobotFile,
        simulation: Simulation,
        releases: Releases | None = None,
        delay_ms: float = 10.0,
    ) -> None:
        self.body = simulation.robots[robot.robot_id]
        self._fusion = SensorFusion({robot.robot_id: robot.fusion})
        self._controller = Controller(robot, self.body.spec, 0, releases)
        monitor = SafetyMonitor(robot.safety, self.body.spec)
        limits = Limits(self.body.spec, robot.safety.degraded_factor, robot.safety.brake_mps2)
        self.actuator = Actuator(robot.robot_id, "b", monitor, limits, 0)
        self._packer = FramePacker(robot.robot_id, "b", robot.frame_hz)
        self._delay_ms, self._offsets = delay_ms, {topic: count(1) for topic in _TOPICS}
        self._on_their_way: list[tuple[float, Record]] = []
        self.said: list[Event] = []
        self.outcomes: list[CommandOutcome] = []
        self.newest: FusedState | None = None

    def tell(self, event: Event, wall_ms: float = 0.0) -> None:
        """Something that the controller reads in the log."""
        for said in self._controller.take(self._record(event, wall_ms)):
            self._publish(said, wall_ms)

    def period(self, now_ms: float) -> None:
        """One period of the control loop."""
        readings = self.body.arrived(now_ms)
        self.actuator.sense(readings)
        while self._on_their_way and self._on_their_way[0][0] <= now_ms:
            record = self._on_their_way.pop(0)[1]
            assert isinstance(record.event, Command)
            self.actuator.take(record.offset, record.event, now_ms)
        set_point = self.actuator.step(now_ms, PERIOD_MS / 1000)
        self.actuator.done(self.body.apply(set_point, now_ms), now_ms)
        self._packer.take(readings)
        if frame := self._packer.frame(now_ms, now_ms):
            self._follow(frame, now_ms)

    def _follow(self, frame: SensorFrame, now_ms: float) -> None:
        feedback = self.actuator.feedback(now_ms, now_ms)
        self.outcomes += feedback.outcomes
        for event in (feedback, *self._fusion.take(self._record(frame, now_ms))):
            if isinstance(event, FusedState):
                self.newest = event
            for said in self._controller.take(self._record(event, now_ms)):
                if isinstance(said, Command):
                    due_ms = now_ms + self._delay_ms
                    self._on_their_way.append((due_ms, self._record(said, now_ms)))
                else:
                    self._publish(said, now_ms)

    def _publish(self, event: Event, wall_ms: float) -> None:
        """What the controller says is on the log, where it reads its releases back."""
        self.said.append(event)
        if isinstance(event, Release):
            self.tell(event, wall_ms)

    def _record(self, event: Event, wall_ms: float) -> Record:
        partition = Partition(event.topic, 0)
        offset = next(self._offsets[event.topic])
        return Record(partition, offset, None, None, {}, int(wall_ms), event)


_TOPICS = {
    kind.topic
    for kind in (
        Command,
        Feedback,
        FusedState,
        Release,
        SafetyEvent,
        SensorFrame,
        RobotMission,
        RobotMissionReport,
        RobotMissionResult,
    )
}


def run(
    simulation: Simulation, robots: Mapping[str, ChainedRobot], seconds: float
) -> Iterable[float]:
    """Let time pass for all of them; yields it, in milliseconds, after each second."""
    for step in range(1, int(seconds * 1000 / PERIOD_MS) + 1):
        now_ms = step * PERIOD_MS
        simulation.advance(now_ms)
        for robot in robots.values():
            robot.period(now_ms)
        if now_ms % 1000 == 0:
            yield now_ms
