"""Off-policy corrections: what the ratio is taken against, and the weight of a token."""

import pytest
import torch

from streams.learning.algorithms import algorithm
from streams.learning.algorithms.corrections import (
    Correction,
    anchor,
    importance,
    ratio,
    sequence_mask,
)
from streams.learning.algorithms.objective import TokenBatch

OLD = torch.tensor([[-1.0, -1.0, -1.0, -1.0]])
MU = OLD - torch.tensor([[0.0, 0.1, 3.0, -3.0]])
"""The trainer finds the tokens 1, 1.105, 20.09 and 0.0498 times as likely as the sampler."""


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        ("bypass", [1.0, 1.0, 1.0, 1.0]),
        ("decoupled", [1.0, 1.105171, 20.085537, 0.049787]),
        ("tis", [1.0, 1.105171, 2.0, 0.049787]),
        ("icepop", [1.0, 1.105171, 0.0, 0.0]),
    ],
)
def test_weights(correction: Correction, expected: list[float]) -> None:
    found = importance(correction, OLD, MU, (0.0, 2.0), (0.5, 5.0))
    assert found[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_only_bypass_takes_the_ratio_against_the_sampler() -> None:
    assert anchor("bypass", OLD, MU) is not OLD
    torch.testing.assert_close(anchor("bypass", OLD, MU), MU)
    for correction in ("decoupled", "tis", "icepop"):
        torch.testing.assert_close(anchor(correction, OLD, MU), OLD)


def test_nothing_in_a_weight_has_a_gradient() -> None:
    old = OLD.clone().requires_grad_()
    assert not importance("decoupled", old, MU, (0.0, 2.0), (0.5, 5.0)).requires_grad
    assert not anchor("decoupled", old, MU).requires_grad
    assert not sequence_mask(old, MU, torch.ones_like(old), (0.9, 1.1)).requires_grad


def test_a_ratio_cannot_overflow() -> None:
    far = ratio(torch.tensor([0.0, -500.0]), torch.tensor([-500.0, 0.0]))
    assert bool(far.isfinite().all())


def test_a_sequence_is_masked_by_its_geometric_mean() -> None:
    old = torch.tensor([[-1.0, -1.0, 0.0], [-1.0, -1.0, -1.0]])
    mu = torch.tensor([[-1.3, -0.7, 9.0], [-1.1, -1.1, -1.1]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    assert sequence_mask(old, mu, mask, (0.999, 1.002)).tolist() == [[1.0], [0.0]]


def test_corrections_of_a_step_are_gradients_of_what_they_say() -> None:
    """One step: r is 1 in value for all but bypass, so the gradient is -weight·A / tokens."""
    for correction in ("decoupled", "tis", "icepop"):
        new = OLD.clone().requires_grad_()
        loss, stats = algorithm("grpo", {"correction": correction}).loss(_batch(new))
        loss.backward()
        weight = importance(correction, OLD, MU, (0.0, 2.0), (0.5, 5.0))
        torch.testing.assert_close(new.grad, -weight / 4)
        assert float(stats["clip_fraction"]) == 0


def test_bypass_clips_where_the_policy_moved_too_far() -> None:
    new = OLD.clone().requires_grad_()
    loss, stats = algorithm("grpo", {"correction": "bypass"}).loss(_batch(new))
    loss.backward()
    assert new.grad is not None
    assert new.grad[0].tolist() == pytest.approx([-0.25, -0.276293, 0.0, -0.012447], abs=1e-5)
    assert float(stats["clip_fraction"]) == 0.25


def test_sequence_bounds_drop_the_rollout_from_the_policy_term() -> None:
    new = OLD.clone().requires_grad_()
    settings = {"correction": "decoupled", "sequence_bounds": [0.999, 1.002]}
    loss, _ = algorithm("grpo", settings).loss(_batch(new))
    assert loss.item() == 0


def _batch(new: torch.Tensor) -> TokenBatch:
    ones = torch.ones_like(new)
    return TokenBatch(
        logp=new,
        mu=MU,
        old=new.detach(),
        advantages=ones,
        mask=ones,
        entropy=torch.zeros_like(new),
        tokens=4,
        rows=1,
    )
