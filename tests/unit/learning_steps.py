"""What the tests of steps share: a tiny model in two shards, its gradients, a mission."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from infra.interpreter import run_in_memory
from infra.memory.store import MemoryStore
from schemas.base import Sources
from schemas.ids import digest
from schemas.learning import GradientUpload, GroupUse
from schemas.missions import Mission, MissionReport, parse_mission
from schemas.tensors import TensorRef
from streams.learning.flat import FlatVector, scratch_vector
from streams.learning.keys import gradient_key
from streams.learning.layout import FlatLayout, chunk_ranges, header_bytes, read_layout

SHAPES = {
    "model-00001-of-00002.safetensors": {"wte.weight": (20, 16), "ln.bias": (16,)},
    "model-00002-of-00002.safetensors": {"head.weight": (31, 16), "head.scale": (3,)},
}
TOTAL = 20 * 16 + 16 + 31 * 16 + 3
CHUNK_BYTES = 1024
POLICY = "main"


def mission(mission_id: str = "m", policy: str = POLICY, **training: Any) -> Mission:
    """A mission whose chunks are smaller than its model and do not end where shards do."""
    return parse_mission(
        {
            "mission_id": mission_id,
            "policy": policy,
            "problems": {"name": "spell_backward"},
            "budget": {"problems": 10},
            "keep": {"last": 2, "every": 100},
            "training": {"chunk_bytes": CHUNK_BYTES, **training},
        }
    )


def shard_bytes(seed: int = 0) -> dict[str, bytes]:
    """The weight shards, as safetensors files."""
    random = torch.Generator().manual_seed(seed)
    return {
        shard: save(
            {n: torch.randn(s, generator=random) for n, s in shapes.items()}, {"format": "pt"}
        )
        for shard, shapes in SHAPES.items()
    }


def flat_weights(shards: dict[str, bytes]) -> torch.Tensor:
    """The flat vector of shards, through the safetensors library."""
    layout = layout_of(shards)
    tensors = {name: t for data in shards.values() for name, t in load(data).items()}
    return torch.cat([tensors[slot.name].reshape(-1) for slot in layout.slots])


def layout_of(shards: dict[str, bytes]) -> FlatLayout:
    return read_layout({name: header_bytes(data) for name, data in shards.items()})


def prepared(store: MemoryStore, of: Mission) -> MissionReport:
    """Store the base model of a mission and report it, as the problem provider does."""
    shards = {n: store.put(f"models/{of.policy}/{n}", d) for n, d in shard_bytes().items()}
    files = {"config.json": store.put(f"models/{of.policy}/config.json", b"{}")}
    return MissionReport(
        mission_id=of.mission_id,
        policy=of.policy,
        stage="prepared",
        base_files=files,
        base_shards=shards,
    )


def gradient(seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(TOTAL, generator=torch.Generator().manual_seed(1000 + seed)) * scale


def upload(
    store: MemoryStore,
    of: Mission,
    base: int,
    samples: tuple[int, int],
    vector: torch.Tensor | None = None,
    **changes: Any,
) -> GradientUpload:
    """Store a gradient made of these offsets of `samples-0` and name it, as the trainer does."""
    source: Sources = {"samples-0": samples}
    upload_id = f"{of.policy}-{samples[0]}-{samples[1]}"
    chunks = []
    whole = gradient(samples[0]) if vector is None else vector
    ranges = chunk_ranges(whole.numel(), of.training.chunk_bytes // 4)
    for index, (start, stop) in enumerate(ranges):
        part = whole[start:stop]
        data = part.contiguous().view(torch.uint8).numpy().tobytes()
        ref = store.put(gradient_key(of.policy, base, upload_id, index, digest(data)), data)
        dtype = str(part.dtype).removeprefix("torch.")
        chunks.append(TensorRef(**ref.model_dump(), dtype=dtype, shape=(stop - start,)))
    groups = [
        GroupUse(group_id=f"g{o}", at=f"samples[0]@{o}", version=base, rollouts=4)
        for o in range(*samples)
    ]
    fields: dict[str, Any] = {
        "upload_id": upload_id,
        "policy": of.policy,
        "mission_id": of.mission_id,
        "base_version": base,
        "chunks": chunks,
        "weight": 100.0,
        "groups": groups,
        "records_sha256": digest(b"records"),
        "source": source,
    }
    return GradientUpload(**{**fields, **changes})


def vector_of(path: Path, values: torch.Tensor) -> FlatVector:
    """A flat vector in a file of its own."""
    vector = scratch_vector(path, values.numel())
    vector.write(0, values)
    return vector


def finished(steps: Any, store: MemoryStore) -> Any:
    """What a generator of effects answers."""

    def outer() -> Any:
        answer.append((yield from steps))
        return "commit"

    answer: list[Any] = []
    run_in_memory(outer(), store)
    return answer[0]


def reference_adamw(
    weights: torch.Tensor, gradients: Sequence[torch.Tensor], of: Mission
) -> tuple[torch.Tensor, list[float]]:
    """The weights after torch's own clipping and AdamW on whole vectors, and the norms."""
    training = of.training
    parameter = torch.nn.Parameter(weights.clone())
    optimizer = torch.optim.AdamW(
        [parameter],
        lr=training.learning_rate,
        betas=training.betas,
        eps=training.eps,
        weight_decay=training.weight_decay,
        fused=True,
    )
    norms = []
    for one in gradients:
        parameter.grad = one.clone()
        norms.append(float(torch.nn.utils.clip_grad_norm_([parameter], training.clip_norm)))
        optimizer.step()
    return parameter.detach(), norms
