"""A point on a line that is to go to a goal which it cannot see: tasks that differ by the goal."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

Observation = npt.NDArray[np.float64]
STEPS = 12


class PointMass(gymnasium.Env[Observation, Observation]):
    """Moves by its action; it ends by itself beyond `wall`, and by the time limit otherwise."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-0.5, 1.5, (1,), np.float64)
    observation_names = ("x_m", "v_mps")

    def __init__(self, goal: float = 1.0, wall: float = 5.0, fails_at: float = 9.0) -> None:
        self._goal, self._wall, self._fails_at = goal, wall, fails_at
        self._x = self._v = 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Observation, Any]:
        super().reset(seed=seed)
        self._x, self._v = float(self.np_random.uniform(-0.3, 0.3)), 0.0
        return np.array([self._x, self._v]), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, Any]:
        # The middle of the range, 0.5, is rest.
        self._v = 0.5 * (float(action[0]) - 0.5)
        self._x += self._v
        if self._x > self._fails_at:
            raise ArithmeticError("the point has left the line")
        seen = np.array([self._x, self._v])
        return seen, -abs(self._x - self._goal), abs(self._x) > self._wall, False, {}


gymnasium.register("PointMass-v0", PointMass, max_episode_steps=STEPS)
