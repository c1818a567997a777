"""The offers of `ralo bench swaps`: small policies that are whole, and some that must not act."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from infra.store import ObjectStore
from schemas.acting import Golden, Release
from schemas.ids import derived_id
from schemas.policies import PolicyConfig
from streams.acting.control.observation import ARM_NAMES
from streams.acting.control.policy import load_policy
from streams.learning.control.mlp import shapes

POLICY = "bench-reach"
BAD = ("nan", "shape", "truncated", "hash", "golden", "worse")
"""What is wrong with every `BAD_EVERY`-th offer, in turn. `worse` acts, until probation ends it."""
BAD_EVERY = 6
CONFIG = PolicyConfig(
    environment="Reacher-v5",
    observation=list(ARM_NAMES),
    action=["torque_1", "torque_2"],
    low=[-1.0, -1.0],
    high=[1.0, 1.0],
    hidden=[8],
)


def fault_of(version: int) -> str:
    """What is wrong with this version; empty for one that is whole."""
    turn, rest = divmod(version, BAD_EVERY)
    return BAD[turn % len(BAD)] if rest == BAD_EVERY - 1 else ""


def make_offer(store: ObjectStore, prefix: str, robot_id: str, version: int) -> Release:
    """An offer whose files are in the store, below the prefix."""
    fault = fault_of(version)
    files = policy_files(version, fault)
    refs = {name: store.put(f"{prefix}/{version}/{name}", data) for name, data in files.items()}
    if fault == "hash":
        wrong = refs["model.safetensors"].model_copy(update={"sha256": "0" * 64})
        refs["model.safetensors"] = wrong
    return Release(
        release_id=derived_id("bench", prefix, version),
        robot_id=robot_id,
        policy=POLICY,
        version=version,
        stage="OFFERED",
        files=refs,
        golden=_golden(version + 1 if fault == "golden" else version),
        wall_ms=0.0,
    )


def policy_files(version: int, fault: str = "") -> Mapping[str, bytes]:
    """The files of a version: a policy that hardly moves the arm, and explores a little."""
    from safetensors.numpy import save

    tensors = _tensors(version)
    match fault:
        case "nan":
            tensors["actor.1.bias"][0] = np.nan
        case "shape":
            tensors["actor.0.weight"] = tensors["actor.0.weight"][:, 1:].copy()
        case "worse":
            tensors["actor.1.bias"][:] = 5.0
    data = save(tensors)
    config = json.dumps(CONFIG.model_dump(mode="json")).encode()
    shard = data[:-4] if fault == "truncated" else data
    return {"config.json": config, "model.safetensors": shard}


def _tensors(version: int) -> dict[str, Any]:
    source = np.random.default_rng(version)
    found: dict[str, Any] = {
        name: (0.02 * source.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes(CONFIG).items()
        if not name.startswith("critic.")
    }
    found["obs_var"] = np.ones(len(CONFIG.observation), np.float32)
    found["log_std"] = np.full(len(CONFIG.action), -4.0, np.float32)
    return found


def _golden(version: int) -> Golden:
    fault = "worse" if fault_of(version) == "worse" else ""
    policy = load_policy(POLICY, version, policy_files(version, fault))
    inputs = np.random.default_rng(0).standard_normal((4, len(CONFIG.observation)))
    rows = inputs.astype(np.float32)
    return Golden(inputs=rows.tolist(), outputs=policy.mean(rows).tolist(), tolerance=1e-5)
