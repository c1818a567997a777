"""One aggregator on the real driver, with log and store in memory, for tests."""

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from learning_steps import POLICY, finished, flat_weights, mission, prepared, upload

from consumers.read import read
from infra import envelope
from infra.driver import Driver
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from schemas.base import Event
from schemas.learning import GradientUpload, WeightVersion
from schemas.missions import Mission
from schemas.partitioner import partition_for
from schemas.records import Partition
from schemas.topics import GRADIENT_CHUNKS, TOPICS
from streams.learning.aggregator import Aggregator
from streams.learning.keys import gradient_fields_key
from streams.learning.spill import spill

MINE = Partition("gradient-chunks", partition_for(POLICY.encode(), GRADIENT_CHUNKS.partitions))


class Crash(BaseException):
    """The process dies here."""


def _dies(moment: str, nth: int) -> Callable[[str], None]:
    passed = 0

    def point(name: str) -> None:
        nonlocal passed
        passed += name == moment
        if passed == nth and name == moment:
            raise Crash

    return point


class World:
    """A log, a store, and one aggregator process that can be killed and started again."""

    def __init__(self, folder: Path, of: Mission) -> None:
        self.folder, self.mission = folder, of
        self.log, self.store = MemoryLog(), MemoryStore()
        self.log.provision(list(TOPICS.values()))
        self.send(of, prepared(self.store, of))
        self.start()

    def start(self, instance: str = "0", point: Callable[[str], None] | None = None) -> None:
        self.aggregator = Aggregator(POLICY, self.folder / instance)
        self.driver = Driver(
            self.aggregator,
            self.log,
            self.store,
            instance,
            patience_s=1,
            sleep=lambda s: None,
            point=point,
        )

    def restart(self) -> None:
        self.driver.close()
        self.start()

    def send(self, *events: Event) -> None:
        self.log.append([envelope.message(event) for event in events])

    def upload(self, base: int, samples: tuple[int, int], **changes: Any) -> GradientUpload:
        one = upload(self.store, self.mission, base, samples, **changes)
        key = partial(gradient_fields_key, POLICY, base, one.upload_id)
        small = finished(spill(one, key), self.store)
        self.send(small)
        return small

    def run(self) -> None:
        idle = 0
        while idle < 4:
            idle = 0 if self.driver.step() else idle + 1

    def run_killed(self, moment: str, lives: Iterable[int]) -> int:
        """Run to the end, each life killed at its nth passing of the moment; answers the kills.

        Every life dies at a later passing than the one before, so the run ends at last.
        """
        for kills, nth in enumerate(lives):
            self.start(point=_dies(moment, nth))
            with contextlib.suppress(Crash):
                self.run()
                return kills
        raise AssertionError("no life was long enough")

    def events(self, *kinds: type[Event]) -> list[Any]:
        topics = dict.fromkeys(kind.topic for kind in kinds)
        found = [r.event for topic in topics for r in read(topic, log=self.log)]
        return [event for event in found if isinstance(event, kinds)]

    def versions(self) -> list[WeightVersion]:
        return self.events(WeightVersion)

    def head(self) -> WeightVersion:
        return self.versions()[-1]

    def weights(self, version: WeightVersion) -> torch.Tensor:
        return flat_weights({name: self.store.get(ref) for name, ref in version.shards.items()})

    def committed(self) -> int:
        reader = self.log.work_reader(f"aggregator.{POLICY}", [], "look")
        mark = reader.committed([MINE])[MINE]
        return mark.offset if mark else 0


def world(folder: Path, **training: Any) -> World:
    made = World(folder, mission(**training))
    made.run()
    return made
