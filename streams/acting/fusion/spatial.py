"""The spatial filter: an IMU moves the state, everything else corrects it.

An error-state Kalman filter after Solà, Quaternion kinematics for the error-state Kalman filter,
arXiv:1711.02508, chapter 5. The mean holds position, velocity, a quaternion, and the biases of
gyroscope and accelerometer; the error has 15 components (the orientation's is a small rotation
about the body's axes), then a bias of each beacon's ranges where asked for. Outward the
orientation is roll, pitch and yaw; its covariance is that of the small rotation.

Between two IMU readings their mean acts. When the IMU is silent for longer than its time-out the
robot is believed to keep its velocity and orientation, with the noise named `coast`.
"""

from typing import NamedTuple

import numpy as np

from schemas.fusion import FusedChannel, FusionSpec
from streams.acting.fusion import rotation
from streams.acting.fusion.beacons import Beacons
from streams.acting.fusion.model import Array, Belief, FusionError, Sensor, Values, by_name, spread
from streams.acting.fusion.spatial_sensors import spatial_sensor

_XYZ = ("x", "y", "z")
GROUPS = {
    "position_m": tuple(f"{axis}_m" for axis in _XYZ),
    "velocity_mps": tuple(f"v{axis}_mps" for axis in _XYZ),
    "orientation_rad": ("roll_rad", "pitch_rad", "yaw_rad"),
    "gyro_bias_radps": tuple(f"gyro_bias_{axis}_radps" for axis in _XYZ),
    "accel_bias_mps2": tuple(f"accel_bias_{axis}_mps2" for axis in _XYZ),
}
CORE = tuple(name for group in GROUPS.values() for name in group)
COAST = {"coast_mps": 2.0, "coast_rad": 0.3}
"""Noise of velocity and orientation while the IMU is silent, per square root of a second."""

_PROCESS_STD = (0.0, 0.05, 0.005, 0.0001, 0.001)
_INITIAL_STD = (1.0, 1.0, 0.3, 0.01, 0.1)
"""By group."""

POSITION, VELOCITY, ROTATION = slice(0, 3), slice(3, 6), slice(6, 9)
GYRO_BIAS, ACCEL_BIAS = slice(9, 12), slice(12, 15)
"""Where in the error; the quaternion takes one place more in the mean."""


class Motion(NamedTuple):
    """What moves the state in one step: turn rate and specific force without biases, or nothing."""

    turn_rate: Array
    force: Array
    coasting: bool


class Spatial:
    """The spatial motion model and its sensors."""

    def __init__(self, spec: FusionSpec) -> None:
        self._beacons = Beacons(spec, dimensions=3)
        biases = self._beacons.names
        self.names = CORE + biases
        groups = GROUPS | {"range_bias_m": biases}
        quiet = _spread(_PROCESS_STD) | dict.fromkeys(biases, 0.001)
        process = by_name("process_std", spec.process_std, quiet | COAST, groups)
        self._noise_per_s = np.diag(np.square([process[name] for name in self.names]))
        self._coast_per_s = self._noise_per_s.copy()
        self._coast_per_s[VELOCITY, VELOCITY] = np.eye(3) * process["coast_mps"] ** 2
        self._coast_per_s[ROTATION, ROTATION] = np.eye(3) * process["coast_rad"] ** 2
        first = _spread(_INITIAL_STD) | dict.fromkeys(biases, self._beacons.bias_std_m or 0.0)
        self._first_std = by_name("initial_std", spec.initial_std, first, groups)
        zeros = dict.fromkeys(self.names, 0.0)
        self._first_mean = by_name("initial_mean", spec.initial_mean, zeros, groups)
        self._gravity = np.array([0.0, 0.0, -spec.gravity_mps2])
        self._patience_ms = 1000 * max(
            (c.timeout_s or spec.sensor_timeout_s for c in spec.channels.values() if _moves(c)),
            default=0.0,
        )
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
            return self._beacons.sensor(name, channel, size, {"mean": 16, "error": 15})
        if channel.kind == "joints":
            raise FusionError(f"fusion.channels.{name}: the spatial filter takes no `joints`")
        return spatial_sensor(name, channel, size)

    def advance(self, belief: Belief, stamp_ms: float, drive: Values | None = None) -> Belief:
        """The belief at a later time; `drive` is the IMU reading that came then."""
        if belief.stamp_ms is not None and stamp_ms > belief.stamp_ms:
            belief = self._moved(belief, stamp_ms, drive)
        if drive is None:
            return belief._replace(stamp_ms=stamp_ms)
        return belief._replace(stamp_ms=stamp_ms, drive=tuple(drive[:6]), drive_ms=stamp_ms)

    def _moved(self, belief: Belief, stamp_ms: float, drive: Values | None) -> Belief:
        assert belief.stamp_ms is not None
        dt_s = (stamp_ms - belief.stamp_ms) / 1000
        motion = self._motion(belief, stamp_ms, drive)
        mean, before = belief.mean.copy(), rotation.matrix(belief.mean[6:10].tolist())
        half = (motion.turn_rate * (dt_s / 2)).tolist()
        midway = before @ rotation.matrix(rotation.turn(*half))
        mean[POSITION] += mean[VELOCITY] * dt_s
        if not motion.coasting:
            by = (midway @ motion.force + self._gravity) * dt_s
            mean[POSITION] += by * (dt_s / 2)
            mean[VELOCITY] += by
            mean[6:10] = rotation.product(
                mean[6:10].tolist(), rotation.turn(*(2 * h for h in half))
            )
        jacobian = self._jacobian(motion, dt_s, before, midway, half)
        noise = (self._coast_per_s if motion.coasting else self._noise_per_s) * dt_s
        return belief._replace(mean=mean, covariance=spread(belief.covariance, jacobian, noise))

    def _motion(self, belief: Belief, stamp_ms: float, drive: Values | None) -> Motion:
        if not belief.drive or stamp_ms - belief.drive_ms > self._patience_ms:
            return Motion(np.zeros(3), np.zeros(3), True)
        acting = np.array(belief.drive)
        if drive is not None:
            acting = (acting + drive[:6]) * 0.5
        mean = belief.mean
        return Motion(acting[:3] - mean[10:13], acting[3:] - mean[13:16], False)

    def _jacobian(
        self, motion: Motion, dt_s: float, before: Array, midway: Array, half: list[float]
    ) -> Array:
        """Of the error after the step by the error before it (eq. 269, by the midpoint rule)."""
        jacobian = self._eye.copy()
        jacobian[POSITION, VELOCITY] = self._eye[:3, :3] * dt_s
        if motion.coasting:
            return jacobian
        turned = rotation.skew(half) * 2
        by_rotation = -rotation.skew(midway @ motion.force) @ before * dt_s
        by_gyro = midway @ rotation.skew(motion.force) * (dt_s * dt_s / 2)
        for column, block in (
            (ROTATION, by_rotation),
            (GYRO_BIAS, by_gyro),
            (ACCEL_BIAS, midway * -dt_s),
        ):
            jacobian[VELOCITY, column] = block
            jacobian[POSITION, column] = block * (dt_s / 2)
        jacobian[ROTATION, ROTATION] = rotation.matrix(rotation.turn(*(-2 * h for h in half)))
        jacobian[ROTATION, GYRO_BIAS] = (turned * 0.5 - self._eye[:3, :3]) * dt_s
        return jacobian

    def move(self, mean: Array, by: Array) -> Array:
        """The mean corrected by an error; the covariance's turn with it is neglected (eq. 287)."""
        moved = np.empty_like(mean)
        moved[:6] = mean[:6] + by[:6]
        moved[6:10] = rotation.product(mean[6:10].tolist(), rotation.turn(*by[ROTATION].tolist()))
        moved[10:] = mean[10:] + by[9:]
        return moved

    def outward(self, mean: Array) -> list[float]:
        """The mean as `names` lists it."""
        values: list[float] = mean.tolist()
        return [*values[:6], *rotation.to_euler(values[6:10]), *values[10:]]

    def inward(self, values: Values) -> Array:
        """The mean from what `outward` made of it."""
        roll, pitch, yaw = values[6:9]
        return np.array([*values[:6], *rotation.from_euler(roll, pitch, yaw), *values[9:]])


def _spread(by_group: tuple[float, ...]) -> dict[str, float]:
    pairs = zip(GROUPS.values(), by_group, strict=True)
    return {name: value for names, value in pairs for name in names}


def _moves(channel: FusedChannel) -> bool:
    return channel.kind == "imu"
