"""Tiny real models as weight versions in a store, and records and batches to feed processors."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from infra.interpreter import drive, perform
from infra.store import ObjectStore
from schemas.base import Event
from schemas.effects import Effect, Get, Outputs
from schemas.learning import Layout, Problem, WeightVersion
from schemas.missions import AlgorithmSpec, Mission, NewModel, parse_mission
from schemas.partitioner import partition_for
from schemas.records import Batch, Partition, Record
from schemas.topics import TOPICS
from streams.learning.environment import environment
from streams.learning.models import PolicyModel, new_model

torch.set_num_threads(1)

SPEC = NewModel(width=16, layers=2, heads=2, positions=24, alphabet="abcdefg =")


def peaked_folder(folder: Path, spec: NewModel = SPEC) -> Path:
    """A new model whose distributions are far from uniform, so that mistakes show."""
    new_model(spec, folder)
    shard = folder / "model.safetensors"
    weights = {
        n: t * (25 if n.startswith(("lm_head", "transformer.w")) else 1)
        for n, t in load_file(shard).items()
    }
    shard.write_bytes(save(weights, {"format": "pt"}))
    return folder


def version_of(store: ObjectStore, folder: Path, number: int, **fields: Any) -> WeightVersion:
    """The folder's content as a weight version in the store."""
    refs = {
        path.name: store.put(f"weights/p/{number}/{path.name}", path)
        for path in sorted(folder.iterdir())
    }
    content = {
        "policy": "p",
        "version": number,
        "kind": "step" if number else "base",
        "mission_id": "m",
        "algorithm": AlgorithmSpec(),
        "code_sha256": "0" * 64,
        "files": {n: r for n, r in refs.items() if not n.endswith(".safetensors")},
        "shards": {n: r for n, r in refs.items() if n.endswith(".safetensors")},
        "layout": Layout(parameters=1, chunk_elements=1, sha256="0" * 64),
        "environment": environment(),
    }
    return WeightVersion.model_validate(content | fields)


def follow(model: PolicyModel, version: WeightVersion, store: ObjectStore) -> list[str]:
    """Let the model follow, and give the keys that it fetched."""
    keys: list[str] = []

    def answer(effect: Effect) -> Any:
        assert isinstance(effect, Get)
        keys.append(effect.ref.key)
        return perform(effect, store, Outputs())

    def steps() -> Generator[Effect, Any, Any]:
        yield from model.follow(version)
        return "commit"

    drive(steps(), answer)
    return keys


def mission_of(mission_id: str = "m", **fields: Any) -> Mission:
    """A mission on policy p."""
    document = {
        "mission_id": mission_id,
        "policy": "p",
        "seed": 7,
        "problems": {"name": "spell_backward"},
        "rollout": {"group_size": 4, "max_tokens": 5, "problems_per_batch": 8},
        "training": {"device": "cpu"},
        "budget": {"problems": 100},
    }
    return parse_mission(document | fields)


def problem_of(
    number: int, prompt: str = "abc", answer: str = "cba", mission: str = "m"
) -> Problem:
    """A problem of a mission on policy p."""
    return Problem(
        problem_id=f"{mission}-{number}",
        mission_id=mission,
        policy="p",
        epoch=0,
        index=number,
        question=prompt,
        prompt=prompt,
        answer=answer,
        verifier={"name": "exact"},
    )


def record_of(event: Event, offset: int = 0) -> Record:
    """The event as it would be read from its topic."""
    count = TOPICS[event.topic].partitions
    partition = Partition(event.topic, partition_for(event.key.encode(), count))
    return Record(partition, offset, event.key.encode(), event.to_bytes(), event=event)


def batch_of(events: Sequence[Event], first: int = 0) -> Batch:
    """A batch of one record an event, each accounting for its own offset."""
    records = [record_of(event, first + i) for i, event in enumerate(events)]
    spans = [{str(r.partition): (r.offset, r.offset + 1)} for r in records]
    return Batch(records, spans, {})
