"""The measurement update of a Kalman filter: gate, gain, Joseph form, and giving in."""

import functools
import math
from typing import NamedTuple

import numpy as np

from streams.acting.fusion.model import Array, Innovation

VARIANCE_FLOOR = 1e-9
GROWTH = 2.0
"""Of all standard deviations at an alarm; again and again where it does not help."""


class Weighed(NamedTuple):
    """An innovation weighed against what was believed; `nis` is its normalised square."""

    innovation: Innovation
    cross: Array
    spread_inverse: Array
    nis: float


def weigh(covariance: Array, innovation: Innovation) -> Weighed:
    """How far a reading is from what was expected, in units of how sure that was."""
    residual, jacobian, noise = innovation
    cross = covariance @ jacobian.T
    spread = jacobian @ cross + noise
    inverse = _inverse(spread)
    nis = float(residual @ inverse @ residual)
    return Weighed(innovation, cross, inverse, nis)


def _inverse(spread: Array) -> Array:
    """Of a symmetric positive matrix; two rows by hand, for that is what most readings have."""
    if len(spread) == 1:
        return np.reciprocal(spread)
    if len(spread) == 2:
        (a, b), (_, d) = spread.tolist()
        determinant = a * d - b * b
        b = -b / determinant
        return np.array([[d / determinant, b], [b, a / determinant]])
    return np.asarray(np.linalg.inv(spread), np.float64)


@functools.cache
def _identity(size: int) -> Array:
    return np.eye(size)


def correct(covariance: Array, weighed: Weighed) -> tuple[Array, Array]:
    """The error of the mean that the reading shows, and the covariance after it.

    Joseph's form keeps it positive: P' = (I - KH) P (I - KH)ᵀ + K R Kᵀ (Bucy & Joseph, Filtering
    for Stochastic Processes, 1968).
    """
    residual, jacobian, noise = weighed.innovation
    gain = weighed.cross @ weighed.spread_inverse
    rest = _identity(len(gain)) - gain @ jacobian
    joseph: Array = rest @ covariance @ rest.T + gain @ noise @ gain.T
    return gain @ residual, floored((joseph + joseph.T) * 0.5)


def floored(covariance: Array) -> Array:
    """The covariance with no variance below `VARIANCE_FLOOR`: in place."""
    diagonal = covariance.ravel()[:: len(covariance) + 1]
    if min(diagonal.tolist()) < VARIANCE_FLOOR:
        np.maximum(diagonal, VARIANCE_FLOOR, out=diagonal)
    return covariance


def given_in(covariance: Array, weighed: Weighed) -> Array:
    """The covariance grown until what is rejected again and again is believable.

    What the channel sees becomes as unsure as the reading is far away: by G diag(m y²) Gᵀ, where G
    is the pseudo-inverse of H and y the m residuals, so that HPHᵀ grows by at least yyᵀ and the
    same reading has a NIS below 1. All else becomes `GROWTH` times as unsure, for the cause may
    lie there: a wrong heading shows in the positions.
    """
    residual, jacobian, _ = weighed.innovation
    spread = np.linalg.pinv(jacobian) * (residual * math.sqrt(len(residual)))
    return covariance * GROWTH**2 + spread @ spread.T
