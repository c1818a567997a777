"""Recordings: frames and truth of a world, served or as fast as it goes.

A recording at full speed is the same, byte by byte, for the same world and seed: its clock begins
at 0, and its wall clock on the first of January 2020.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from producers.robots.frames import FramePacker
from producers.robots.simulation import SimulatedRover, Simulation
from producers.robots.specs import TRUTH_FIELDS
from schemas.acting import Reading, SensorFrame
from schemas.worlds import Point, World

WALL_START_MS = 1_577_836_800_000.0
CRUISE_MPS = 0.6
REACHED_M = 0.3
DRIVE_MS = 50.0
"""Period of the driving; a multiple of it is that of the frames."""

Truth = dict[str, Any]


class Recorder:
    """Packs what robots measure into frames, and writes down where they truly are."""

    def __init__(self, robot_ids: Sequence[str], boot_id: str, frame_hz: float) -> None:
        self._packers = {name: FramePacker(name, boot_id, frame_hz) for name in robot_ids}
        self._truth: list[Truth] = []

    def take(self, robot_id: str, readings: Sequence[Reading]) -> None:
        """These have arrived of this robot."""
        self._packers[robot_id].take(readings)
        for reading in readings:
            if reading.channel == "truth":
                values = zip(TRUTH_FIELDS, reading.values, strict=True)
                at = {"robot_id": robot_id, "stamp_ms": reading.stamp_ms}
                self._truth.append({**at, **dict(values)})

    def frames(self, now_ms: float, wall_ms: float) -> list[SensorFrame]:
        """The frames that are to be closed now."""
        packed = (packer.frame(now_ms, wall_ms) for packer in self._packers.values())
        return [frame for frame in packed if frame is not None]

    def rest(self, now_ms: float, wall_ms: float) -> list[SensorFrame]:
        """What has not been in a frame yet, when nothing more is to come."""
        packed = (packer.close(now_ms, wall_ms) for packer in self._packers.values())
        return [frame for frame in packed if frame.readings]

    def truth(self) -> list[Truth]:
        """The truth since the last call: robot_id, stamp_ms, and the fields of the channel."""
        found, self._truth = self._truth, []
        return found


class Pursuit:
    """Drives a rover from one waypoint to the next, round and round, by the truth; no obstacles.

    It is there to make recordings: the controller of a robot is another.
    """

    def __init__(self, rover: SimulatedRover, waypoints: Sequence[Point]) -> None:
        self._rover, self._waypoints = rover, cycle(waypoints)
        self._next = next(self._waypoints)

    def drive(self, now_ms: float) -> None:
        """Toward the next waypoint: turn to it, the faster the straighter it lies ahead."""
        x, y, heading = self._rover.body.pose()
        if math.dist((x, y), self._next) < REACHED_M:
            self._next = next(self._waypoints)
        bearing = math.atan2(self._next[1] - y, self._next[0] - x) - heading
        off = math.atan2(math.sin(bearing), math.cos(bearing))
        self._rover.apply((CRUISE_MPS * max(0.0, math.cos(off)) ** 2, 2.0 * off), now_ms)


def drivers(simulation: Simulation) -> list[Pursuit]:
    """One for each rover of a world that has waypoints."""
    placed: Mapping[str, Sequence[Point]] = {
        name: rover.waypoints for name, rover in simulation.world.rovers.items()
    }
    return [
        Pursuit(robot, placed[name])
        for name, robot in simulation.robots.items()
        if isinstance(robot, SimulatedRover) and placed[name]
    ]


class Recording:
    """A world at full speed; iterating goes on for so many simulated seconds."""

    def __init__(self, world: World, seconds: float, seed: int | None, frame_hz: float) -> None:
        self.simulation = Simulation(world, seed=seed)
        boot_id = f"recording-{world.seed if seed is None else seed}"
        self._recorder = Recorder(list(self.simulation.robots), boot_id, frame_hz)
        self._drivers, self._frame_ms = drivers(self.simulation), 1000 / frame_hz
        self._until_ms, self.now_ms = seconds * 1000, 0.0

    def __iter__(self) -> Iterator[tuple[list[SensorFrame], list[Truth]]]:
        """What there is after each step of the shorter of both periods."""
        turns, step_ms = 0, min(DRIVE_MS, self._frame_ms / 2)
        while self.now_ms < self._until_ms:
            for driver in self._drivers:
                driver.drive(self.now_ms)
            turns += 1
            self.now_ms = turns * step_ms
            self.simulation.advance(self.now_ms)
            for name, robot in self.simulation.robots.items():
                self._recorder.take(name, robot.arrived(self.now_ms))
            wall_ms = WALL_START_MS + self.now_ms
            yield self._recorder.frames(self.now_ms, wall_ms), self._recorder.truth()
        yield self._recorder.rest(self.now_ms, WALL_START_MS + self.now_ms), []
