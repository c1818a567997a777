"""How fast a tiny policy samples, is scored and swaps weights: python tests/bench/bench_engine.py

32 problems of three letters, 16 completions each, a GPT-2 of width 64 with two layers, one thread.
"""

import argparse
import json
import random
import statistics
import string
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from infra.interpreter import drive, perform, run_in_memory
from infra.memory.store import MemoryStore
from schemas.base import Event
from schemas.effects import Outputs, Steps
from schemas.learning import Layout, Problem, WeightVersion
from schemas.missions import AlgorithmSpec, Mission, NewModel, parse_mission
from schemas.records import Batch, Partition, Record
from streams.learning.engines.transformers import TransformersEngine
from streams.learning.environment import environment
from streams.learning.models import PolicyModel, new_model
from streams.learning.rollout import Ends, RolloutPlan, sample
from streams.learning.sampler import Sampler

FLAT = RolloutPlan("flat", 16, 4)
TREE = RolloutPlan("tree", 16, 4, segment_tokens=1, depth=4, first_division=(8, 8))


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def median_ms(work: Callable[[], object], times: int = 20) -> float:
    """The median time of one call, after two that warm up."""
    took = []
    for _ in range(times + 2):
        began = clock()
        work()
        took.append(clock() - began)
    return statistics.median(took[2:]) * 1000


def version_of(store: MemoryStore, folder: Path, number: int) -> WeightVersion:
    """The folder as a weight version."""
    refs = {path.name: store.put(f"{number}/{path.name}", path) for path in folder.iterdir()}
    return WeightVersion(
        policy="p",
        version=number,
        kind="base",
        mission_id="m",
        algorithm=AlgorithmSpec(),
        code_sha256="0" * 64,
        files={n: r for n, r in refs.items() if not n.endswith(".safetensors")},
        shards={n: r for n, r in refs.items() if n.endswith(".safetensors")},
        layout=Layout(parameters=1, chunk_elements=1, sha256="0" * 64),
        environment=environment(),
    )


def versions_of(store: MemoryStore, folder: Path) -> list[WeightVersion]:
    """A new model, and one with other weights."""
    new_model(NewModel(), folder)
    first, shard = version_of(store, folder, 0), folder / "model.safetensors"
    shard.write_bytes(save({n: t + 0.01 for n, t in load_file(shard).items()}, {"format": "pt"}))
    return [first, version_of(store, folder, 1)]


def follow(model: PolicyModel, version: WeightVersion, store: MemoryStore) -> None:
    """Swap to a version."""

    def steps() -> Steps:
        yield from model.follow(version)
        return "commit"

    drive(steps(), lambda effect: perform(effect, store, Outputs()))


def record(event: Event, offset: int = 0) -> Record:
    """The event as a record of partition 0."""
    return Record(Partition(event.topic, 0), offset, None, None, event=event)


def mission_of() -> Mission:
    """Three-letter words, 16 completions of 4 tokens each."""
    return parse_mission(
        {
            "mission_id": "m",
            "policy": "p",
            "problems": {"name": "spell_backward"},
            "rollout": {"group_size": 16, "max_tokens": 4},
            "training": {"device": "cpu"},
            "budget": {"problems": 1},
        }
    )


def batch_of(mission: Mission) -> Batch:
    """A batch of 32 problems."""
    draws = random.Random(1)
    words = ["".join(draws.choices(string.ascii_lowercase, k=3)) for _ in range(32)]
    problems = [
        Problem(
            problem_id=word,
            mission_id=mission.mission_id,
            policy=mission.policy,
            epoch=0,
            index=i,
            question=word,
            prompt=word,
            answer=word[::-1],
            verifier=mission.problems.verifier,
        )
        for i, word in enumerate(words)
    ]
    records = [record(problem, i) for i, problem in enumerate(problems)]
    return Batch(records, [{"problems-0": (i, i + 1)} for i in range(32)], {})


def process_ms(store: MemoryStore, version: WeightVersion, plan: RolloutPlan) -> float:
    """The whole of a sampler's batch, events as bytes included, no log."""
    mission = mission_of()
    sampler = Sampler("p", lambda p, text, done: float(done and text == p.answer), lambda _: plan)
    for event in (mission, version):
        sampler.observe(record(event))
    batch = batch_of(mission)

    def work() -> list[bytes]:
        _, outputs = run_in_memory(sampler.process(batch), store)
        return [event.to_bytes() for event in outputs.events]

    return median_ms(work)


def measure() -> dict[str, float]:
    """Milliseconds a batch of 512 completions, or a swap."""
    store, model = MemoryStore(), PolicyModel()
    with tempfile.TemporaryDirectory() as folder:
        versions = versions_of(store, Path(folder))
    follow(model, versions[0], store)
    engine, ends = TransformersEngine(model.model), Ends(model.stop_ids)
    problems = [record.event for record in batch_of(mission_of()).records]
    equal = [model.encode(p.prompt) for p in problems if isinstance(p, Problem)]
    ragged = [prompt[: 1 + i % 3] for i, prompt in enumerate(equal)]
    seeds = [[32 * i + j for j in range(16)] for i in range(32)]
    turn = iter(range(1000))
    return {
        "flat_ms": median_ms(lambda: sample(engine, equal, FLAT, seeds, ends)),
        "flat_padded_ms": median_ms(lambda: sample(engine, ragged, FLAT, seeds, ends)),
        "tree_ms": median_ms(lambda: sample(engine, equal, TREE, seeds, ends)),
        "process_flat_ms": process_ms(store, versions[0], FLAT),
        "process_tree_ms": process_ms(store, versions[0], TREE),
        "swap_ms": median_ms(lambda: follow(model, versions[next(turn) % 2], store)),
    }


def main() -> None:
    """Print the figures, as text or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    options = parser.parse_args()
    globals()["clock"] = CLOCKS[options.clock]
    torch.set_num_threads(options.threads)
    figures = measure()
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        rate = "" if name == "swap_ms" else f"  {512 / value * 1000:8.0f} completions/s"
        print(f"{name:18} {value:8.2f}{rate}")


if __name__ == "__main__":
    main()
