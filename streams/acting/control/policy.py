"""A learnt control policy in numpy: loaded whole or not at all, hashed as it is in memory.

The forward pass and the names of the tensors are those of `schemas.policies`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from schemas.acting import PolicyRef
from schemas.ids import derived_seed
from schemas.policies import PolicyConfig

Floats = NDArray[np.float32]
Tensors = Mapping[str, NDArray[Any]]
CONFIG = "config.json"
_VARIANCE_FLOOR = np.float32(1e-8)


class PolicyError(ValueError):
    """These files are no policy that can act; the message says what is wrong with them."""


def acting_sha256(tensors: Tensors) -> str:
    """SHA-256 over the tensors that decide an action: names, shapes and little-endian bytes.

    Those of the critic and `obs_count` are for learning and left out.
    """
    whole = hashlib.sha256()
    for name in sorted(tensors):
        if name.startswith("critic.") or name == "obs_count":
            continue
        array = np.ascontiguousarray(tensors[name])
        whole.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


@dataclass(frozen=True)
class Policy:
    """A policy that acts; its arrays are read-only, so what was hashed is what acts."""

    ref: PolicyRef
    config: PolicyConfig
    layers: Sequence[tuple[Floats, Floats]]
    mean_and_scale: tuple[Floats, Floats]
    std: Floats
    low: Floats
    high: Floats

    def mean(self, observation: Floats) -> Floats:
        """The mean action of one observation [inputs], or of a batch of them [n, inputs].

        In units of the half-width of each action's range around its middle; float32.
        """
        centre, scale = self.mean_and_scale
        clip = np.float32(self.config.clip)
        x = np.clip((observation - centre) / scale, -clip, clip)
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight.T + bias)
        weight, bias = self.layers[-1]
        last: Floats = x @ weight.T + bias
        return last

    def noisy(self, mean: Floats, *key: object) -> Floats:
        """The mean with noise that depends on `key` alone, where this policy explores."""
        if not self.config.explores:
            return mean
        source = np.random.Generator(np.random.Philox(key=derived_seed("noise", *key)))
        return mean + self.std * source.standard_normal(mean.size, dtype=np.float32)

    def set_point(self, action: Floats) -> list[float]:
        """The set-point of an action, clipped to the range; NaN stays NaN."""
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        clipped = np.clip(middle + half * action, self.low, self.high)
        return [float(value) for value in clipped]


def load_policy(name: str, version: int, files: Mapping[str, bytes]) -> Policy:
    """The policy in these files {file name: bytes}; raises `PolicyError`."""
    config = _config(files)
    tensors: dict[str, NDArray[Any]] = {}
    for file in sorted(files):
        if file.endswith(".safetensors"):
            tensors.update(_tensors(file, files[file]))
    _check_tensors(config, tensors)
    for array in tensors.values():
        array.setflags(write=False)
    low, high = (np.array(ends, np.float32) for ends in (config.low, config.high))
    return Policy(
        PolicyRef(policy=name, version=version, sha256=acting_sha256(tensors)),
        config,
        [(tensors[f"{stem}.weight"], tensors[f"{stem}.bias"]) for stem, _ in _stems(config)],
        (tensors["obs_mean"], np.sqrt(tensors["obs_var"] + _VARIANCE_FLOOR)),
        np.exp(tensors["log_std"]),
        low,
        high,
    )


def _config(files: Mapping[str, bytes]) -> PolicyConfig:
    if CONFIG not in files:
        raise PolicyError(f"no {CONFIG} among {', '.join(sorted(files)) or 'no files'}")
    try:
        config = PolicyConfig.model_validate_json(files[CONFIG])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise PolicyError(f"{CONFIG}: {first['loc']}: {first['msg']}") from error
    wide = [high > low for low, high in zip(config.low, config.high, strict=False)]
    if not len(config.action) == len(config.low) == len(config.high) or not all(wide):
        raise PolicyError(f"{CONFIG}: low and high are not a range for each of {config.action}")
    return config


def _tensors(file: str, data: bytes) -> dict[str, NDArray[Any]]:
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise PolicyError(f"{file} is no whole safetensors file: {error}") from error


def _stems(config: PolicyConfig) -> list[tuple[str, tuple[int, int]]]:
    """Each layer's name, with its outputs and inputs."""
    sizes = [len(config.observation), *config.hidden, len(config.action)]
    pairs = zip(sizes[1:], sizes[:-1], strict=True)
    return [(f"actor.{i}", pair) for i, pair in enumerate(pairs)]


def _check_tensors(config: PolicyConfig, tensors: Tensors) -> None:
    """Every tensor is there, float32, of the shape that the config says, finite."""
    inputs, actions = len(config.observation), len(config.action)
    shapes: dict[str, tuple[int, ...]] = {
        "obs_mean": (inputs,),
        "obs_var": (inputs,),
        "log_std": (actions,),
    }
    for stem, pair in _stems(config):
        shapes |= {f"{stem}.weight": pair, f"{stem}.bias": pair[:1]}
    for name, shape in shapes.items():
        if name not in tensors:
            raise PolicyError(f"tensor {name} is missing")
        found = tensors[name]
        if found.dtype != np.float32 or found.shape != shape:
            kind = f"{found.dtype} {found.shape}"
            raise PolicyError(f"tensor {name} is {kind}, {config.architecture} needs {shape}")
        if not np.isfinite(found).all():
            raise PolicyError(f"tensor {name} is not finite")
    if (tensors["obs_var"] < 0).any():
        raise PolicyError("tensor obs_var is negative")
    extra = {name for name in tensors if name.startswith("actor.")} - shapes.keys()
    if extra:
        raise PolicyError(f"tensors {', '.join(sorted(extra))} are of no layer of the config")
