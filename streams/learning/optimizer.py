"""AdamW as a step on slices: learning rate, clip factor and the fused update.

Decoupled weight decay applies to every tensor, biases and norms included.
Source: Loshchilov & Hutter, arXiv 1711.05101, Algorithm 2.
"""

import math
from dataclasses import dataclass

import torch
from torch.optim.adamw import adamw

from schemas.learning import AdamStep
from schemas.missions import Training


@dataclass(frozen=True, slots=True)
class Moments:
    """Adam's running means of the gradient and of its square; changed in place."""

    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor


def learning_rate(step: int, training: Training) -> float:
    """The rate of the mission's step `step` (from 1): linear warm-up, then its schedule.

    Linear and cosine schedules start at the full rate after the warm-up and are 0 after
    `total_steps`.
    """
    if step <= training.warmup_steps:
        return training.learning_rate * step / training.warmup_steps
    span = max(1, training.total_steps - training.warmup_steps)
    progress = min(1.0, (step - 1 - training.warmup_steps) / span)
    shares = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }
    return training.learning_rate * shares[training.schedule]


def adam_step(previous: int, mission_step: int, grad_norm: float, training: Training) -> AdamStep:
    """The step after the policy's `previous`, clipped as `torch.nn.utils.clip_grad_norm_` does.

    The policy's count corrects the bias of the moments, the mission's is its schedule's.
    """
    return AdamStep(
        step=previous + 1,
        learning_rate=learning_rate(mission_step, training),
        grad_norm=grad_norm,
        clip_factor=min(1.0, training.clip_norm / (grad_norm + 1e-6)),
    )


def delta_step(previous: int, norm: float, training: Training) -> AdamStep:
    """The step along the mean of deltas: Reptile's outer one (arXiv 1803.02999, Algorithm 2)."""
    rate = training.outer_rate
    return AdamStep(
        rule="delta", step=previous, learning_rate=rate, grad_norm=norm, clip_factor=1.0
    )


def adamw_(
    weights: torch.Tensor,
    gradient: torch.Tensor,
    moments: Moments,
    step: AdamStep,
    training: Training,
) -> None:
    """Clip the gradient and update weights and moments, all in place."""
    beta1, beta2 = training.betas
    adamw(
        [weights],
        [gradient.mul_(step.clip_factor)],
        [moments.exp_avg],
        [moments.exp_avg_sq],
        [],
        [torch.tensor(float(step.step - 1))],
        fused=True,
        foreach=False,
        amsgrad=False,
        maximize=False,
        beta1=beta1,
        beta2=beta2,
        lr=step.learning_rate,
        weight_decay=training.weight_decay,
        eps=training.eps,
    )
