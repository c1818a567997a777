"""The planar filter: a robot that drives on a floor.

State: x, y, heading, forward speed, yaw rate; then a bias of each beacon's ranges where asked for.
Speed and yaw rate are random walks: the model of constant turn rate and velocity (Schubert,
Richter & Wanielik, Comparison and evaluation of advanced motion models, 2008), integrated by the
midpoint rule.
"""

import math

import numpy as np

from schemas.fusion import FusedChannel, FusionSpec
from streams.acting.fusion.beacons import Beacons
from streams.acting.fusion.direct import Direct, direct_sensor
from streams.acting.fusion.model import (
    Array,
    Belief,
    FusionError,
    Innovation,
    Sensor,
    Values,
    by_name,
    imu_uses,
    length_check,
    spread,
    wrapped,
)
from streams.acting.fusion.rotation import yaw_of

CORE = ("x_m", "y_m", "heading_rad", "v_mps", "yaw_rate_radps")
HEADING, SPEED, YAW_RATE = 2, 3, 4

PROCESS_STD = dict(zip(CORE, (0.01, 0.01, 0.01, 1.0, 1.0), strict=True))
"""Per square root of a second; beacons' biases 0.001."""
INITIAL_STD = dict(zip(CORE, (1.0, 1.0, 0.5, 1.0, 1.0), strict=True))

COMPONENTS = {
    "odometry": (SPEED, YAW_RATE),
    "pose": (0, 1, HEADING),
    "position": (0, 1),
    "heading": (HEADING,),
}


class Planar:
    """The planar motion model and its sensors."""

    def __init__(self, spec: FusionSpec) -> None:
        self._beacons = Beacons(spec, dimensions=2)
        biases = self._beacons.names
        self.names = CORE + biases
        groups = {"range_bias_m": biases}
        quiet = PROCESS_STD | dict.fromkeys(biases, 0.001)
        process = by_name("process_std", spec.process_std, quiet, groups)
        self._noise_per_s = np.diag(np.square([process[name] for name in self.names]))
        first = INITIAL_STD | dict.fromkeys(biases, self._beacons.bias_std_m or 0.0)
        self._first_std = by_name("initial_std", spec.initial_std, first, groups)
        zeros = dict.fromkeys(self.names, 0.0)
        self._first_mean = by_name("initial_mean", spec.initial_mean, zeros, groups)
        self._eye = np.eye(len(self.names))

    def start(self) -> Belief:
        """What is believed before the first reading."""
        mean = self.inward([self._first_mean[name] for name in self.names])
        variance = np.square([self._first_std[name] for name in self.names])
        return Belief(None, mean, np.diag(variance))

    def sensor(self, name: str, channel: FusedChannel) -> Sensor:
        """How this channel enters; raises `FusionError`."""
        size = len(self.names)
        if channel.kind == "range":
            return self._beacons.sensor(name, channel, size, {"mean": 5, "error": 5})
        if channel.kind == "imu":
            return self._imu(name, channel, size)
        if channel.kind not in COMPONENTS:
            raise FusionError(
                f"fusion.channels.{name}: the planar filter takes no `{channel.kind}`"
            )
        return direct_sensor(name, channel, COMPONENTS[channel.kind], size, {HEADING})

    def _imu(self, name: str, channel: FusedChannel, size: int) -> Sensor:
        """Of an IMU it takes the yaw rate and, from its orientation where it has one, the yaw."""
        used, std = imu_uses(name, channel)
        rate = [(0, YAW_RATE)] if 2 in used else []
        yaw = [(1, HEADING)] if 6 in used else []
        std = [std[2], std[-1]]
        plain = Direct(rate, std, {HEADING}, size) if rate else None
        oriented = Direct(rate + yaw, std, {HEADING}, size) if rate or yaw else None

        def observe(belief: Belief, values: Values) -> Innovation | None:
            if len(values) == 6:
                return plain(belief, (values[2],)) if plain else None
            return oriented(belief, (values[2], yaw_of(values[6:]))) if oriented else None

        return Sensor(observe, length_check(6, 10))

    def advance(self, belief: Belief, stamp_ms: float, drive: Values | None = None) -> Belief:
        """The belief at a later time."""
        if belief.stamp_ms is None or stamp_ms == belief.stamp_ms:
            return belief._replace(stamp_ms=stamp_ms)
        dt_s = (stamp_ms - belief.stamp_ms) / 1000
        mean = belief.mean.copy()
        x, y, heading, speed, yaw_rate = mean[:5].tolist()
        midway = heading + yaw_rate * dt_s / 2
        along, across = dt_s * math.cos(midway), dt_s * math.sin(midway)
        mean[0], mean[1] = x + speed * along, y + speed * across
        mean[2] = wrapped(heading + yaw_rate * dt_s)
        jacobian = self._eye.copy()
        jacobian[0, 2:5] = -speed * across, along, -speed * across * dt_s / 2
        jacobian[1, 2:5] = speed * along, across, speed * along * dt_s / 2
        jacobian[2, 4] = dt_s
        covariance = spread(belief.covariance, jacobian, self._noise_per_s * dt_s)
        return Belief(stamp_ms, mean, covariance)

    def move(self, mean: Array, by: Array) -> Array:
        """The mean corrected by an error."""
        moved = mean + by
        moved[2] = wrapped(float(moved[2]))
        return moved

    def outward(self, mean: Array) -> list[float]:
        """The mean as `names` lists it."""
        values: list[float] = mean.tolist()
        return values

    def inward(self, values: Values) -> Array:
        """The mean from what `outward` made of it."""
        return self.move(np.zeros(len(values)), np.array(values, float))
