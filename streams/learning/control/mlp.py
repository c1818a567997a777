"""A control policy in numpy, as robots and samplers run it: no torch. See `schemas.policies`."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from schemas.policies import PolicyConfig

Floats = npt.NDArray[np.float32]
_LOG_2PI = float(np.log(2 * np.pi))


class BadPolicy(ValueError):
    """The tensors are not those of a policy of this shape, or not finite."""


def shapes(config: PolicyConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a policy by name, those of the critic included."""
    inputs, outputs = len(config.observation), len(config.action)
    named: dict[str, tuple[int, ...]] = {
        "log_std": (outputs,),
        "obs_mean": (inputs,),
        "obs_var": (inputs,),
        "obs_count": (1,),
    }
    for part, last in (("actor", outputs), ("critic", 1)):
        widths = [inputs, *config.hidden, last]
        for i, (before, after) in enumerate(pairwise(widths)):
            named[f"{part}.{i}.weight"] = (after, before)
            named[f"{part}.{i}.bias"] = (after,)
    return named


class MlpPolicy:
    """The actor of a policy: observations in, actions out, row by row."""

    def __init__(self, config: PolicyConfig, tensors: Mapping[str, Floats]) -> None:
        """Take the actor's tensors; raises `BadPolicy`. A critic may be missing."""
        self.config = config
        needed = {n: s for n, s in shapes(config).items() if not n.startswith("critic.")}
        for name, shape in needed.items():
            _check(name, shape, tensors.get(name))
        layers = len(config.hidden) + 1
        self._weights = [tensors[f"actor.{i}.weight"].T for i in range(layers)]
        self._biases = [tensors[f"actor.{i}.bias"] for i in range(layers)]
        self._mean = tensors["obs_mean"]
        self._scale: Floats = 1 / np.sqrt(tensors["obs_var"] + np.float32(1e-8))
        self.log_std: Floats = tensors["log_std"]
        self._std: Floats = np.exp(self.log_std)
        low, high = np.array([config.low, config.high], dtype=np.float64)
        self._middle, self._half = (high + low) / 2, (high - low) / 2

    def mean(self, observations: Floats) -> Floats:
        """The mean action in half-widths of the range, [rows, actions], unbounded."""
        x = (observations - self._mean) * self._scale
        h: Floats = np.clip(x, -self.config.clip, self.config.clip)
        last = len(self._weights) - 1
        for i, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            h = h @ weight + bias
            if i < last:
                h = np.tanh(h)
        return h

    def drawn(self, mean: Floats, noise: Floats) -> tuple[Floats, Floats]:
        """Actions mean + exp(log_std)·noise, [rows, actions], and their log-density, [rows].

        The density is the Gaussian's, before the result is clipped to the range.
        """
        actions: Floats = mean + self._std * noise
        logp = -0.5 * noise * noise - self.log_std - np.float32(0.5 * _LOG_2PI)
        return actions, logp.sum(-1, dtype=np.float32)

    def set_points(self, actions: Floats) -> npt.NDArray[np.float64]:
        """What the actions are in the environment's units, clipped to its range."""
        bounded = np.clip(actions.astype(np.float64), -1.0, 1.0)
        set_points: npt.NDArray[np.float64] = self._middle + self._half * bounded
        return set_points


def _check(name: str, shape: tuple[int, ...], tensor: Floats | None) -> None:
    if tensor is None or tensor.shape != shape or tensor.dtype != np.float32:
        found = "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
        raise BadPolicy(f"tensor {name} is {found}, float32 {list(shape)} is needed")
    if not np.isfinite(tensor).all():
        raise BadPolicy(f"tensor {name} is not finite")
    if name == "obs_var" and (tensor < 0).any():
        raise BadPolicy("tensor obs_var is negative")
