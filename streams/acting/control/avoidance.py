"""Where to drive so as to come to a goal and not into an obstacle: a direction, and how far.

After the vector field histogram VFH+ (Ulrich and Borenstein, ICRA 1998): candidate directions
around the robot, those blocked by obstacles enlarged by its radius left out, of the others the one
of least cost: away from the goal (weight 5), from straight ahead (2) and from the direction chosen
last (2), the paper's weights, which must keep the first above the sum of the others. Instead of a
histogram, a direction's way is measured to where the robot, a disc, would touch the nearest point.
"""

from dataclasses import dataclass
from math import atan2, hypot, pi

import numpy as np
from numpy.typing import NDArray

from streams.acting.control.situation import Points

DIRECTIONS = 72
WEIGHTS = (5.0, 2.0, 2.0)
_AROUND = np.arange(DIRECTIONS) * (2 * pi / DIRECTIONS) - pi


@dataclass(frozen=True)
class Way:
    """A direction in the body frame, and how far the robot gets in it and straight ahead."""

    direction_rad: float
    free_m: float
    ahead_m: float
    blocked: bool
    """No direction is free as far as was asked: this one is only the longest."""


def choose_way(
    points: Points, goal: tuple[float, float], last_rad: float, radius_m: float, look_ahead_m: float
) -> Way:
    """The way to a goal (body frame) among obstacle points (body frame)."""
    wanted = min(hypot(*goal), look_ahead_m)
    at = atan2(goal[1], goal[0])
    # The goal's own direction is a candidate, so that without obstacles the way is straight.
    directions = np.append(_AROUND, (at, 0.0))
    free = free_distance(points, directions, radius_m)
    directions, free, ahead = directions[:-1], free[:-1], float(free[-1])
    open_ = free >= wanted
    if not open_.any():
        best = int(np.argmax(free))
        return Way(float(directions[best]), float(free[best]), ahead, True)
    cost = (
        WEIGHTS[0] * np.abs(wrapped(directions - at))
        + WEIGHTS[1] * np.abs(wrapped(directions))
        + WEIGHTS[2] * np.abs(wrapped(directions - last_rad))
    )
    best = int(np.argmin(np.where(open_, cost, np.inf)))
    return Way(float(directions[best]), float(free[best]), ahead, False)


def free_distance(
    points: Points, directions: NDArray[np.float64], radius_m: float
) -> NDArray[np.float64]:
    """How far a disc gets in each direction until it touches a point; inf where it never does.

    A point inside the disc already blocks what leads toward it, and nothing that leads away.
    """
    if not len(points):
        return np.full(len(directions), np.inf)
    units = np.column_stack([np.cos(directions), np.sin(directions)])
    along = units @ points.T
    across = units[:, :1] * points[:, 1] - units[:, 1:] * points[:, 0]
    room = radius_m**2 - across**2
    touched = along - np.sqrt(np.maximum(room, 0.0))
    meets = (room > 0) & (along > 0)
    least: NDArray[np.float64] = np.where(meets, np.maximum(touched, 0.0), np.inf).min(axis=1)
    return least


def wrapped(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles in [-pi, pi)."""
    return (angles + pi) % (2 * pi) - pi
