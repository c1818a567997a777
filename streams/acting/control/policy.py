"""A learnt control policy on a robot: loaded whole or not at all, hashed as it is in memory."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from schemas.acting import PolicyRef
from schemas.ids import derived_seed
from schemas.policies import PolicyConfig
from streams.learning.control.mlp import BadPolicy, Floats, MlpPolicy, shapes

Tensors = Mapping[str, NDArray[Any]]
CONFIG = "config.json"


class PolicyError(ValueError):
    """These files are no policy that can act; the message says what is wrong with them."""


class Policy:
    """A policy that acts; its arrays are read-only, so what was hashed is what acts."""

    def __init__(self, name: str, version: int, config: PolicyConfig, tensors: Tensors) -> None:
        """Raises `BadPolicy` where the tensors are not those of the config."""
        self.config = config
        self._mlp = MlpPolicy(config, tensors)
        self._seen = tensors["obs_mean"], np.sqrt(tensors["obs_var"])
        self.ref = PolicyRef(policy=name, version=version, sha256=acting_sha256(tensors))

    @property
    def seen(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each input, as far as it was learnt on."""
        return self._seen

    def mean(self, observation: Floats) -> Floats:
        """The mean action of one observation [inputs], or of a batch [n, inputs].

        In half-widths of each action's range; not finite where the weights are too large for it.
        """
        with np.errstate(all="ignore"):
            return self._mlp.mean(observation)

    def set_point(self, mean: Floats, *key: object) -> list[float]:
        """What to do: with noise that depends on `key` alone, where this policy explores.

        In the driver's units, clipped to the policy's range; NaN stays NaN.
        """
        action = mean
        if self.config.explores:
            source = np.random.Generator(np.random.Philox(key=derived_seed("noise", *key)))
            noise = source.standard_normal(mean.size, dtype=np.float32)
            action, _ = self._mlp.drawn(mean, noise)
        return [float(value) for value in self._mlp.set_points(action)]


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


def load_policy(name: str, version: int, files: Mapping[str, bytes]) -> Policy:
    """The policy in these files {file name: bytes}; raises `PolicyError`."""
    config = _config(files)
    tensors: dict[str, NDArray[Any]] = {}
    for file in sorted(files):
        if file.endswith(".safetensors"):
            tensors.update(_tensors(file, files[file]))
    for array in tensors.values():
        array.setflags(write=False)
    if extra := [n for n in tensors if n.startswith("actor.") and n not in shapes(config)]:
        raise PolicyError(f"tensors {', '.join(sorted(extra))} are of no layer of the config")
    try:
        return Policy(name, version, config, tensors)
    except BadPolicy as error:
        raise PolicyError(str(error)) from error


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
