"""The whole learning loop in one process: real processors and driver, log and store in memory."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import torch

from consumers.read import read
from infra import envelope
from infra.cli.processors import factory
from infra.driver import Driver
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from infra.settings import Settings
from schemas.base import Event
from schemas.missions import Mission, parse_mission
from schemas.records import Record
from schemas.topics import TOPICS

POLICY = "p"
PROCESSORS = ("provider", "sampler", "trainer", "aggregator")
PROOF = ("missions", "samples", "gradient-chunks", "weight-versions")
"""The topics that proofs are made of."""
LETTERS = "abcdef"


def words(folder: Path) -> Path:
    """A JSON Lines source of all words of two letters, to be spelt backward."""
    path = folder / "words.jsonl"
    items = ({"question": f"{a}{b}=", "answer": b + a} for a in LETTERS for b in LETTERS)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


class Loop:
    """One provider, sampler, trainer and aggregator, taking turns until nothing moves."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.log, self.store = MemoryLog(), MemoryStore()
        self.log.provision(list(TOPICS.values()))
        self._words = words(folder)
        self._config = Settings(policy=POLICY, state_dir=folder)
        self.drivers: dict[str, Driver] = {}
        self.start(*PROCESSORS)

    def start(self, *names: str) -> None:
        """Start processors, or start them again from the log alone."""
        for name in names:
            if name in self.drivers:
                self.drivers[name].close()
            # Each look at the clock is a quarter of a second, so no wait takes its time.
            ticks = count(0, 0.25)
            self.drivers[name] = Driver(
                factory(name)(self._config),
                self.log,
                self.store,
                "0",
                patience_s=30,
                clock=lambda ticks=ticks: next(ticks),
                sleep=lambda s: None,
            )

    def mission(
        self, mission_id: str, problems: int = 8, training: Any = None, **changes: Any
    ) -> Mission:
        """A mission of so many problems, in uploads and steps of four."""
        document: dict[str, Any] = {
            "mission_id": mission_id,
            "policy": POLICY,
            "model": {"new": {"alphabet": LETTERS + "=", "layers": 1, "heads": 2, "width": 8}},
            "problems": {
                "source": "jsonl",
                "name": str(self._words),
                "verifier": {"name": "positional"},
            },
            "rollout": {"group_size": 4, "max_tokens": 3, "problems_per_batch": 4},
            "algorithm": {"settings": {"entropy": 0.05}},
            "training": {
                "groups_per_upload": 4,
                "chunk_bytes": 1024,
                "device": "cpu",
                **(training or {}),
            },
            "budget": {"problems": problems},
        }
        return parse_mission({**document, **changes})

    def submit(self, *events: Event) -> None:
        """Append events, and let the loop work until nothing moves."""
        self.log.append([envelope.message(event) for event in events])
        self.run()

    def run(self) -> None:
        """Turns of all processors, until none has had anything to do for a while."""
        idle = 0
        while idle < 3:
            worked = [driver.step() for driver in self.drivers.values()]
            idle = 0 if any(worked) else idle + 1

    def records(self, *topics: str) -> list[Record]:
        """The committed records of these topics."""
        return [record for topic in topics for record in read(topic, log=self.log)]

    def events(self, kind: type[Event]) -> list[Any]:
        """All events of a kind, in order."""
        return [r.event for r in self.records(kind.topic) if isinstance(r.event, kind)]
