"""From groups of completions to one flat gradient: forward, loss, backward; no I/O, no clock.

Right padding needs no attention mask under causal attention: what is padded is never looked at.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from schemas.learning import LocalSteps, Rollout, SampleGroup
from schemas.missions import Mission, RolloutSpec
from streams.learning.algorithms import token_algorithm
from streams.learning.algorithms.objective import TokenBatch
from streams.learning.engines.draws import log_distribution
from streams.learning.layout import FlatLayout

if TYPE_CHECKING:
    from streams.learning.algorithms.base import Algorithm

Row = tuple[Sequence[int], Rollout, float]
"""Prompt, completion, advantage."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities and entropies of completions, [rows, tokens]; zero where mask is zero."""

    logp: Tensor
    entropy: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Gradient:
    """A flat float32 gradient on the CPU, with what it was made of.

    `weight` is what the policy term is a mean over; `micro_batches` the rollouts of each backward.
    With `local` it is a delta, and that is how it came about.
    """

    vector: Tensor
    weight: float
    micro_batches: list[int]
    stats: dict[str, float]
    local: LocalSteps | None = None


class GradientError(ArithmeticError):
    """The gradient is not finite, or the model has not the tensors of the layout."""


def upload_gradient(
    model: nn.Module,
    layout: FlatLayout,
    mission: Mission,
    groups: Sequence[SampleGroup],
    reference: nn.Module | None = None,
) -> Gradient:
    """The gradient of the mission's loss on these groups, in their order; the model has it too.

    Equal inputs, threads and torch build give equal bits. `reference` is needed where the
    algorithm's `kl` is above zero. Raises `GradientError` when something is not finite.
    """
    learner = token_algorithm(mission)
    rows, signal = _rows(learner, groups)
    tokens = sum(len(rollout.tokens) for _, rollout, _ in rows)
    model.eval()
    model.zero_grad(set_to_none=True)
    sums: dict[str, float] = defaultdict(float)
    micro_batches = []
    for part in _parts(rows, mission.training.micro_batch):
        scored = _scored(model, part, mission.rollout)
        ref = None
        if reference is not None:
            with torch.no_grad():
                ref = _scored(reference, part, mission.rollout).logp
        batch = _token_batch(scored, part, tokens, len(rows), ref)
        loss, stats = learner.loss(batch)
        loss.backward()
        micro_batches.append(len(part))
        for key, value in stats.items():
            sums[key] += float(value)
    sums["reward_mean"] = fmean(rollout.reward for _, rollout, _ in rows)
    sums["signal"] = fmean(signal)
    sums["length_mean"] = tokens / len(rows)
    vector = flat_gradient(model, layout)
    _check_finite(vector, sums)
    return Gradient(vector, float(learner.units(tokens, len(rows))), micro_batches, dict(sums))


def policy_logprobs(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Scored:
    """Score each completion after its prompt under softmax(logits / temperature).

    With top-p below one, over the model's own nucleus and the sampled token, so that every ratio
    is finite, and one where the weights are the sampler's.
    """
    device = next(model.parameters()).device
    starts = [len(prompt) - 1 for prompt in prompts]
    first = min(starts)
    full = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    # A row's own first token pads it: the pad token would make transformers ask for a mask.
    inputs = _padded(full, [row[0] for row in full], torch.long).to(device)[:, :-1]
    targets = _padded(completions, [0] * len(full), torch.long).to(device)
    mask = _padded([[1.0] * len(c) for c in completions], [0.0] * len(full), torch.float32)
    mask = mask.to(device)
    logits = model(input_ids=inputs, use_cache=False, logits_to_keep=inputs.shape[1] - first).logits
    logits = _aligned(logits, [start - first for start in starts], targets.shape[1]).float()
    log_probs = (logits / temperature).log_softmax(-1)
    probs = log_probs.exp()
    if top_p < 1:
        kept = log_distribution(logits.detach(), temperature, top_p).isfinite()
        kept = kept.scatter(-1, targets[..., None], True)
        log_probs = log_probs - (probs * kept).sum(-1, keepdim=True).log()
        probs = log_probs.exp() * kept
    logp = log_probs.gather(-1, targets[..., None]).squeeze(-1)
    entropy = -(probs * log_probs).sum(-1)
    return Scored(logp * mask, entropy * mask, mask)


def flat_gradient(model: nn.Module, layout: FlatLayout) -> Tensor:
    """The gradients in the layout's order, float32 on the CPU; zeros where there is none.

    Raises `GradientError` when a parameter has another shape than its slot.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    vector = torch.zeros(layout.total)
    for slot in layout.slots:
        parameter = parameters.get(slot.name)
        if parameter is None or parameter.grad is None:
            continue
        if tuple(parameter.shape) != slot.shape:
            raise GradientError(
                f"{slot.shard}: tensor {slot.name} is {slot.shape} in the layout, "
                f"{tuple(parameter.shape)} in the model"
            )
        vector[slot.start : slot.stop] = parameter.grad.detach().reshape(-1).to("cpu")
    return vector


def _rows(learner: "Algorithm", groups: Sequence[SampleGroup]) -> tuple[list[Row], list[bool]]:
    advantages = learner.advantages([group.rollouts for group in groups])
    rows: list[Row] = [
        (group.prompt_tokens, rollout, value)
        for group, values in zip(groups, advantages.values, strict=True)
        for rollout, value in zip(group.rollouts, values, strict=True)
    ]
    return rows, advantages.signal


def _parts(rows: list[Row], size: int) -> Iterator[list[Row]]:
    step = size or len(rows)
    return (rows[i : i + step] for i in range(0, len(rows), step))


def _scored(model: nn.Module, part: list[Row], spec: RolloutSpec) -> Scored:
    prompts = [prompt for prompt, _, _ in part]
    completions = [rollout.tokens for _, rollout, _ in part]
    return policy_logprobs(model, prompts, completions, spec.temperature, spec.top_p)


def _token_batch(
    new: Scored, part: list[Row], tokens: int, rows: int, ref: Tensor | None
) -> TokenBatch:
    mu = _padded([rollout.logprobs for _, rollout, _ in part], [0.0] * len(part), torch.float32)
    advantages = torch.tensor([[value] for _, _, value in part], dtype=torch.float32)
    return TokenBatch(
        logp=new.logp,
        mu=mu.to(new.logp.device),
        old=new.logp.detach(),
        advantages=advantages.to(new.logp.device) * new.mask,
        mask=new.mask,
        entropy=new.entropy,
        tokens=tokens,
        rows=rows,
        ref=ref,
    )


def _aligned(logits: Tensor, offsets: list[int], tokens: int) -> Tensor:
    """Shift each row left by its offset, so that column t scores the completion's token t."""
    if not any(offsets):
        return logits[:, :tokens]
    columns = torch.tensor(offsets, device=logits.device)[:, None] + torch.arange(
        tokens, device=logits.device
    )
    columns = columns.clamp(max=logits.shape[1] - 1)
    return logits.take_along_dim(columns[..., None], 1)


def _padded(
    rows: Sequence[Sequence[float]], padding: Sequence[float], dtype: torch.dtype
) -> Tensor:
    width = max(len(row) for row in rows)
    full = [[*row, *[pad] * (width - len(row))] for row, pad in zip(rows, padding, strict=True)]
    return torch.tensor(full, dtype=dtype)


def _check_finite(vector: Tensor, stats: dict[str, float]) -> None:
    bad = sorted(key for key, value in stats.items() if not isfinite(value))
    if bad or not bool(vector.isfinite().all()):
        raise GradientError(f"the gradient is not finite ({', '.join(bad) or 'in the backward'})")
