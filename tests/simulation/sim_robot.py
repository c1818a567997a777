"""A robot in virtual time: a body with two numbers for a set-point, its gate and its sensors."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from sim_world import Life, World

from producers.robots.gate import Gate
from schemas.acting import Reading
from schemas.control import ControllerSpec
from schemas.fusion import FusedChannel, FusionSpec
from schemas.robot_file import RobotFile
from schemas.robots import ChannelSpec, DriverChoice, DriverSpec, SetPointField
from schemas.safety import SafetySpec

ROBOT = "r1"
SPEC = DriverSpec(
    name="simulated",
    channels=[
        ChannelSpec(name="odometry", kind="odometry", fields=["v_mps", "w_radps"], rate_hz=20),
        ChannelSpec(name="position", kind="position", fields=["x_m", "y_m"], rate_hz=20),
    ],
    set_point=[
        SetPointField(name="v_mps", low=-0.5, high=1.0, rate_max=2.0),
        SetPointField(name="yaw_rate_radps", low=-2.0, high=2.0),
    ],
    rest=[0.0, 0.0],
)
FILE = RobotFile(
    robot_id=ROBOT,
    driver=DriverChoice(name="simulated"),
    control_hz=100,
    frame_hz=8,
    feedback_hz=8,
    fusion=FusionSpec(
        channels={
            "odometry": FusedChannel(kind="odometry", std=[0.1, 0.1]),
            "position": FusedChannel(kind="position", std=[0.1]),
        },
        initial_std={"x_m": 0.2, "y_m": 0.2, "heading_rad": 0.2},
    ),
    controller=ControllerSpec(tracker="waypoints", horizon_ms=400),
    safety=SafetySpec(load="dedicated"),
)
PERIOD_S = 0.01
_MEASURE_S = 0.05


class Body:
    """What moves, and goes on moving whoever dies."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.boots = itertools.count(1)
        self.gate = Gate(SPEC.rest, FILE.safety.gate_timeout_ms, speed=lambda s: abs(s[0]))
        self.x_m = self.y_m = self.heading_rad = 0.0
        self.measured = itertools.count()
        self.moving_alone_s = self.obeyed_s = 0.0
        self._late: list[Reading] = []
        self._next_s = 0.0
        self._then_s = world.time.now_s

    def now_ms(self) -> float:
        """The robot's clock, which begins anew with no process."""
        return self.world.time.now_s % 1e6 * 1000

    def goes(self) -> Sequence[float]:
        """What its motors do now."""
        return self.gate.passes(self.now_ms())

    def advance(self) -> None:
        """Let it move up to now."""
        passed_s, self._then_s = self.world.time.now_s - self._then_s, self.world.time.now_s
        v_mps, w_radps = self.goes()
        self.x_m += v_mps * math.cos(self.heading_rad) * passed_s
        self.y_m += v_mps * math.sin(self.heading_rad) * passed_s
        self.heading_rad += w_radps * passed_s

    def readings(self) -> list[Reading]:
        """What its sensors say; some of it comes late, and so behind what is newer."""
        if self.world.time.now_s < self._next_s:
            return []
        self._next_s = self.world.time.now_s + _MEASURE_S
        at_ms, come = self.now_ms(), self._late
        self._late = []
        for channel, values in (
            ("odometry", [*map(float, self.goes())]),
            ("position", [self.x_m, self.y_m]),
        ):
            one = Reading(channel=channel, seq=next(self.measured), stamp_ms=at_ms, values=values)
            late = self.world.storm and self.world.random.random() < 0.1
            (self._late if late else come).append(one)
        return come


class BodyDriver:
    """The body as one actuator sees it; see `schemas.robots.Driver`."""

    spec = SPEC

    def __init__(self, body: Body, life: Life) -> None:
        self._body, self._life = body, life

    def connect(self) -> None:
        """It is there."""

    def now_ms(self) -> float:
        return self._body.now_ms()

    def read(self) -> list[Reading]:
        self._body.advance()
        return self._body.readings()

    def apply(self, set_point: Sequence[float]) -> list[float]:
        self._life.at("apply", often=True)
        for value, field in zip(set_point, SPEC.set_point, strict=True):
            if not field.low <= value <= field.high:
                self._body.world.breach(f"{field.name} is set to {value}")
        self._body.gate.heard(set_point, self.now_ms())
        return list(set_point)

    def close(self) -> None:
        """Nothing to do."""
