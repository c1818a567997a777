"""A control policy in torch, actor and critic, as trainers change it; and how one is made new."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from schemas.missions import NewPolicy
from schemas.policies import PolicyConfig
from streams.learning.control.mlp import BadPolicy, shapes
from streams.learning.control.model import CONFIG

SHARD = "model.safetensors"
_LEAST_VARIANCE = 1e-6


class TorchPolicy(nn.Module):  # type: ignore[misc]
    """The tensors of `schemas.policies` as parameters and buffers of the same names."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        inputs, outputs = len(config.observation), len(config.action)
        self.actor = _layers([inputs, *config.hidden, outputs])
        self.critic = _layers([inputs, *config.hidden, 1])
        self.log_std = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("obs_mean", torch.zeros(inputs))
        self.register_buffer("obs_var", torch.ones(inputs))
        self.register_buffer("obs_count", torch.zeros(1))

    def normalised(self, observations: Tensor) -> Tensor:
        """Observations as the layers see them, [rows, observations]."""
        x = (observations - self.obs_mean) / torch.sqrt(self.obs_var + 1e-8)
        return x.clamp(-self.config.clip, self.config.clip)

    def mean(self, normalised: Tensor) -> Tensor:
        """The mean action in half-widths of the range, [rows, actions]."""
        return _through(self.actor, normalised)

    def value(self, normalised: Tensor) -> Tensor:
        """What the critic expects of the future, [rows]."""
        return _through(self.critic, normalised).squeeze(-1)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold these tensors; raises `BadPolicy` where they are those of another shape."""
        held = self.state_dict()
        for name, shape in shapes(self.config).items():
            found = tensors.get(name)
            if found is None or tuple(found.shape) != shape:
                what = "missing" if found is None else f"of shape {list(found.shape)}"
                raise BadPolicy(f"tensor {name} is {what}, the policy has {list(shape)}")
        with torch.no_grad():
            for name, tensor in held.items():
                tensor.copy_(tensors[name])

    def observe(self, observations: Tensor, share: float) -> None:
        """Take observations into mean, variance and count; they weigh `share` at most.

        Welford's update for a batch: Chan, Golub and LeVeque, 1979; but for the bound, which keeps
        the sum of the deltas of uploads on one base from turning a variance negative.
        """
        rows = len(observations)
        data = observations.double()
        variance, mean = torch.var_mean(data, 0, correction=0)
        weight = min(rows / (rows + float(self.obs_count)), share)
        apart = mean - self.obs_mean
        self.obs_mean += (weight * apart).float()
        # Far above what rounding a difference of weights can lose, so it never becomes negative.
        spread = (variance + (1 - weight) * apart.square()).clamp(min=_LEAST_VARIANCE)
        self.obs_var += (weight * (spread - self.obs_var)).float()
        self.obs_count += rows


def _layers(widths: list[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))


def _through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    *hidden, last = layers
    for layer in hidden:
        x = torch.tanh(layer(x))
    out: Tensor = last(x)
    return out


def new_policy(size: NewPolicy, config: PolicyConfig, folder: Path) -> None:
    """Write a policy with random weights to a folder; equal sizes and seeds give equal bytes.

    Orthogonal layers, the actor's last one nearly zero, so that it begins in the middle of the
    range: Andrychowicz et al., arXiv 2006.05990, section 3.2.
    """
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(size.seed)
        policy = TorchPolicy(config)
        for part, gain in ((policy.actor, 0.01), (policy.critic, 1.0)):
            for layer in part:
                last = layer is part[-1]
                nn.init.orthogonal_(layer.weight, gain if last else 2**0.5)
                nn.init.zeros_(layer.bias)
    nn.init.constant_(policy.log_std, size.log_std)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")
    save_file(policy.state_dict(), folder / SHARD, {"format": "pt"})
