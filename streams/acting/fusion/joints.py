"""The joints filter: angles and angular velocities of an arm, each velocity a random walk.

A linear Kalman filter; angles are as the driver counts them and never wrapped.
"""

import numpy as np

from schemas.fusion import FusedChannel, FusionSpec
from streams.acting.fusion.direct import direct_sensor
from streams.acting.fusion.model import Array, Belief, FusionError, Sensor, Values, by_name, spread


class Joints:
    """The motion model of `spec.joints` joints and its sensors."""

    def __init__(self, spec: FusionSpec) -> None:
        self._count = spec.joints
        angles = tuple(f"angle_{k + 1}_rad" for k in range(spec.joints))
        velocities = tuple(f"velocity_{k + 1}_radps" for k in range(spec.joints))
        self.names = angles + velocities
        groups = {"angle_rad": angles, "velocity_radps": velocities}
        quiet = dict.fromkeys(angles, 0.001) | dict.fromkeys(velocities, 10.0)
        process = by_name("process_std", spec.process_std, quiet, groups)
        self._noise_per_s = np.diag(np.square([process[name] for name in self.names]))
        unsure = dict.fromkeys(angles, 3.0) | dict.fromkeys(velocities, 10.0)
        self._first_std = by_name("initial_std", spec.initial_std, unsure, groups)
        zeros = dict.fromkeys(self.names, 0.0)
        self._first_mean = by_name("initial_mean", spec.initial_mean, zeros, groups)
        self._eye = np.eye(2 * spec.joints)

    def start(self) -> Belief:
        """What is believed before the first reading."""
        mean = np.array([self._first_mean[name] for name in self.names])
        return Belief(None, mean, np.diag(np.square([self._first_std[n] for n in self.names])))

    def sensor(self, name: str, channel: FusedChannel) -> Sensor:
        """How this channel enters; raises `FusionError`."""
        if channel.kind != "joints":
            raise FusionError(
                f"fusion.channels.{name}: the joints filter takes `joints`, no `{channel.kind}`"
            )
        size = len(self.names)
        return direct_sensor(name, channel, range(size), size)

    def advance(self, belief: Belief, stamp_ms: float, drive: Values | None = None) -> Belief:
        """The belief at a later time."""
        if belief.stamp_ms is None or stamp_ms == belief.stamp_ms:
            return belief._replace(stamp_ms=stamp_ms)
        dt_s = (stamp_ms - belief.stamp_ms) / 1000
        jacobian = self._eye.copy()
        np.fill_diagonal(jacobian[: self._count, self._count :], dt_s)
        covariance = spread(belief.covariance, jacobian, self._noise_per_s * dt_s)
        return Belief(stamp_ms, jacobian @ belief.mean, covariance)

    def move(self, mean: Array, by: Array) -> Array:
        """The mean corrected by an error."""
        return mean + by

    def outward(self, mean: Array) -> list[float]:
        """The mean as `names` lists it."""
        values: list[float] = mean.tolist()
        return values

    def inward(self, values: Values) -> Array:
        """The mean from what `outward` made of it."""
        return np.array(values, float)
