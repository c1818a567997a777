"""What an algorithm is: a rollout plan, advantages and a loss; all pure, without a clock or I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from schemas.base import Strict
from schemas.learning import Rollout
from schemas.missions import Mission
from streams.learning.algorithms.corrections import (
    Bounds,
    Correction,
    anchor,
    importance,
    ratio,
    sequence_mask,
)
from streams.learning.algorithms.objective import TokenBatch, clipped, is_clipped, k3

if TYPE_CHECKING:
    from torch import Tensor

    from streams.learning.rollout import RolloutPlan


class Settings(Strict):
    """The settings that every algorithm has."""

    clip_low: float = Field(0.2, gt=0, lt=1, description="the ratio is clipped below 1 - clip_low")
    clip_high: float = Field(0.28, gt=0, description="the ratio is clipped above 1 + clip_high")
    dual_clip: float | None = Field(None, gt=1, description="bounds r·A from below where A < 0")
    entropy: float = Field(0.0, ge=0, description="coefficient of the entropy bonus")
    kl: float = Field(0.0, ge=0, description="coefficient of KL to the mission's base model")
    normalise_std: bool = Field(True, description="divide advantages by a standard deviation")
    correction: Correction = Field("bypass", description="how samples of older versions count")
    tis_bounds: Bounds = Field((0.0, 2.0), description="where `tis` clamps old/mu")
    icepop_bounds: Bounds = Field((0.5, 5.0), description="outside, `icepop` drops the token")
    sequence_bounds: Bounds | None = Field(
        None, description="a rollout whose geometric mean of old/mu is outside is dropped"
    )

    @field_validator("tis_bounds", "icepop_bounds", "sequence_bounds")
    @classmethod
    def _ordered(cls, bounds: Bounds | None) -> Bounds | None:
        if bounds is not None and not 0 <= bounds[0] < bounds[1]:
            raise ValueError(f"bounds must be [low, high] with 0 <= low < high, not {bounds}")
        return bounds


@dataclass(frozen=True, slots=True)
class Advantages:
    """One value per rollout of each group, and which groups carry signal (their rewards differ)."""

    values: list[list[float]]
    signal: list[bool]


class Registered:
    """What the registry holds: a name, settings, and what it learns from."""

    name: ClassVar[str]
    learns_from: ClassVar[Literal["tokens", "episodes"]]
    settings_class: ClassVar[type[Strict]]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings: Any = self.settings_class.model_validate(dict(settings))


class Algorithm(Registered):
    """Base of those that learn from tokens: flat rollouts and a clipped surrogate; no advantages.

    A subclass registers with `@algorithm(name)` and may bring a Settings class of its own.
    """

    learns_from: ClassVar[Literal["tokens", "episodes"]] = "tokens"
    settings_class: ClassVar[type[Strict]] = Settings
    settings: Settings

    def plan(self, mission: Mission) -> "RolloutPlan":
        """How the sampler rolls out one problem."""
        from streams.learning.rollout import RolloutPlan

        spec = mission.rollout
        return RolloutPlan(
            shape="flat",
            width=spec.group_size,
            max_tokens=spec.max_tokens,
            segment_tokens=spec.max_tokens,
            depth=1,
            branching=1,
            first_division=(spec.group_size, spec.group_size),
            fallback=False,
            temperature=spec.temperature,
            top_p=spec.top_p,
        )

    def advantages(self, groups: Sequence[Sequence[Rollout]]) -> Advantages:
        """The advantages of a batch of groups; zero where all rewards of a group are equal."""
        raise NotImplementedError

    def units(self, tokens: int, rows: int) -> int:
        """What the policy term is a mean over, so the weight of a batch among others."""
        return tokens

    def loss(self, batch: TokenBatch) -> "tuple[Tensor, dict[str, Tensor]]":
        """The loss of a micro-batch and its share of the batch's statistics; both add up.

        -(clipped surrogate) - entropy·H + kl·KL(new, ref), each a mean over valid tokens. A group
        without signal has advantage zero and keeps its entropy term.
        """
        s = self.settings
        policy, stats = self._policy(batch)
        entropy = batch.mean(batch.entropy)
        loss = -policy - s.entropy * entropy
        stats |= {"entropy": entropy, "kl": batch.mean(k3(batch.mu, batch.old))}
        if batch.ref is not None:
            stats["kl_reference"] = batch.mean(k3(batch.logp, batch.ref))
            loss = loss + s.kl * stats["kl_reference"]
        stats["loss"] = loss
        return loss, {key: value.detach() for key, value in stats.items()}

    def _policy(self, batch: TokenBatch) -> "tuple[Tensor, dict[str, Tensor]]":
        """The clipped surrogate as a mean over tokens: DAPO, arXiv 2503.14476, Eq. 8 and 12."""
        value, r, stopped = self._surrogate(batch.logp, batch.old, batch.mu, batch.advantages)
        value = value * self._kept(batch)
        stats = {"ratio_mean": batch.mean(r), "clip_fraction": batch.mean(stopped)}
        return batch.mean(value), stats

    def _surrogate(
        self, new: "Tensor", old: "Tensor", mu: "Tensor", advantages: "Tensor"
    ) -> "tuple[Tensor, Tensor, Tensor]":
        """The weighted surrogate, the ratio, and where the clip stops the gradient; elementwise."""
        s = self.settings
        r = ratio(new, anchor(s.correction, old, mu))
        weight = importance(s.correction, old, mu, s.tis_bounds, s.icepop_bounds)
        value = weight * clipped(r, advantages, s.clip_low, s.clip_high, s.dual_clip)
        return value, r, is_clipped(r, advantages, s.clip_low, s.clip_high)

    def _kept(self, batch: TokenBatch) -> "Tensor | float":
        bounds = self.settings.sequence_bounds
        return 1.0 if bounds is None else sequence_mask(batch.old, batch.mu, batch.mask, bounds)
