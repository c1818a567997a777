"""What a learnt policy is shown of a fused state; the names are in `ControllerSpec.observation`.

Of an arm with two links, as Gymnasium's Reacher-v5 has them (link lengths from its reacher.xml):
cos and sin of both angles, the target, both speeds, and the way from the target to the fingertip.
Of a rover: where the goal is, its own speeds, and the scan. The environments that a policy is
learnt in use these very functions, so it is shown on a robot what it was learnt on.
"""

from collections.abc import Mapping, Sequence
from math import cos, sin

import numpy as np

from schemas.robots import DriverSpec
from streams.acting.control.situation import Scanner, Situation
from streams.learning.control.mlp import Floats

LINKS_M = (0.1, 0.11)
"""From the first joint to the second, and from there to the fingertip."""
NO_ECHO_M = 10.0
"""What a ray that hit nothing reads at most, so that an observation is bounded."""

Goal = tuple[float, float]


class Observer:
    """Makes the observation of the given names for one robot."""

    def __init__(self, names: Sequence[str], spec: DriverSpec) -> None:
        self.names = tuple(names)
        self._scanner = Scanner.of(spec)
        self._rays = _rays(spec, self._scanner)
        self._target = next((c.name for c in spec.channels if c.kind == "target"), "target")

    def __call__(self, situation: Situation, goal: Goal | None) -> Floats | None:
        """The observation, float32 [names]; None while some of it is not known."""
        known: dict[str, float] = dict(situation.values)
        known |= _arm(situation, self._target)
        known |= _goal(situation, goal)
        known |= self._ranges(situation)
        if any(name not in known for name in self.names):
            return None
        return np.array([known[name] for name in self.names], np.float32)

    def _ranges(self, situation: Situation) -> Mapping[str, float]:
        if self._scanner is None:
            return {}
        held = situation.held(self._scanner.channel) or ()
        return dict(zip(self._rays, (min(r, NO_ECHO_M) for r in held), strict=False))


ARM_NAMES = (
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
)
GOAL_NAMES = ("goal_forward_m", "goal_left_m")


def _arm(situation: Situation, target: str) -> Mapping[str, float]:
    held, joints = situation.held(target), situation.state.mean
    if situation.state.filter != "joints" or held is None or len(held) != 2 or len(joints) != 4:
        return {}
    q1, q2, dq1, dq2 = joints
    tip_x = LINKS_M[0] * cos(q1) + LINKS_M[1] * cos(q1 + q2)
    tip_y = LINKS_M[0] * sin(q1) + LINKS_M[1] * sin(q1 + q2)
    angles = (cos(q1), cos(q2), sin(q1), sin(q2))
    values = (*angles, *held, dq1, dq2, tip_x - held[0], tip_y - held[1])
    return dict(zip(ARM_NAMES, values, strict=True))


def _goal(situation: Situation, goal: Goal | None) -> Mapping[str, float]:
    seen = situation.in_body(goal) if goal is not None else None
    return dict(zip(GOAL_NAMES, seen, strict=True)) if seen else {}


def _rays(spec: DriverSpec, scanner: Scanner | None) -> Sequence[str]:
    return spec.channel(scanner.channel).fields if scanner else ()
