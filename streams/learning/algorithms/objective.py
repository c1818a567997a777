"""The pieces that objectives are made of: pure functions on tensors [rows, tokens]."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """One micro-batch of completions; all tensors are [rows, tokens], padded on the right.

    `logp` and `entropy` carry the gradient. `mu` is the sampler's log-probability, `old` the
    trainer's at the start of the batch, `ref` the reference's. `tokens` and `rows` count what is
    valid in the *whole* batch, so that the losses of its micro-batches add up to its loss.
    """

    logp: "Tensor"
    mu: "Tensor"
    old: "Tensor"
    advantages: "Tensor"
    mask: "Tensor"
    entropy: "Tensor"
    tokens: int
    rows: int
    ref: "Tensor | None" = None

    def mean(self, x: "Tensor") -> "Tensor":
        """This micro-batch's share of the mean over the valid tokens of the whole batch."""
        return (x * self.mask).sum() / self.tokens


def clipped(
    ratio: "Tensor", advantages: "Tensor", low: float, high: float, dual: float | None
) -> "Tensor":
    """min(r·A, clip(r, 1-low, 1+high)·A), at least dual·A where A < 0.

    Clip: PPO, arXiv 1707.06347, Eq. 7; apart: DAPO, arXiv 2503.14476, Eq. 10; dual clip:
    arXiv 1912.09729, Eq. 5.
    """
    value = (ratio * advantages).minimum(ratio.clamp(1 - low, 1 + high) * advantages)
    if dual is None:
        return value
    return value.where(advantages >= 0, value.maximum(dual * advantages))


def is_clipped(ratio: "Tensor", advantages: "Tensor", low: float, high: float) -> "Tensor":
    """One where the clip stops the gradient."""
    up = (advantages > 0) & (ratio > 1 + high)
    down = (advantages < 0) & (ratio < 1 - low)
    return (up | down).to(ratio.dtype)


def k3(new: "Tensor", other: "Tensor") -> "Tensor":
    """Unbiased, never negative estimate of KL(new, other) on samples of new.

    GRPO, arXiv 2402.03300, Eq. 4.
    """
    difference = (other - new).clamp(-20, 20)
    return difference.exp() - difference - 1
