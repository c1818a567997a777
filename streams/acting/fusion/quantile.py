"""Quantiles of the chi-squared distribution, for whole degrees of freedom."""

import functools
import math


def chi2_cdf(x: float, degrees: int) -> float:
    """The chance that a chi-squared variable is at most x.

    Finite sums: Abramowitz & Stegun, Handbook of Mathematical Functions, 26.4.4 and 26.4.5.
    """
    if x <= 0:
        return 0.0
    half = x / 2
    odd = degrees % 2
    tail = math.erfc(math.sqrt(half)) if odd else 0.0
    term = math.sqrt(half / math.pi) * 2 if odd else 1.0
    for k in range(1 + odd, degrees, 2):
        tail += math.exp(-half) * term
        term *= x / (k + 1)
    return 1.0 - tail


@functools.cache
def chi2_quantile(chance: float, degrees: int) -> float:
    """The x that a chi-squared variable stays below with this chance, to 1e-9 of it."""
    low, high = 0.0, float(degrees)
    while chi2_cdf(high, degrees) < chance:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if chi2_cdf(middle, degrees) < chance else (low, middle)
    return high
