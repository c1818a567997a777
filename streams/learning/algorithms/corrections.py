"""Corrections for samples of an older policy: what the ratio is taken against, and its weight.

mu is the sampler's log-probability, old the trainer's at the start of the batch, new the current.
Pure functions on tensors of any one shape; nothing here has a gradient.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Correction = Literal["bypass", "decoupled", "tis", "icepop"]
Bounds = tuple[float, float]

_LOG_RATIO_MAX = 20.0


def ratio(new: "Tensor", old: "Tensor") -> "Tensor":
    """exp(new - old); the difference is kept within 20, so that no product overflows."""
    return (new - old).clamp(-_LOG_RATIO_MAX, _LOG_RATIO_MAX).exp()


def anchor(correction: Correction, old: "Tensor", mu: "Tensor") -> "Tensor":
    """The log-probability that the clipped ratio is taken against.

    `bypass`: the sampler's own, so the clipped ratio itself corrects. Otherwise the trainer's.
    """
    return (mu if correction == "bypass" else old).detach()


def importance(
    correction: Correction, old: "Tensor", mu: "Tensor", tis: Bounds, icepop: Bounds
) -> "Tensor":
    """The detached weight of each element.

    `decoupled`: old/mu (AReaL, arXiv 2505.24298, Eq. 5). `tis`: old/mu clamped to its bounds.
    `icepop`: old/mu, zero outside its bounds. `bypass`: one.
    """
    weight = ratio(old, mu).detach()
    match correction:
        case "bypass":
            return weight.new_ones(weight.shape)
        case "decoupled":
            return weight
        case "tis":
            return weight.clamp(*tis)
        case "icepop":
            low, high = icepop
            return weight * ((weight >= low) & (weight <= high))


def sequence_mask(old: "Tensor", mu: "Tensor", mask: "Tensor", bounds: Bounds) -> "Tensor":
    """[rows, 1]: one where the geometric mean of old/mu over the row's tokens is within bounds."""
    mean = ((old - mu) * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    low, high = bounds
    geometric = mean.exp().detach()
    return ((geometric >= low) & (geometric <= high)).to(mask.dtype)
