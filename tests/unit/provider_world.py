"""A small world for the problem provider: topics in memory, instances, and what learns from it."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from infra.interpreter import run_in_memory
from infra.memory.store import MemoryStore
from producers.problems.provider import ProblemProvider
from schemas.base import Event
from schemas.effects import Bury, Outputs, Steps
from schemas.learning import (
    CloseStep,
    DeadLetter,
    Environment,
    Layout,
    Problem,
    Totals,
    UploadsRefused,
    WeightVersion,
)
from schemas.missions import AlgorithmSpec, Mission, MissionReport, ModelSpec, parse_mission
from schemas.partitioner import partition_for
from schemas.records import Batch, Partition, Record
from schemas.topics import MISSIONS, TOPICS, decode

BARRIERS = ("missions", "problems")
STATE = (*BARRIERS, "weight-versions", "dead-letters")
SHA = "0" * 64
E = TypeVar("E", bound=Event)


def questions(path: Path, count: int = 16) -> Path:
    """A JSON Lines source of additions in digits."""
    lines = ({"question": f"{i}+{i + 1}", "answer": str(2 * i + 1)} for i in range(count))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def mission(source: Path | str, mission_id: str = "m1", **changes: Any) -> Mission:
    """A mission on that source; `changes` replace whole sections."""
    document: dict[str, Any] = {
        "mission_id": mission_id,
        "policy": "main",
        "problems": {"source": "jsonl", "name": str(source), "heldout": 0.25},
        "rollout": {"problems_per_batch": 4, "max_tokens": 4},
        "training": {"groups_per_upload": 4},
        "budget": {"problems": 40},
    }
    return parse_mission({**document, **changes})


def character_folder(spec: ModelSpec, into: Path, shard_bytes: int) -> None:
    """A model's folder as far as the provider looks into it: digits, eight positions."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    if spec.base != "new":
        raise LookupError(f"model.base {spec.base!r} is not here")
    words = {c: i for i, c in enumerate(["<eos>", *"0123456789+"])}
    tokenizer = Tokenizer(models.WordLevel(words))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.save(str(into / "tokenizer.json"))
    (into / "config.json").write_text('{"n_positions": 16}')
    (into / "model.safetensors").write_bytes(bytes(64))


def grpo_only(mission: Mission) -> None:
    """The check of a registry that knows one algorithm."""
    if mission.algorithm.name != "grpo":
        raise ValueError(f"algorithm.name: no algorithm {mission.algorithm.name!r}")


class World:
    """The log, the store, the clock, and the learners' side of the loop."""

    def __init__(self) -> None:
        self.log: dict[Partition, list[Record]] = {
            Partition(topic.name, number): []
            for topic in TOPICS.values()
            for number in range(topic.partitions)
        }
        self.store = MemoryStore()
        self.now = 0.0
        self.committed = 0
        self.totals: dict[str, Totals] = {}

    def publish(self, event: Event) -> Record:
        """Append an event where its key belongs."""
        count = TOPICS[event.topic].partitions
        partition = Partition(event.topic, partition_for(event.key.encode(), count))
        value = event.to_bytes()
        record = Record(
            partition,
            len(self.log[partition]),
            event.key.encode(),
            value,
            event=decode(event.topic, value),
        )
        self.log[partition].append(record)
        return record

    def bury(self, bury: Bury) -> Record:
        """Append a dead letter."""
        record = bury.record
        return self.publish(
            DeadLetter(
                at=record.at,
                origin_topic=record.partition.topic,
                origin_partition=record.partition.number,
                origin_offset=record.offset,
                reason=bury.reason,
                detail=bury.detail,
                processor="test",
                value_base64=base64.b64encode(record.value or b"").decode(),
            )
        )

    def events(self, kind: type[E]) -> list[E]:
        """All events of a kind, per partition in order."""
        return [r.event for r in self.records(kind.topic) if isinstance(r.event, kind)]

    def records(self, topic: str) -> Iterator[Record]:
        """All records of a topic."""
        for partition, records in self.log.items():
            if partition.topic == topic:
                yield from records

    def problems(self, mission_id: str) -> list[Problem]:
        """The mission's problems by index."""
        mine = (p for p in self.events(Problem) if p.mission_id == mission_id)
        return sorted(mine, key=lambda p: p.index)

    def reports(self, stage: str) -> list[MissionReport]:
        """All reports of a stage."""
        return [r for r in self.events(MissionReport) if r.stage == stage]

    def closes(self) -> int:
        """How many times an open step was asked to close."""
        return len(self.events(CloseStep))

    def learn(self, policy: str, groups: int) -> None:
        """A weight version that accounts for so many more groups."""
        done = self.totals.get(policy, Totals()).groups + groups
        self.totals[policy] = Totals(groups=done)
        self.publish(weight_version(policy, self.totals[policy]))

    def refuse(self, policy: str, groups: int) -> None:
        """Uploads of so many groups are refused."""
        done = self.totals.get(policy, Totals()).groups + groups
        self.totals[policy] = Totals(groups=done, refused=groups)
        totals = self.totals[policy]
        self.publish(
            UploadsRefused(policy=policy, head=0, refused=[], marks={}, resume={}, totals=totals)
        )


def weight_version(policy: str, totals: Totals) -> WeightVersion:
    """A version of which only policy and totals matter here."""
    return WeightVersion(
        policy=policy,
        version=totals.groups,
        kind="step",
        mission_id="m1",
        algorithm=AlgorithmSpec(),
        code_sha256=SHA,
        files={},
        shards={},
        layout=Layout(parameters=1, chunk_elements=1, sha256=SHA),
        totals=totals,
        environment=Environment(torch="x", threads=1, cpu_capability="x"),
    )


class Instance:
    """One provider process: reads the world's log as the driver would, publishes what it yields."""

    def __init__(self, world: World, **wiring: Any) -> None:
        self.world = world
        wiring = {"check": grpo_only, "base_folder": character_folder, **wiring}
        self.provider = ProblemProvider(clock=lambda: world.now, **wiring)
        self._read: dict[Partition, int] = {p: 0 for p in world.log if p.topic in STATE}

    def unread(self) -> list[Partition]:
        """State partitions with records that were not observed."""
        return [p for p, at in self._read.items() if at < len(self.world.log[p])]

    def observe(self, partition: Partition, count: int) -> None:
        """Observe the next records of one partition."""
        at = self._read[partition]
        for record in self.world.log[partition][at : at + count]:
            self.provider.observe(record)
            self._read[partition] += 1

    def catch_up(self, *topics: str) -> None:
        """Observe all there is of these topics, or of all."""
        for partition in self.unread():
            if partition.topic in (topics or STATE):
                self.observe(partition, len(self.world.log[partition]))

    def take_over(self) -> None:
        """Own the work, once the barriers were passed."""
        self.catch_up(*BARRIERS)
        self.provider.assigned([Partition(MISSIONS.name, 0)])

    def work(self, commit: bool = True) -> Outputs | None:
        """Work on the next record of `missions`; None when there is none."""
        records = self.world.log[Partition(MISSIONS.name, 0)]
        if self.world.committed == len(records):
            return None
        record = records[self.world.committed]
        batch = Batch([record], [{}], {})
        outputs = self._finish(self.provider.process(batch), commit)
        self.world.committed += commit
        return outputs

    def work_all(self) -> None:
        """Work on all of `missions`, what comes of it included."""
        self.catch_up()
        while self.work() is not None:
            self.catch_up()

    def tick(self, commit: bool = True) -> Outputs | None:
        """What state alone calls for; None when it calls for nothing."""
        steps = self.provider.tick()
        return None if steps is None else self._finish(steps, commit)

    def settle(self) -> None:
        """Work and tick until nothing more happens."""
        self.work_all()
        while self.tick() is not None:
            self.work_all()

    def _finish(self, steps: Steps, commit: bool) -> Outputs:
        ended, outputs = run_in_memory(steps, self.world.store)
        assert ended == "commit"
        if commit:
            for event in outputs.events:
                self.world.publish(event)
            for bury in outputs.buried:
                self.world.bury(bury)
        else:
            self.take_over()
        return outputs
