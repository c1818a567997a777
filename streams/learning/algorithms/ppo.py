"""PPO (arXiv 1707.06347) with GAE (arXiv 1506.02438): minibatch steps on one batch of episodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, pi
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from schemas.base import Strict
from streams.learning.algorithms.corrections import ratio
from streams.learning.algorithms.episodes import EpisodeAlgorithm, Inner, Learnt, TaskEpisodes
from streams.learning.algorithms.objective import clipped, is_clipped, k3
from streams.learning.algorithms.registry import algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from streams.learning.control.episodes import Episodes
    from streams.learning.control.torch_mlp import TorchPolicy

Floats = npt.NDArray[np.float32]


class PpoSettings(Strict):
    """The settings of PPO; the inner optimizer's are those of `training`."""

    epochs: int = Field(10, ge=1, description="passes over the batch")
    minibatch: int = Field(256, ge=1, description="environment steps in an optimizer step")
    gamma: float = Field(0.99, ge=0, le=1, description="discount")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of the advantage estimate")
    clip: float = Field(0.2, gt=0, lt=1, description="the ratio is clipped to 1 - clip … 1 + clip")
    value_clip: float | None = Field(None, gt=0, description="how far a value moves at most")
    value_coefficient: float = Field(0.5, ge=0, description="of the squared error of values")
    entropy: float = Field(0.0, ge=0, description="coefficient of the entropy bonus")
    normalise_advantages: bool = Field(True, description="to mean 0 and deviation 1 over the batch")
    reward_scale: float = Field(1.0, gt=0, description="rewards are multiplied by this")


@dataclass(frozen=True, slots=True)
class StepBatch:
    """Environment steps, one a row: as they were sampled, with what they are to be judged by."""

    obs: "Tensor"
    actions: "Tensor"
    mu: "Tensor"
    advantages: "Tensor"
    returns: "Tensor"
    values: "Tensor"

    def rows(self, which: "Tensor") -> "StepBatch":
        """Some of the rows."""
        names = self.__dataclass_fields__
        return StepBatch(**{name: getattr(self, name)[which] for name in names})


def gae(
    rewards: Floats, values: Floats, last_value: float, gamma: float, lam: float
) -> npt.NDArray[np.float64]:
    """Advantages of one episode, [steps]: arXiv 1506.02438, Eq. 11, 12 and 16.

    d_t = r_t + gamma V(s_{t+1}) - V(s_t), A_t = d_t + gamma lam A_{t+1}. `last_value` is V of what
    was seen last: 0 where the episode ended by itself, the critic's word where the time limit cut
    it off.
    """
    after = np.append(values[1:], np.float32(last_value)).astype(np.float64)
    deltas = rewards + gamma * after - values
    advantages = np.zeros(len(rewards))
    following = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = deltas[t] + gamma * lam * following
        advantages[t] = following
    return advantages


def log_density(actions: "Tensor", mean: "Tensor", log_std: "Tensor") -> "Tensor":
    """Of Gaussian actions, [rows]."""
    import math

    noise = (actions - mean) * (-log_std).exp()
    each = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * pi)
    return each.sum(-1)


@algorithm("ppo")
class Ppo(EpisodeAlgorithm):
    """Proximal policy optimization with a critic of its own weights."""

    settings_class: ClassVar[type[Strict]] = PpoSettings
    settings: PpoSettings

    def learn(self, policy: "TorchPolicy", batch: Sequence[TaskEpisodes], inner: Inner) -> Learnt:
        """Epochs of minibatch steps on all episodes together, whatever their tasks."""
        from streams.learning.control.episodes import joined

        return self._learn(policy, joined([one.episodes for one in batch]), inner)

    def _learn(self, policy: "TorchPolicy", episodes: "Episodes", inner: Inner) -> Learnt:
        import torch

        policy.observe(torch.from_numpy(episodes.obs), inner.normaliser_share)
        steps = self.judged(policy, episodes)
        optimizer = torch.optim.AdamW(
            policy.parameters(),
            lr=inner.learning_rate,
            betas=inner.betas,
            eps=inner.eps,
            weight_decay=inner.weight_decay,
            fused=True,
        )
        sums: dict[str, float] = {}
        count = 0
        for rows in self._minibatches(len(steps.mu), inner.seed):
            part = steps.rows(torch.from_numpy(rows))
            loss, stats = self.loss(policy, part)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), inner.clip_norm)
            optimizer.step()
            count += 1
            for name, value in {**stats, "grad_norm": norm}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        means = {name: value / count for name, value in sums.items()}
        s = self.settings
        return Learnt(count, s.epochs, s.minibatch, means | _described(policy, steps))

    def _minibatches(self, size: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
        from streams.learning.engines.counters import keyed, permutation

        for epoch in range(self.settings.epochs):
            order = permutation(keyed(seed, epoch), size)
            for start in range(0, size, self.settings.minibatch):
                yield order[start : start + self.settings.minibatch]

    def judged(self, policy: "TorchPolicy", episodes: "Episodes") -> StepBatch:
        """The steps with their observations normalised, advantages and what values should be."""
        import torch

        s = self.settings
        with torch.no_grad():
            obs = policy.normalised(torch.from_numpy(episodes.obs))
            values = policy.value(obs).numpy()
            last = policy.value(policy.normalised(torch.from_numpy(episodes.last_obs))).numpy()
        bootstrap = np.where(episodes.terminated, np.float32(0), last)
        rewards = episodes.rewards * np.float32(s.reward_scale)
        advantages = np.concatenate(
            [
                gae(rewards[part], values[part], float(after), s.gamma, s.gae_lambda)
                for part, after in zip(episodes.parts(), bootstrap, strict=True)
            ]
        )
        returns = advantages + values
        if s.normalise_advantages:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        return StepBatch(
            obs=obs,
            actions=torch.from_numpy(episodes.actions),
            mu=torch.from_numpy(episodes.logprobs),
            advantages=torch.from_numpy(advantages.astype(np.float32)),
            returns=torch.from_numpy(returns.astype(np.float32)),
            values=torch.from_numpy(values),
        )

    def loss(self, policy: "TorchPolicy", batch: StepBatch) -> "tuple[Tensor, dict[str, Tensor]]":
        """-L^CLIP + c1·L^VF - c2·S of arXiv 1707.06347, Eq. 7 and 9, as means over the rows."""
        s = self.settings
        new = log_density(batch.actions, policy.mean(batch.obs), policy.log_std)
        r = ratio(new, batch.mu)
        surrogate = clipped(r, batch.advantages, s.clip, s.clip, None).mean()
        value_loss = self._value_loss(policy.value(batch.obs), batch)
        entropy = (policy.log_std + 0.5 * (1 + np.log(2 * pi))).sum()
        loss = -surrogate + s.value_coefficient * value_loss - s.entropy * entropy
        stats = {
            "loss": loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "kl": k3(batch.mu, new).mean(),
            "ratio_mean": r.mean(),
            "clip_fraction": is_clipped(r, batch.advantages, s.clip, s.clip).mean(),
        }
        return loss, {name: value.detach() for name, value in stats.items()}

    def _value_loss(self, values: "Tensor", batch: StepBatch) -> "Tensor":
        """Half the squared error; where the move is clipped, the larger of both errors."""
        error = (values - batch.returns).square()
        limit = self.settings.value_clip
        if limit is not None:
            near = batch.values + (values - batch.values).clamp(-limit, limit)
            error = error.maximum((near - batch.returns).square())
        return 0.5 * error.mean()


def _described(policy: "TorchPolicy", steps: StepBatch) -> dict[str, float]:
    """How well values foretold returns, and how much it explores."""
    spread = float(steps.returns.var(correction=0))
    missed = float((steps.returns - steps.values).var(correction=0))
    explained = 1 - missed / spread if spread > 0 else 0.0
    stats = {
        "explained_variance": explained,
        "std_mean": float(policy.log_std.detach().exp().mean()),
    }
    return {name: value for name, value in stats.items() if isfinite(value)}
