"""The measurement update of a Kalman filter: gate, gain, Joseph form, and giving in."""

import math
from typing import NamedTuple

import numpy as np

from streams.acting.fusion.model import Array, Innovation

VARIANCE_FLOOR = 1e-9


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
    if len(residual) == 1:
        inverse = np.reciprocal(spread)
        nis = float(residual[0] * residual[0] * inverse[0, 0])
    else:
        inverse = np.linalg.inv(spread)
        nis = float(residual @ inverse @ residual)
    return Weighed(innovation, cross, inverse, nis)


def correct(covariance: Array, weighed: Weighed) -> tuple[Array, Array]:
    """The error of the mean that the reading shows, and the covariance after it.

    Joseph's form keeps it positive: P' = (I - KH) P (I - KH)ᵀ + K R Kᵀ (Bucy & Joseph, Filtering
    for Stochastic Processes, 1968).
    """
    residual, jacobian, noise = weighed.innovation
    gain = weighed.cross @ weighed.spread_inverse
    rest: Array = -(gain @ jacobian)
    rest.ravel()[:: len(rest) + 1] += 1.0
    joseph: Array = rest @ covariance @ rest.T + gain @ noise @ gain.T
    return gain @ residual, floored((joseph + joseph.T) * 0.5)


def floored(covariance: Array) -> Array:
    """The covariance with no variance below `VARIANCE_FLOOR`: in place."""
    diagonal = covariance.ravel()[:: len(covariance) + 1]
    if diagonal.min() < VARIANCE_FLOOR:
        np.maximum(diagonal, VARIANCE_FLOOR, out=diagonal)
    return covariance


def given_in(covariance: Array, weighed: Weighed) -> Array:
    """The covariance grown until what is rejected again and again is believable.

    With A = HPHᵀ and residual y, P grows by G diag(m·y²) Gᵀ where G = PHᵀA⁻¹: as unsure, in what
    this channel sees and what hangs together with it, as the reading is far away. Then HPHᵀ grows
    by m·diag(y²), which is at least yyᵀ, so the same reading has a NIS below 1.
    """
    residual, jacobian, _ = weighed.innovation
    seen = jacobian @ weighed.cross
    back = weighed.cross @ np.linalg.pinv(seen, hermitian=True)
    spread = back * (residual * math.sqrt(len(residual)))
    return covariance + spread @ spread.T
