"""Control missions in the loop of one process, and what their tests share."""

from pathlib import Path
from typing import Any

import point_mass  # noqa: F401 - registers its environment
from loop_world import POLICY, PROCESSORS, Loop

from schemas.environments import EnvironmentTask
from schemas.missions import Mission, NewPolicy, parse_mission
from streams.learning.control.environments import describe, make_environment
from streams.learning.control.mlp import Floats, MlpPolicy
from streams.learning.control.torch_mlp import TorchPolicy, new_policy

TASK = EnvironmentTask(id="PointMass-v0")
SIZE = NewPolicy(hidden=[16], log_std=-0.5)


def episode_mission(
    mission_id: str = "m",
    count: int = 16,
    args: dict[str, Any] | None = None,
    **changes: Any,
) -> Mission:
    """A mission of so many problems on the point mass: four groups of four episodes an upload."""
    document: dict[str, Any] = {
        "mission_id": mission_id,
        "policy": POLICY,
        "seed": 3,
        "model": {"mlp": {"hidden": [16]}},
        "problems": {
            "source": "gymnasium",
            "name": "PointMass-v0",
            "size": 40,
            "heldout": 0.2,
            "args": args or {},
        },
        "rollout": {"group_size": 4, "problems_per_batch": 4},
        "algorithm": {"name": "ppo", "settings": {"epochs": 4, "minibatch": 64}},
        "training": {"groups_per_upload": 4, "chunk_bytes": 1024, "learning_rate": 3e-3},
        "budget": {"problems": count},
    }
    nested = {name: {**document.get(name, {}), **value} for name, value in changes.items()}
    return parse_mission({**document, **nested})


def episode_loop(folder: Path, *more: str) -> Loop:
    """The loop, with other processors beside those that it always has."""
    loop = Loop(folder)
    loop.start(*(name for name in more if name not in PROCESSORS))
    return loop


def fresh(folder: Path, task: EnvironmentTask = TASK, size: NewPolicy = SIZE) -> TorchPolicy:
    """A new policy for a task, as a mission would begin with it."""
    from safetensors.torch import load_file

    config = describe(task, made := make_environment(task), size)
    made.close()
    new_policy(size, config, folder)
    policy = TorchPolicy(config)
    policy.take(load_file(folder / "model.safetensors"))
    return policy


def acting(policy: TorchPolicy) -> MlpPolicy:
    """The same policy as a sampler holds it."""
    tensors: dict[str, Floats] = {n: t.numpy().copy() for n, t in policy.state_dict().items()}
    return MlpPolicy(policy.config, tensors)
