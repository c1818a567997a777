"""Whether a policy on probation earns less than the one before it did.

Rewards are compared as means of whole blocks (episodes): steps of one episode depend on each other.
A fall counts where it is larger than the allowed share of the old mean, and larger than twice its
standard error, which is estimated from both policies' blocks; with one block each there is none.
"""

from collections import deque
from collections.abc import Sequence
from math import sqrt
from statistics import fmean

KEPT = 20
_SIGMAS = 2.0


class Returns:
    """The mean reward of each block of steps, the last blocks only."""

    def __init__(self, steps: int, blocks: Sequence[float] = ()) -> None:
        self._steps = steps
        self._sum, self._count = 0.0, 0
        self.blocks: deque[float] = deque(blocks, maxlen=KEPT)

    def add(self, reward: float | None) -> bool:
        """Note a step's reward, where there is one; whether it ended a block."""
        if reward is None:
            return False
        self._sum, self._count = self._sum + reward, self._count + 1
        if self._count < self._steps:
            return False
        self.blocks.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        return True


def worse(new: Sequence[float], old: Sequence[float], drop_max: float) -> str | None:
    """Why the new blocks are worse than the old ones; None where they are not, or nothing is."""
    if not new or not old:
        return None
    fall = fmean(old) - fmean(new)
    spread = sqrt((_squares(new) + _squares(old)) / max(len(new) + len(old) - 2, 1))
    error = spread * sqrt(1 / len(new) + 1 / len(old))
    if fall <= drop_max * abs(fmean(old)) or fall <= _SIGMAS * error:
        return None
    return f"the mean reward fell from {fmean(old):.4g} to {fmean(new):.4g}"


def _squares(values: Sequence[float]) -> float:
    mean = fmean(values)
    return sum((value - mean) ** 2 for value in values)
