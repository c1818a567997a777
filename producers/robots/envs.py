"""Environments to learn in: `gymnasium.make("producers.robots.envs:ReacherDelayed-v0")` and more.

    ReacherDelayed-v0    Gymnasium's Reacher-v5 whose torques take effect `action_delay` steps late;
                         a family of tasks by `gear_scale`, `mass_scale`, `target_radius_m`
    RoverWaypoints-v0    a rover drives to one waypoint after another among obstacles; a family by
                         `wheel_slip`, `mass_scale`, `wheel_error`

Both say what their numbers are: `observation_names` and `action_names`, as a robot's file has them
under `controller.observation`. Actions are the driver's set-points, in its units and limits.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
from numpy.typing import NDArray

from producers.robots.delay import ActionDelay
from producers.robots.reacher import vary_arm

ARM_OBSERVATION = [
    "cos_q1",
    "cos_q2",
    "sin_q1",
    "sin_q2",
    "target_x_m",
    "target_y_m",
    "dq1_radps",
    "dq2_radps",
    "tip_from_target_x_m",
    "tip_from_target_y_m",
]
"""The arm's observation as Reacher-v5 orders it."""

Floats = NDArray[np.float64]


class ReacherDelayed(ReacherEnv):  # type: ignore[misc]
    """Reacher-v5 with a delay, as a robot has it that hears of its commands over a network.

    The reward is Reacher's, of the torques that took effect. With `anywhere` an episode starts with
    the joints anywhere and at rest, as on an arm that goes on from target to target.
    """

    observation_names = ARM_OBSERVATION
    action_names = ("torque_1", "torque_2")

    def __init__(
        self,
        action_delay: int = 0,
        gear_scale: float = 1.0,
        mass_scale: float = 1.0,
        target_radius_m: float = 0.2,
        anywhere: bool = False,
        **kwargs: Any,
    ) -> None:
        self._delay = ActionDelay(action_delay, (0.0, 0.0))
        self._radius, self._anywhere = target_radius_m, anywhere
        super().__init__(**kwargs)
        vary_arm(self.model, gear_scale, mass_scale)

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """One step of 20 ms."""
        result: tuple[Floats, float, bool, bool, dict[str, Any]] = super().step(
            self._delay.after(action)
        )
        return result

    def reset_model(self) -> Floats:
        """New joints and a new target within the radius; the observation."""
        self._delay.reset()
        draw = self.np_random.uniform
        widest = (math.pi, 2.5) if self._anywhere else (0.1, 0.1)
        joints = [draw(-most, most) for most in widest]
        radius, angle = self._radius * math.sqrt(draw()), draw(-math.pi, math.pi)
        self.goal = np.array([radius * math.cos(angle), radius * math.sin(angle)])
        speeds = [0.0, 0.0] if self._anywhere else draw(-0.005, 0.005, size=2)
        self.set_state(np.array([*joints, *self.goal]), np.array([*speeds, 0.0, 0.0]))
        observation: Floats = self._get_obs()
        return observation


gymnasium.register(
    "ReacherDelayed-v0", "producers.robots.envs:ReacherDelayed", max_episode_steps=50
)
gymnasium.register(
    "RoverWaypoints-v0", "producers.robots.waypoints:RoverWaypoints", max_episode_steps=300
)
