"""What corrects the spatial filter.

Each sensor's residual by the error of position (0-2), velocity (3-5), orientation (6-8) and the
gyroscope's bias (9-11). Mask and std of a `pose` have six entries: x, y, z and the rotation about
each axis of the body.
"""

import math
from collections.abc import Callable

import numpy as np

from schemas.fusion import FusedChannel
from streams.acting.fusion import rotation
from streams.acting.fusion.model import (
    Array,
    Belief,
    FusionError,
    Innovation,
    Sensor,
    Values,
    imu_uses,
    length_check,
    rows_used,
    stds,
    wrapped,
)

Whole = Callable[[Belief, Values, Array], Array]
"""Answers the residual of all values and writes their Jacobian into the zeros it is given."""


def spatial_sensor(name: str, channel: FusedChannel, size: int) -> Sensor:
    """How a channel enters the spatial filter, whose error has `size` components."""
    if channel.kind == "imu":
        return _imu(name, channel, size)
    whole, count, length = _KINDS[channel.kind]
    rows = rows_used(name, channel, count)
    noise = np.diag(np.square([stds(name, channel, count)[row] for row in rows]))

    def observe(belief: Belief, values: Values) -> Innovation:
        jacobian = np.zeros((count, size))
        residual = whole(belief, values, jacobian)
        return Innovation(residual[rows], jacobian[rows], noise)

    return Sensor(observe, length_check(length))


def _imu(name: str, channel: FusedChannel, size: int) -> Sensor:
    """Its rates and forces move the state; an orientation, where it has one, corrects it."""
    used, std = imu_uses(name, channel)
    noise = np.eye(3) * std[-1] ** 2
    if not used >= set(range(6)):
        raise FusionError(
            f"fusion.channels.{name}.mask: rates and forces move the spatial filter, all six; "
            "only an orientation can be masked"
        )

    def observe(belief: Belief, values: Values) -> Innovation | None:
        if len(values) == 6 or 6 not in used:
            return None
        jacobian = np.zeros((3, size))
        jacobian[:, 6:9] = np.eye(3)
        return Innovation(_turned(belief, values[6:]), jacobian, noise)

    return Sensor(observe, length_check(6, 10), drives=True)


def _turned(belief: Belief, orientation: Values) -> Array:
    """The rotation from the one believed to the one measured, about the body's axes."""
    believed = rotation.inverse(belief.mean[6:10].tolist())
    return np.array(rotation.rotation_vector(rotation.product(believed, orientation)))


def _position(belief: Belief, values: Values, jacobian: Array) -> Array:
    jacobian[:3, :3] = np.eye(3)
    return np.array(values[:3]) - belief.mean[:3]


def _pose(belief: Belief, values: Values, jacobian: Array) -> Array:
    jacobian[:3, :3] = jacobian[3:, 6:9] = np.eye(3)
    return np.concatenate((values[:3] - belief.mean[:3], _turned(belief, values[3:])))


def _heading(belief: Belief, values: Values, jacobian: Array) -> Array:
    """The yaw of R exp(δ): its derivative by δ from those of R's first column, R (δ cross e_x)."""
    now = rotation.matrix(belief.mean[6:10].tolist())
    c, s = now[:2, 0]
    across = (c * now[1] - s * now[0]) / max(c * c + s * s, 1e-12)
    jacobian[0, 7], jacobian[0, 8] = -across[2], across[1]
    return np.array([wrapped(values[0] - math.atan2(s, c))])


def _odometry(belief: Belief, values: Values, jacobian: Array) -> Array:
    """Velocity in the body's axes, then the turn rate: the gyroscope's newest without its bias.

    Before the first reading of the gyroscope the turn rate says nothing: residual and Jacobian 0.
    """
    back = rotation.matrix(belief.mean[6:10].tolist()).T
    velocity = back @ belief.mean[3:6]
    jacobian[:3, 3:6], jacobian[:3, 6:9] = back, rotation.skew(velocity)
    if not belief.drive:
        return np.concatenate((values[:3] - velocity, np.zeros(3)))
    jacobian[3:, 9:12] = -np.eye(3)
    expected = np.array(belief.drive[:3]) - belief.mean[10:13]
    return np.concatenate((values[:3] - velocity, values[3:] - expected))


_KINDS: dict[str, tuple[Whole, int, int]] = {
    "position": (_position, 3, 3),
    "pose": (_pose, 6, 7),
    "heading": (_heading, 1, 1),
    "odometry": (_odometry, 6, 6),
}
"""By kind: the function, how many errors a reading has, and how many values."""
