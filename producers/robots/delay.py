"""A set-point that takes effect some steps late, as it does on a robot behind a network."""

from collections import deque

import numpy as np
from numpy.typing import ArrayLike, NDArray


class ActionDelay:
    """What goes in comes out so many steps later; at first there is rest."""

    def __init__(self, steps: int, rest: ArrayLike) -> None:
        if steps < 0:
            raise ValueError(f"action_delay is {steps}: a number of steps, 0 or more")
        self._steps, self._rest = steps, np.asarray(rest, np.float64)
        self.reset()

    def reset(self) -> None:
        """Forget what was on its way."""
        self._waiting: deque[NDArray[np.float64]] = deque([self._rest] * self._steps)

    def after(self, action: ArrayLike) -> NDArray[np.float64]:
        """The action that takes effect now, this one being chosen now."""
        self._waiting.append(np.array(action, np.float64))
        return self._waiting.popleft()
