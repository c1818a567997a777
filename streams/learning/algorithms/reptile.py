"""Reptile: an initialisation from which a few steps learn a new task (arXiv 1803.02999)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from streams.learning.algorithms.episodes import Inner, Learnt, TaskEpisodes
from streams.learning.algorithms.ppo import Ppo
from streams.learning.algorithms.registry import algorithm

if TYPE_CHECKING:
    import torch

    from streams.learning.control.torch_mlp import TorchPolicy


@algorithm("reptile")
class Reptile(Ppo):
    """PPO as the inner loop on each task alone; the step goes along the mean of what came of them.

    Algorithm 2: φ ← φ + ε · 1/n · Σ (φ_i - φ). The sum over the tasks of an upload is here, the one
    over uploads is the aggregator's, and ε is `training.outer_rate`.
    """

    def learn(self, policy: "TorchPolicy", batch: Sequence[TaskEpisodes], inner: Inner) -> Learnt:
        """Leave the policy at the mean of the inner loops, each from where it was."""
        from streams.learning.control.episodes import joined
        from streams.learning.engines.counters import keyed

        start = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
        tasks: dict[str, list[TaskEpisodes]] = {}
        for one in batch:
            tasks.setdefault(one.task, []).append(one)
        ends: list[dict[str, torch.Tensor]] = []
        learnt: list[Learnt] = []
        for number, own in enumerate(tasks.values()):
            policy.take(start)
            episodes = joined([one.episodes for one in own])
            one_inner = replace(inner, seed=keyed(inner.seed, number))
            learnt.append(self._learn(policy, episodes, one_inner))
            ends.append({name: tensor.clone() for name, tensor in policy.state_dict().items()})
        policy.take({name: _mean([end[name] for end in ends]) for name in start})
        return _summed(learnt)


def _mean(tensors: "Sequence[torch.Tensor]") -> "torch.Tensor":
    """In the order given: sums of float32 depend on it."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    return total / len(tensors)


def _summed(learnt: Sequence[Learnt]) -> Learnt:
    names = learnt[0].stats.keys()
    stats = {n: sum(one.stats.get(n, 0.0) for one in learnt) / len(learnt) for n in names}
    first = learnt[0]
    steps = sum(one.steps for one in learnt)
    return Learnt(steps, first.epochs, first.minibatch, stats | {"tasks": float(len(learnt))})
