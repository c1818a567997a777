"""The physics and the reward of Gymnasium's Reacher-v5, without an environment around them."""

import math
from collections.abc import Sequence
from pathlib import Path

import gymnasium
import mujoco
import numpy as np

from producers.robots.noise import Draws
from schemas.worlds import Arm

STEP_MS = 10.0
FRAME_SKIP = 2
"""So many steps of the physics are one of Reacher's: 20 ms."""


class Reacher:
    """One arm and its target; the joints go on where the target is a new one."""

    def __init__(self, arm: Arm, *key: object) -> None:
        self._arm, self._draws, self._halves = arm, Draws(*key, "target"), 0
        self.model = mujoco.MjModel.from_xml_path(str(_file()))
        vary_arm(self.model, arm.gear_scale, arm.mass_scale)
        self.data = mujoco.MjData(self.model)
        self._tip, self._goal = (self.model.body(name).id for name in ("fingertip", "target"))
        self.reward, self.rewarded_episode = 0.0, 0
        self._new_target()

    @property
    def steps(self) -> int:
        """How many of Reacher's steps are over."""
        return self._halves // FRAME_SKIP

    @property
    def between(self) -> bool:
        """Whether it is between two of Reacher's steps."""
        return self._halves % FRAME_SKIP == 0

    def joints(self) -> list[float]:
        """Both angles, both angular velocities."""
        return [*self.data.qpos[:2].tolist(), *self.data.qvel[:2].tolist()]

    def target(self) -> list[float]:
        """Where the target is."""
        x, y = self.data.qpos[2:].tolist()
        return [x, y]

    def step(self, torques: Sequence[float]) -> None:
        """Ten milliseconds; what ends a step of Reacher's is rewarded, and may move the target."""
        self.data.ctrl[:] = torques
        mujoco.mj_step(self.model, self.data)
        self._halves += 1
        if self.between:
            self._finish_step(torques)

    def _finish_step(self, torques: Sequence[float]) -> None:
        # Where the bodies were at the last stage of the integration, as the environment has it.
        apart = self.data.xpos[self._tip] - self.data.xpos[self._goal]
        self.reward = float(-np.linalg.norm(apart) - np.square(torques).sum())
        self.rewarded_episode = (self.steps - 1) // self._arm.episode_steps
        if self.steps % self._arm.episode_steps == 0:
            self._new_target()

    def _new_target(self) -> None:
        draw = self._draws.uniforms(self.steps // self._arm.episode_steps)
        radius = self._arm.target_radius_m * math.sqrt(next(draw))
        angle = 2 * math.pi * next(draw)
        self.data.qpos[2:] = radius * math.cos(angle), radius * math.sin(angle)
        self.data.qvel[2:] = 0.0
        mujoco.mj_forward(self.model, self.data)


def vary_arm(model: mujoco.MjModel, gear_scale: float, mass_scale: float) -> None:
    """Make another arm of a Reacher model: stronger motors, heavier links."""
    links = [model.body(name).id for name in ("body0", "body1", "fingertip")]
    model.actuator_gear[:, 0] *= gear_scale
    model.body_mass[links] *= mass_scale
    model.body_inertia[links] *= mass_scale


def _file() -> Path:
    return Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "reacher.xml"
