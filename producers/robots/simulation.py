"""A world as it goes on: its rovers and its arms, each with its gate and its channels.

Time is virtual here: `advance` steps the physics up to the time that it is given.
"""

from collections.abc import Callable, Mapping, Sequence

from producers.robots.arena import Arena, RoverBody
from producers.robots.channels import Channels
from producers.robots.gate import Gate
from producers.robots.reacher import STEP_MS as ARM_STEP_MS
from producers.robots.reacher import Reacher
from producers.robots.specs import arm_spec, clipped, rover_spec
from schemas.acting import Reading
from schemas.robots import DriverSpec
from schemas.worlds import Arm, World

_EARLY_MS = 1e-6


class SimulatedRobot:
    """What all simulated robots share: a set-point goes in by the gate, readings come out."""

    def __init__(self, robot_id: str, spec: DriverSpec, gate: Gate, channels: Channels) -> None:
        self.robot_id, self.spec, self.gate, self._channels = robot_id, spec, gate, channels

    def apply(self, set_point: Sequence[float], now_ms: float) -> list[float]:
        """Do this from now on, within the limits; answers what is done; raises ValueError."""
        done = clipped(self.spec, list(set_point))
        self.gate.heard(done, now_ms)
        return done

    def before_step(self, now_ms: float) -> None:
        """Have the motors do what the gate passes on."""
        raise NotImplementedError

    def after_step(self, now_ms: float) -> None:
        """Measure what is due."""
        self._channels.measure(now_ms)

    def arrived(self, now_ms: float) -> list[Reading]:
        """What has been measured and has arrived since the last call, oldest first per channel."""
        return self._channels.arrived(now_ms)

    def seqs(self) -> dict[str, int]:
        """The number of each channel's next reading."""
        return {channel.spec.name: channel.seq for channel in self._channels.channels}


class SimulatedRover(SimulatedRobot):
    """A rover in an arena."""

    def __init__(self, robot_id: str, arena: Arena, body: RoverBody, seed: int) -> None:
        self.body, world = body, arena.world
        half_track = body.body.track_m / 2

        def fastest_wheel(set_point: Sequence[float]) -> float:
            return abs(set_point[0]) + abs(set_point[1]) * half_track

        spec = rover_spec(body.body)
        sensors = {c.name: getattr(body.body.sensors, c.name) for c in spec.channels}
        true: dict[str, Callable[[int], Sequence[float]]] = {
            "imu": lambda seq: body.imu(),
            "odometry": lambda seq: body.odometry(),
            "position": lambda seq: body.pose()[:2],
            "pose": lambda seq: body.pose(),
            "scan": lambda seq: body.scan(),
            "truth": lambda seq: (*body.pose(), *body.twist()),
            "contact": lambda seq: (body.contacts,),
            "range": self._range,
        }
        self._beacons = list(world.beacons.items())
        if not self._beacons:
            del true["range"]
        gate = Gate(spec.rest, world.gate_timeout_ms, world.brake_mps2, fastest_wheel)
        channels = Channels.of(spec, sensors, true, seed, robot_id)
        super().__init__(robot_id, spec, gate, channels)

    def _range(self, seq: int) -> Sequence[float]:
        """One beacon after the other."""
        number, (bx, by) = self._beacons[seq % len(self._beacons)]
        x, y, _ = self.body.pose()
        return int(number), ((x - bx) ** 2 + (y - by) ** 2) ** 0.5

    def before_step(self, now_ms: float) -> None:
        """Turn the wheels."""
        self.body.drive(*self.gate.passes(now_ms))


class SimulatedArm(SimulatedRobot):
    """An arm, which is all of its physics.

    A torque waits for the next of Reacher's steps: so the arm is the environment whose actions take
    effect one step late, and its rewards are Reacher's. Only the gate's rest does not wait.
    """

    def __init__(self, robot_id: str, arm: Arm, world: World, seed: int) -> None:
        self.reacher = reacher = Reacher(arm, seed, robot_id)
        spec = arm_spec(arm)
        true: dict[str, Callable[[int], Sequence[float]]] = {
            "joints": lambda seq: reacher.joints(),
            "target": lambda seq: reacher.target(),
            "reward": lambda seq: (reacher.reward, reacher.rewarded_episode),
        }
        sensors = {c.name: getattr(arm.sensors, c.name) for c in spec.channels}
        self._torques: Sequence[float] = spec.rest
        channels = Channels.of(spec, sensors, true, seed, robot_id)
        super().__init__(robot_id, spec, Gate(spec.rest, world.gate_timeout_ms), channels)

    def before_step(self, now_ms: float) -> None:
        """Move by the torques; this is the step itself."""
        if self.reacher.between or self.gate.silent(now_ms):
            self._torques = self.gate.passes(now_ms)
        self.reacher.step(self._torques)


class _Plant:
    """Robots that share one physics."""

    def __init__(self, step_ms: float, robots: Sequence[SimulatedRobot], arena: Arena | None):
        self.step_ms, self.robots, self._arena, self.count = step_ms, robots, arena, 0

    def step(self, origin_ms: float) -> None:
        before = origin_ms + self.count * self.step_ms
        for robot in self.robots:
            robot.before_step(before)
        if self._arena is not None:
            self._arena.step()
        self.count += 1
        for robot in self.robots:
            robot.after_step(origin_ms + self.count * self.step_ms)


class Simulation:
    """A world with all its robots; `origin_ms` is when it begins."""

    def __init__(self, world: World, origin_ms: float = 0.0, seed: int | None = None) -> None:
        self.world, self.origin_ms = world, origin_ms
        seed, plants = world.seed if seed is None else seed, list[_Plant]()
        if world.rovers:
            self.arena = Arena(world)
            self.arena.settle()
            rovers = [
                SimulatedRover(name, self.arena, body, seed)
                for name, body in self.arena.rovers.items()
            ]
            plants.append(_Plant(self.arena.step_ms, rovers, self.arena))
        for name, arm in world.arms.items():
            plants.append(_Plant(ARM_STEP_MS, [SimulatedArm(name, arm, world, seed)], None))
        self._plants = plants
        self.robots: Mapping[str, SimulatedRobot] = {
            robot.robot_id: robot for plant in plants for robot in plant.robots
        }
        self.step_ms = min(plant.step_ms for plant in plants)

    @property
    def steps(self) -> int:
        """Steps of physics so far, of all plants."""
        return sum(plant.count for plant in self._plants)

    def advance(self, until_ms: float) -> None:
        """Step each plant up to this time, and not beyond it."""
        for plant in self._plants:
            while self.origin_ms + (plant.count + 1) * plant.step_ms <= until_ms + _EARLY_MS:
                plant.step(self.origin_ms)

    def skip(self, lost_ms: float) -> None:
        """Have the rest of the world go on so much later: nothing moves meanwhile."""
        self.origin_ms += lost_ms
