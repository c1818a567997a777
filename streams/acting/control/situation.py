"""What a controller makes of a fused state: where the robot is, how fast, what it holds."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from math import cos, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from schemas.acting import FusedState
from schemas.robots import DriverSpec

Points = NDArray[np.float64]
"""Rows of x and y in metres."""

_AT = "@"
SPEED_UNITS = ("_mps", "_radps")
SILENT_MS = 300.0
SILENT_PERIODS = 3
"""A channel is silent after so many of its periods, and after so many milliseconds at least."""


@dataclass(frozen=True)
class Situation:
    """One fused state, its components by name."""

    state: FusedState
    values: Mapping[str, float]
    silent: Set[str] = frozenset()
    """Channels of which nothing new has come for too long."""

    @classmethod
    def of(cls, state: FusedState, silent: Set[str] = frozenset()) -> "Situation":
        """The situation that a fused state describes."""
        return cls(state, dict(zip(state.names, state.mean, strict=True)), silent)

    @property
    def pose(self) -> tuple[float, float, float] | None:
        """x, y in metres and heading in radians, of a robot that drives; None for others."""
        names = ("x_m", "y_m", "heading_rad")
        if not all(name in self.values for name in names):
            return None
        x, y, heading = (self.values[name] for name in names)
        return x, y, heading

    @property
    def position_std_m(self) -> float:
        """Standard deviation of x or y, the larger one; 0 where the state says nothing of it."""
        covariance, size = self.state.covariance, len(self.state.names)
        if len(covariance) != size * (size + 1) // 2 or not {"x_m", "y_m"} <= set(self.values):
            return 0.0
        return sqrt(max(self._variance(self.state.names.index(n)) for n in ("x_m", "y_m")))

    def _variance(self, i: int) -> float:
        """The i-th of the diagonal of an upper triangle that is stored row by row."""
        return max(0.0, self.state.covariance[i * len(self.state.names) - i * (i - 1) // 2])

    def in_body(self, point: tuple[float, float]) -> tuple[float, float] | None:
        """A point of the world as the robot sees it: x forward, y left; None without a pose."""
        if self.pose is None:
            return None
        x, y, heading = self.pose
        dx, dy = point[0] - x, point[1] - y
        return cos(heading) * dx + sin(heading) * dy, cos(heading) * dy - sin(heading) * dx

    def held(self, channel: str) -> Sequence[float] | None:
        """The newest values of a channel that is passed on; None where there are none, or old."""
        return None if channel in self.silent else self.state.held.get(channel)

    def is_slow(self, speed_max: float) -> bool:
        """Whether every speed that was fused, in m/s or rad/s, is at most this."""
        return all(
            abs(value) <= speed_max
            for name, value in self.values.items()
            if name.endswith(SPEED_UNITS)
        )


class Hearing:
    """Which channels have gone silent, judged by the readings that fusion counts."""

    def __init__(self, driver: DriverSpec) -> None:
        self._patience_ms = {
            channel.name: max(SILENT_MS, SILENT_PERIODS * 1000 / channel.rate_hz)
            for channel in driver.channels
        }
        self._boot_id = ""
        self._heard: dict[str, tuple[int, float]] = {}

    def silent(self, state: FusedState) -> Set[str]:
        """Note a new state; the channels that say nothing new any more."""
        if state.boot_id != self._boot_id:
            self._boot_id, self._heard = state.boot_id, {}
        for name, health in state.channels.items():
            count, _ = self._heard.get(name, (-1, 0.0))
            if health.applied != count:
                self._heard[name] = health.applied, state.stamp_ms
        return {
            name
            for name, (_, heard_ms) in self._heard.items()
            if state.stamp_ms - heard_ms > self._patience_ms.get(name, SILENT_MS)
        }


@dataclass(frozen=True)
class Scanner:
    """Where the rays of a robot's range finder point, and how far they see."""

    channel: str
    angles_rad: NDArray[np.float64]

    @classmethod
    def of(cls, spec: DriverSpec) -> "Scanner | None":
        """The first scan channel of a driver; None where it has none."""
        for channel in spec.channels:
            if channel.kind == "scan":
                return cls(channel.name, ray_angles(channel.fields))
        return None

    def points(self, situation: Situation, range_max_m: float) -> Points | None:
        """What is nearer than the range, in the body frame; None where the robot is blind."""
        ranges = np.asarray(situation.held(self.channel) or (), float)
        if ranges.size != self.angles_rad.size:
            return None
        hit = (ranges > 0) & (ranges < range_max_m)
        angles = self.angles_rad[hit]
        points: Points = np.column_stack([np.cos(angles), np.sin(angles)]) * ranges[hit, None]
        return points


def ray_angles(fields: Sequence[str]) -> NDArray[np.float64]:
    """The directions that a scan's fields name: `range_m@-0.5` is at -0.5 rad."""
    return np.array([float(field.partition(_AT)[2]) for field in fields])
