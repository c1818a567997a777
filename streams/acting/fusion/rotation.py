"""Rotations as unit quaternions (w, x, y, z; Hamilton), from body to world.

Formulas: Solà, Quaternion kinematics for the error-state Kalman filter, arXiv:1711.02508, chapters
1 and 2. Plain floats: a product of two quaternions takes a numpy call's time.
"""

import math
from collections.abc import Sequence

import numpy as np

from streams.acting.fusion.model import Array

Quaternion = tuple[float, float, float, float]


def product(p: Sequence[float], q: Sequence[float]) -> Quaternion:
    """First q, then p, as a unit quaternion."""
    pw, px, py, pz = p
    qw, qx, qy, qz = q
    w = pw * qw - px * qx - py * qy - pz * qz
    x = pw * qx + px * qw + py * qz - pz * qy
    y = pw * qy - px * qz + py * qw + pz * qx
    z = pw * qz + px * qy - py * qx + pz * qw
    return unit((w, x, y, z))


def unit(q: Sequence[float]) -> Quaternion:
    """The quaternion of length one; the identity where it has no length."""
    w, x, y, z = q
    length = math.sqrt(w * w + x * x + y * y + z * z)
    return (w / length, x / length, y / length, z / length) if length else (1.0, 0.0, 0.0, 0.0)


def inverse(q: Sequence[float]) -> Quaternion:
    """The rotation back."""
    return (q[0], -q[1], -q[2], -q[3])


def turn(x: float, y: float, z: float) -> Quaternion:
    """The rotation by this rotation vector, in radians (eq. 101)."""
    angle = math.sqrt(x * x + y * y + z * z)
    share = math.sin(angle / 2) / angle if angle > 1e-8 else 0.5
    return unit((math.cos(angle / 2), share * x, share * y, share * z))


def rotation_vector(q: Sequence[float]) -> tuple[float, float, float]:
    """The short rotation vector of a rotation (eq. 103)."""
    w, x, y, z = q if q[0] >= 0 else [-part for part in q]
    length = math.sqrt(x * x + y * y + z * z)
    share = 2 * math.atan2(length, w) / length if length > 1e-12 else 2.0
    return (share * x, share * y, share * z)


def matrix(q: Sequence[float]) -> Array:
    """The rotation matrix, 3 by 3 (eq. 115)."""
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def skew(v: Sequence[float] | Array) -> Array:
    """The matrix of the cross product with v."""
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def yaw_of(q: Sequence[float]) -> float:
    """The heading: the last of yaw, pitch, roll taken apart."""
    w, x, y, z = unit(q)
    return math.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))


def to_euler(q: Sequence[float]) -> tuple[float, float, float]:
    """Roll, pitch, yaw in radians: yaw about z first, then pitch about y, then roll about x."""
    w, x, y, z = q
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = math.asin(max(-1.0, min(1.0, 2 * (w * y - x * z))))
    return roll, pitch, math.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))


def from_euler(roll: float, pitch: float, yaw: float) -> Quaternion:
    """The rotation of these angles, in radians."""
    return product(product(turn(0, 0, yaw), turn(0, pitch, 0)), turn(roll, 0, 0))
