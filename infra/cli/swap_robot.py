"""The robot of `ralo bench swaps`: an arm in virtual time whose log, and controller, are real.

It is the product's own simulated arm and actuator; a state is made of the arm's readings as they
are, for it is not fusion that is tried. Time stands still while no command comes, so a controller
that was killed is missed for a few steps only.
"""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from infra.envelope import message
from infra.log import Log
from schemas.acting import (
    Command,
    ControllerClaim,
    FusedState,
    OperatorOrder,
    Reading,
    Release,
)
from schemas.base import Event
from schemas.partitioner import partition_for
from schemas.records import Partition, Record
from schemas.robot_file import RobotFile
from schemas.topics import COMMANDS, RELEASES, Topic, decode

if TYPE_CHECKING:
    from producers.robots.drivers import ArmDriver

STEP_MS = 20.0
_WAIT_S = 0.1
"""So long a step waits for its command."""
_FUSED = ("joints", "target", "reward")


class SwapRobot:
    """One arm, its actuator, and its topics."""

    def __init__(self, robot: RobotFile, driver: "ArmDriver", log: Log) -> None:
        from streams.acting.actuator import Actuator
        from streams.acting.limits import Limits
        from streams.acting.monitor import SafetyMonitor

        self._robot_id, self._driver = robot.robot_id, driver
        driver.connect()
        at, self._releases = (_partition(topic, robot.robot_id) for topic in (COMMANDS, RELEASES))
        start = {p: log.ends(p.topic)[p][1] for p in (at, self._releases)}
        self._reader, self._writer = log.live_reader(start), log.live_writer()
        monitor = SafetyMonitor(robot.safety, driver.spec)
        limits = Limits(driver.spec, robot.safety.degraded_factor, robot.safety.brake_mps2)
        self._actuator = Actuator(robot.robot_id, "bench", monitor, limits, start[at])
        self._newest: dict[str, Reading] = {}
        self.steps = 0
        self.unanswered = 0

    def step(self) -> list[Release]:
        """Twenty milliseconds of the robot; the releases that came meanwhile."""
        self._driver.step(STEP_MS)
        readings = self._driver.read()
        self._actuator.sense(readings)
        self._newest.update({reading.channel: reading for reading in readings})
        self.steps += 1
        if all(channel in self._newest for channel in _FUSED):
            self._send(self._state())
        found = self._listen()
        now_ms = self._driver.now_ms()
        set_point = self._actuator.step(now_ms, STEP_MS / 1000)
        self._actuator.done(self._driver.apply(set_point), now_ms)
        self._send(self._actuator.feedback(now_ms, time.time() * 1000))
        self._writer.serve()
        return found

    def _state(self) -> FusedState:
        joints, target, reward = (self._newest[channel].values for channel in _FUSED)
        return FusedState(
            robot_id=self._robot_id,
            boot_id="bench",
            stamp_ms=self._driver.now_ms(),
            wall_ms=time.time() * 1000,
            frame_seq=self.steps,
            filter="joints",
            names=["angle_1_rad", "angle_2_rad", "velocity_1_radps", "velocity_2_radps"],
            mean=joints,
            covariance=[],
            held={"target": target, "reward": reward},
            source={},
        )

    def _listen(self) -> list[Release]:
        """Take in what comes until this step's command has, or it is no use to wait."""
        found: list[Release] = []
        until = time.monotonic() + _WAIT_S
        answered = False
        while not answered and time.monotonic() < until:
            for event in self._take(self._reader.poll(100, 0.01)):
                answered |= isinstance(event, Command) and event.frame_seq >= self.steps
                found += [event] if isinstance(event, Release) else []
        self.unanswered += not answered
        return found

    def _take(self, records: Iterable[Record]) -> Iterable[Event]:
        for record in records:
            event = decode(record.partition.topic, record.value)
            if event.key == self._robot_id:
                if isinstance(event, Command | ControllerClaim | OperatorOrder):
                    self._actuator.take(record.offset, event, self._driver.now_ms())
                yield event

    def _send(self, event: Event) -> None:
        self._writer.send(message(event))

    def close(self) -> None:
        """Say the last, and stop."""
        self._send(self._actuator.feedback(self._driver.now_ms(), time.time() * 1000))
        self._writer.flush(5.0)
        self._writer.close()
        self._reader.close()
        self._driver.close()


def _partition(topic: Topic, robot_id: str) -> Partition:
    return Partition(topic.name, partition_for(robot_id.encode(), topic.partitions))
