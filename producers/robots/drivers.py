"""The drivers `rover` and `arm`: a world of one robot inside this process.

In virtual time, for tests, learning and recordings: `now_ms` is simulated time, which `step` lets
pass, as fast as it goes. With `real_time` each `read` lets pass what has passed on the machine.
MuJoCo is imported by `connect`, so that what a driver is can be asked without it.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from producers.robots.specs import arm_spec, rover_spec
from schemas.acting import Reading
from schemas.base import Strict
from schemas.robot_file import RobotFile
from schemas.robots import DriverError, DriverSpec
from schemas.worlds import Arm, RoverPlacement, World

if TYPE_CHECKING:
    from producers.robots.simulation import Simulation

_ALONE = "robot"


class VirtualDriver:
    """The first robot of a world; the world's other rovers stand where they start."""

    def __init__(
        self, world: World, spec: DriverSpec, robot_id: str, real_time: bool = False
    ) -> None:
        self.spec, self.robot_id = spec, robot_id
        self._world, self._real_time, self._clock_ms = world, real_time, 0.0
        self._simulation: Simulation | None = None

    def connect(self) -> None:
        """Make the world, at its beginning."""
        from producers.robots.simulation import Simulation

        self._clock_ms = time.monotonic() * 1000 if self._real_time else 0.0
        self._simulation = Simulation(self._world, self._clock_ms)

    @property
    def simulation(self) -> "Simulation":
        """The world; raises `DriverError` where it is not connected."""
        if self._simulation is None:
            raise DriverError(f"{self.robot_id}: not connected: call connect() first")
        return self._simulation

    def now_ms(self) -> float:
        """Simulated time, or the machine's with `real_time`."""
        return time.monotonic() * 1000 if self._real_time else self._clock_ms

    def step(self, period_ms: float) -> None:
        """Let simulated time pass."""
        self._clock_ms += period_ms
        self.simulation.advance(self._clock_ms)

    def read(self) -> list[Reading]:
        """What was measured since the last call."""
        if self._real_time:
            self.step(self.now_ms() - self._clock_ms)
        return self.simulation.robots[self.robot_id].arrived(self._clock_ms)

    def apply(self, set_point: Sequence[float]) -> list[float]:
        """Do this from now on, within the limits."""
        robot = self.simulation.robots[self.robot_id]
        try:
            return robot.apply(set_point, self.now_ms())
        except ValueError as error:
            raise DriverError(str(error)) from error

    def close(self) -> None:
        """Let go of the world."""
        self._simulation = None


class RoverDriver(VirtualDriver):
    """The rover of that name in a world, or one in an empty arena."""

    def __init__(
        self, world: World | None = None, robot_id: str | None = None, real_time: bool = False
    ) -> None:
        world = world or World(name="empty", rovers={_ALONE: RoverPlacement(start=(6.0, 6.0, 0.0))})
        robot_id = robot_id or next(iter(world.rovers), _ALONE)
        if robot_id not in world.rovers:
            known = ", ".join(world.rovers) or "none"
            raise DriverError(f"world {world.name} has no rover {robot_id}; there are: {known}")
        super().__init__(world, rover_spec(world.body(robot_id)), robot_id, real_time)

    @classmethod
    def of(cls, robot: RobotFile, robots_dir: Path) -> "RoverDriver":
        """As a robot's file says; raises pydantic.ValidationError, `DriverError`."""
        args = _RoverArgs.model_validate(robot.driver.args)
        world = args.world and _with_gate(args.world, robot)
        return cls(world, robot.robot_id if world else None, args.real_time)


class ArmDriver(VirtualDriver):
    """An arm."""

    def __init__(
        self,
        arm: Arm | None = None,
        robot_id: str = "arm",
        seed: int = 0,
        real_time: bool = False,
        **gate: Any,
    ) -> None:
        world = World(name="arm", seed=seed, arms={robot_id: arm or Arm()}, **gate)
        super().__init__(world, arm_spec(world.arms[robot_id]), robot_id, real_time)

    @classmethod
    def of(cls, robot: RobotFile, robots_dir: Path) -> "ArmDriver":
        """As a robot's file says; raises pydantic.ValidationError."""
        args = _ArmArgs.model_validate(robot.driver.args)
        return cls(args.arm, robot.robot_id, args.seed, args.real_time, **_gate(robot))


class _RoverArgs(Strict):
    world: World | None = None
    real_time: bool = True


class _ArmArgs(Strict):
    arm: Arm = Arm()
    seed: int = 0
    real_time: bool = True


def _gate(robot: RobotFile) -> Mapping[str, float]:
    safety = robot.safety
    timeout_ms = safety.scaled_ms(safety.gate_timeout_ms / 1000)
    return {"gate_timeout_ms": timeout_ms, "brake_mps2": safety.brake_mps2}


def _with_gate(world: World, robot: RobotFile) -> World:
    return world.model_copy(update=dict(_gate(robot)))
