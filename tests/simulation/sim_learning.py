"""The learning loop in a simulated world: its processors, its missions and what is made of them."""

import functools
import shutil
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from sim_points import Watched
from sim_store import FaultyStore
from sim_world import Life, Odds, Slot, World

from consumers.read import decoded, read
from infra.cli.processors import factory
from infra.driver import Driver
from infra.log import LogError
from infra.memory.cluster import MemoryCluster
from infra.memory.groups import Group
from infra.memory.log import MemoryLog
from infra.memory.partition import PartitionLog
from infra.memory.store import MemoryStore
from infra.patience import GaveUp
from infra.settings import Settings
from schemas.effects import Processor
from schemas.learning import WeightVersion
from schemas.missions import Mission, MissionReport, parse_mission
from schemas.topics import TOPICS

POLICY = "p"
PROBLEMS = 4
LETTERS = "abcd"
WORDS = Path(__file__).parent / "words.jsonl"
STEPS = 2
PREPARING = 4
"""Turns until version 0 is there."""

Observation = npt.NDArray[np.float64]


class Drift(gymnasium.Env[Observation, Observation]):
    """A point that is to stay where it is: two steps of one number."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float64)

    def __init__(self) -> None:
        self._x = 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Observation, Any]:
        self._x = float(seed or 0) % 7 / 7
        return np.array([self._x]), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, Any]:
        self._x += float(action[0])
        return np.array([self._x]), -abs(self._x), False, False, {}


gymnasium.register("Drift-v0", Drift, max_episode_steps=STEPS)


def control_mission() -> Mission:
    """Four problems for a policy of about 700 numbers, in uploads of two."""
    return parse_mission(
        {
            "mission_id": "m",
            "policy": POLICY,
            "model": {"mlp": {"hidden": [16, 16]}},
            "problems": {"source": "gymnasium", "name": "Drift-v0", "size": 12, "heldout": 0.2},
            "rollout": {"group_size": 2, "problems_per_batch": 2},
            "algorithm": {"name": "ppo", "settings": {"epochs": 1, "minibatch": 64}},
            "training": {"groups_per_upload": 2, "chunk_bytes": 1024},
            "budget": {"problems": PROBLEMS},
        }
    )


def token_mission() -> Mission:
    """Four problems for a GPT-2 of about 900 numbers, in steps of two uploads of two."""
    return parse_mission(
        {
            "mission_id": "m",
            "policy": POLICY,
            "model": {
                "new": {
                    "alphabet": LETTERS + "=",
                    "layers": 1,
                    "heads": 1,
                    "width": 8,
                    "positions": 8,
                }
            },
            "problems": {
                "source": "jsonl",
                "name": str(WORDS),
                "heldout": 0.2,
                "verifier": {"name": "positional"},
            },
            "rollout": {"group_size": 2, "max_tokens": 2, "problems_per_batch": 2},
            "algorithm": {"name": "grpo"},
            "training": {"groups_per_upload": 2, "chunk_bytes": 1024, "device": "cpu"},
            "budget": {"problems": PROBLEMS},
        }
    )


MISSIONS: dict[str, Callable[[], Mission]] = {
    "control": control_mission,
    "tokens": token_mission,
}


@dataclass
class Base:
    """A log and a store in which a mission is prepared and version 0 is there."""

    mission: Mission
    cluster: MemoryCluster = field(default_factory=MemoryCluster)
    store: MemoryStore = field(default_factory=MemoryStore)

    def fork(self) -> tuple[MemoryCluster, MemoryStore]:
        """A copy that is changed without changing this."""
        cluster, store = MemoryCluster(), MemoryStore()
        cluster.limits_bytes = self.cluster.limits_bytes
        cluster.topics = {
            name: [_copied(one) for one in partitions]
            for name, partitions in self.cluster.topics.items()
        }
        for name, old in self.cluster.groups.items():
            cluster.groups[name] = group = Group(name)
            group.generation, group.marks = old.generation, dict(old.marks)
        store.objects = dict(self.store.objects)
        return cluster, store


def _copied(old: PartitionLog) -> PartitionLog:
    new = PartitionLog(old.name)
    new.first, new._entries = old.first, list(old._entries)
    return new


@functools.cache
def scratch() -> Path:
    """A folder of this worker, in memory where there is such a thing."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="ralo-sim-", dir=memory if memory.is_dir() else None)
    return Path(folder)


def forget_files() -> None:
    """Remove what processes of earlier seeds left on the disk."""
    shutil.rmtree(scratch() / "scratch", ignore_errors=True)


@functools.cache
def _settings() -> Settings:
    torch.set_num_threads(1)
    return Settings(policy=POLICY, state_dir=scratch())


@functools.cache
def empty() -> Base:
    """A log with its topics, and nothing else."""
    base = Base(control_mission())
    MemoryLog("", base.cluster).provision(list(TOPICS.values()))
    return base


@functools.cache
def prepared(kind: str) -> Base:
    """Where most seeds begin: provider and aggregator have done their first work, and left."""
    base = Base(MISSIONS[kind](), *empty().fork())
    world = World(0, base.cluster, base.store, Odds())
    world.submit(base.mission)
    drivers = [
        Driver(
            make(name, world),
            world.log,
            base.store,
            f"{name}-0",
            clock=world.time.now,
            sleep=world.idle,
        )
        for name in ("provider", "aggregator")
    ]
    for driver in drivers * PREPARING:
        driver.step()
    assert any(isinstance(r.event, WeightVersion) for r in read("weight-versions", log=world.log))
    for driver in drivers:
        driver.close()
    for name in base.cluster.groups:
        base.cluster.groups[name].members.clear()
    return base


def make(kind: str, world: World, instance: str = "0") -> Processor:
    """The product's processor of this kind, under the world's clock."""
    config = _settings().model_copy(update={"instance": instance})
    processor: Any = factory(kind)(config)
    if kind == "provider":
        processor._clock = world.time.now
    if kind == "gate":
        processor._wall_ms = lambda: world.time.now_s * 1000
    return processor  # type: ignore[no-any-return]


def staff(world: World, kind: str, count: int = 1) -> None:
    """Have so many instances of a processor work."""

    def work(life: Life) -> None:
        driver = None
        try:
            driver = Driver(
                Watched(make(kind, world, life.name), life.at),
                world.log,
                FaultyStore(
                    world.store,
                    lambda what: (life.at(f"store {what}"), world.weather.reached(what)),
                ),
                life.name,
                clock=world.time.now,
                sleep=world.idle,
                point=life.at,
            )
            driver.run(life)
            driver.close()
            world.say(f"{life.name} has stopped")
        except (GaveUp, LogError) as error:
            world.say(f"{life.name} gives up: {error}")
        finally:
            # What a dead process held is gone: locks above all.
            if driver is not None:
                vars(driver).clear()

    group = kind if kind == "provider" else f"{kind}.{POLICY}"
    for number in range(count):
        world.slots.append(Slot(world, kind, number, work, group))


def are_drained(world: World, missions: Collection[str]) -> bool:
    """Whether the provider said that all problems of these missions are settled."""
    reader = world.log.state_reader(dict.fromkeys(world.log.ends("missions"), 0))
    events = [decoded(record).event for record in reader.poll(1000, 0.0)]
    stages = {(e.mission_id, e.stage) for e in events if isinstance(e, MissionReport)}
    return all((mission, "drained") in stages for mission in missions)
