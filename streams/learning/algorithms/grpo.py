"""GRPO: advantages relative to the group (arXiv 2402.03300), token mean and clip-higher of DAPO."""

from collections.abc import Sequence
from statistics import fmean, stdev

from schemas.learning import Rollout
from streams.learning.algorithms.base import Advantages, Algorithm
from streams.learning.algorithms.registry import algorithm

_EPSILON = 1e-6


@algorithm("grpo")
class Grpo(Algorithm):
    """Group relative policy optimization: flat groups, no value model."""

    def advantages(self, groups: Sequence[Sequence[Rollout]]) -> Advantages:
        """(R - mean) / std over the group: arXiv 2402.03300, section 4.1.2; std is unbiased.

        With `normalise_std` off: R - mean, as Dr. GRPO has it (arXiv 2503.20783).
        """
        rewards = [[rollout.reward for rollout in group] for group in groups]
        signal = [has_signal(group) for group in rewards]
        values = [self._relative(group) for group in rewards]
        return Advantages(values, signal)

    def _relative(self, rewards: list[float]) -> list[float]:
        if not has_signal(rewards):
            return [0.0] * len(rewards)
        mean = fmean(rewards)
        scale = stdev(rewards) + _EPSILON if self.settings.normalise_std else 1.0
        return [(reward - mean) / scale for reward in rewards]


def has_signal(rewards: Sequence[float]) -> bool:
    """Whether the rewards of a group differ."""
    return len(set(rewards)) > 1
