"""TreePO: rollouts as a tree of segments, advantages over its subtrees (arXiv 2508.17445)."""

from collections import defaultdict
from collections.abc import Sequence
from math import ceil, fsum, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from schemas.base import Strict
from schemas.learning import Rollout
from schemas.missions import Mission
from streams.learning.algorithms.base import Advantages, Algorithm, Settings
from streams.learning.algorithms.grpo import has_signal
from streams.learning.algorithms.registry import algorithm

if TYPE_CHECKING:
    from streams.learning.rollout import RolloutPlan

_EPSILON = 1e-8
_ROOT = ""


class TreePoSettings(Settings):
    """The settings of TreePO; the defaults are the paper's."""

    dual_clip: float | None = Field(10.0, gt=1, description="bounds r·A from below where A < 0")
    segment_tokens: int = Field(512, ge=1, description="tokens in a segment of the tree")
    branching: int = Field(2, ge=1, description="the branching budget N")
    first_division: tuple[int, int] = Field(
        (2, 2), description="branches of the root, drawn from [low, high] for each problem"
    )
    fallback: bool = Field(True, description="branch again from finished leaves until full")
    advantage: Literal["code", "paper"] = Field(
        "code", description="`code`: as the authors' program; `paper`: Eq. 5"
    )

    @field_validator("first_division")
    @classmethod
    def _divides(cls, division: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= division[0] <= division[1]:
            raise ValueError(f"needs [low, high] with 1 <= low <= high, not {list(division)}")
        return division


@algorithm("treepo")
class TreePo(Algorithm):
    """Tree-based policy optimization; a node shared by leaves is a baseline for them."""

    settings_class: ClassVar[type[Strict]] = TreePoSettings
    settings: TreePoSettings

    def plan(self, mission: Mission) -> "RolloutPlan":
        """Segments until the token limit; a wider first division diverges early (section 3.2)."""
        from streams.learning.rollout import RolloutPlan

        spec, s = mission.rollout, self.settings
        segment = min(s.segment_tokens, spec.max_tokens)
        return RolloutPlan(
            shape="tree",
            width=spec.group_size,
            max_tokens=spec.max_tokens,
            segment_tokens=segment,
            depth=ceil(spec.max_tokens / segment),
            branching=s.branching,
            first_division=s.first_division,
            fallback=s.fallback,
            temperature=spec.temperature,
            top_p=spec.top_p,
        )

    def advantages(self, groups: Sequence[Sequence[Rollout]]) -> Advantages:
        """The mean, over the nodes of a rollout's path, of its reward less the node's mean.

        `code`: the leaf level and nodes of this leaf alone are left out, then whitened over all
        valid tokens of the batch. `paper` (Eq. 5): every node of the path counts, then divided by
        the standard deviation of the rewards of the batch. Both over groups with signal only.
        """
        signal = [has_signal([rollout.reward for rollout in group]) for group in groups]
        learnt = [group for group, kept in zip(groups, signal, strict=True) if kept]
        relative = [self.relative(group) for group in learnt]
        scaled = iter(self._scaled(learnt, relative))
        values = [
            next(scaled) if kept else [0.0] * len(group)
            for group, kept in zip(groups, signal, strict=True)
        ]
        return Advantages(values, signal)

    def relative(self, group: Sequence[Rollout]) -> list[float]:
        """The values of one group before they are scaled over the batch."""
        paths = [[_ROOT, *rollout.nodes] for rollout in group]
        members: dict[str, list[float]] = defaultdict(list)
        for rollout, path in zip(group, paths, strict=True):
            for node in path:
                members[node].append(rollout.reward)
        depths = max(len(path) for path in paths)
        if self.settings.advantage == "code":
            depths = max(depths - 1, 1)
            shared = {node for node, rewards in members.items() if len(rewards) > 1} | {_ROOT}
        else:
            shared = set(members)
        means = {node: fmean(members[node]) for node in shared}
        return [
            fmean(rollout.reward - means[node] for node in path[:depths] if node in shared)
            for rollout, path in zip(group, paths, strict=True)
        ]

    def _scaled(
        self, groups: Sequence[Sequence[Rollout]], values: list[list[float]]
    ) -> list[list[float]]:
        if not groups or not self.settings.normalise_std:
            return values
        if self.settings.advantage == "paper":
            deviation = stdev(rollout.reward for group in groups for rollout in group)
            return [[value / deviation for value in group] for group in values]
        lengths = [[len(rollout.tokens) for rollout in group] for group in groups]
        return whiten(values, lengths)


def whiten(values: list[list[float]], lengths: list[list[int]]) -> list[list[float]]:
    """(x - mean) / sqrt(var + 1e-8) where each value counts once per token; var is unbiased."""
    pairs = [
        (value, length)
        for row, sizes in zip(values, lengths, strict=True)
        for value, length in zip(row, sizes, strict=True)
    ]
    tokens = sum(length for _, length in pairs)
    mean = fsum(value * length for value, length in pairs) / tokens
    variance = fsum((value - mean) ** 2 * length for value, length in pairs) / max(tokens - 1, 1)
    scale = 1 / sqrt(variance + _EPSILON)
    return [[(value - mean) * scale for value in row] for row in values]
