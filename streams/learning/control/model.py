"""A control policy in memory, following the weight versions of one policy."""

from collections.abc import Generator
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors.numpy import load

from schemas.effects import Effect, Get
from schemas.learning import WeightVersion
from schemas.policies import PolicyConfig
from streams.learning.control.mlp import BadPolicy, Floats
from streams.learning.spill import whole

CONFIG = "config.json"


class ControlModel:
    """The configuration and tensors of the version that is held; numpy alone.

    `version` is None before there is one. What changed is fetched, and nothing else.
    """

    def __init__(self) -> None:
        self.version: int | None = None
        self.config: PolicyConfig | None = None
        self.tensors: dict[str, Floats] = {}
        self._held: dict[str, str] = {}

    def follow(self, version: WeightVersion) -> Generator[Effect, Any, bool]:
        """Hold this version; whether anything changed. Raises `BadPolicy`."""
        version = yield from whole(version, "shards")
        if CONFIG not in version.files:
            raise BadPolicy(f"version {version.version} of {version.policy} has no {CONFIG}")
        files = {CONFIG: version.files[CONFIG], **version.shards}
        changed = {n: ref for n, ref in files.items() if self._held.get(n) != ref.sha256}
        fetched: dict[str, bytes] = {}
        for name, ref in changed.items():
            fetched[name] = yield Get(ref)
        for name, data in fetched.items():
            self._take(name, data)
        self._held = {name: ref.sha256 for name, ref in files.items()}
        self.version = version.version
        return bool(changed)

    def _take(self, name: str, data: bytes) -> None:
        if name != CONFIG:
            # Copied, for what safetensors hands out may not be written to.
            self.tensors |= {n: np.array(t) for n, t in load(data).items()}
            return
        try:
            self.config = PolicyConfig.model_validate_json(data)
        except ValidationError as error:
            raise BadPolicy(f"{CONFIG} is of no control policy: {error}") from error
