"""A small processor for contract tests of the driver, and the judge of what it published."""

import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from contract_helpers import World, visible

from infra.driver import Driver
from infra.log import Log, Message
from infra.store import ObjectStore
from schemas.effects import Emit, Intake, Put, StateInput, Steps
from schemas.learning import DeadLetter, Problem, SampleGroup
from schemas.missions import Verifier
from schemas.records import Batch, Partition
from schemas.topics import DEAD_LETTERS, MISSIONS, PROBLEMS, SAMPLES, Topic, decode

WHOLE = (MISSIONS, PROBLEMS, SAMPLES, DEAD_LETTERS)
TURN_S = 0.02
"""How far the clock of memory tests moves each time it is read."""


@dataclass
class Copier:
    """Turns each problem into one sample; `on_record` may do anything while it is worked on."""

    max_batch: int = 8
    policy: str | None = "main"
    on_record: Callable[[str], None] = lambda problem_id: None
    name: str = "copier"
    group: str = "copier"
    work: tuple[Topic, ...] = (PROBLEMS,)
    state: tuple[StateInput, ...] = ()
    batches: list[Batch] = field(default_factory=list)

    def intake(self) -> Intake:
        return Intake(self.max_batch)

    def waiting_for(self) -> str | None:
        return None

    def observe(self, record: object) -> None:
        raise AssertionError("a copier has no state")

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        return {}

    def process(self, batch: Batch) -> Steps:
        self.batches.append(batch)
        for record, span in zip(batch.records, batch.spans, strict=True):
            assert isinstance(record.event, Problem)
            yield Put(f"copies/{record.event.problem_id}", record.event.question.encode())
            self.on_record(record.event.problem_id)
            yield Emit(sample(record.event, span))
        return "commit"

    def tick(self) -> Steps | None:
        return None


@dataclass
class Gatherer(Copier):
    """Holds its batch until `gather` problems are there, then answers them by one sample."""

    gather: int = 6
    held: list[Problem] = field(default_factory=list)
    covered: dict[str, tuple[int, int]] = field(default_factory=dict)

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        self.held, self.covered = [], {}
        return {}

    def process(self, batch: Batch) -> Generator[Any, Any, Any]:
        for record in batch.records:
            assert isinstance(record.event, Problem)
            self.held.append(record.event)
        for name, (start, end) in batch.source.items():
            self.covered[name] = (self.covered.get(name, (start, end))[0], end)
        if len(self.held) < self.gather:
            return "hold"
        ids = "+".join(p.problem_id for p in self.held)
        event = sample(self.held[0], self.covered).model_copy(update={"problem_id": ids})
        self.held, self.covered = [], {}
        yield Emit(event)
        return "commit"


def sample(problem: Problem, source: dict[str, tuple[int, int]]) -> SampleGroup:
    """The sample that a problem becomes."""
    return SampleGroup(
        problem_id=problem.problem_id,
        mission_id=problem.mission_id,
        policy=problem.policy,
        version=0,
        source=source,
    )


def problem(name: str, policy: str = "main", **changes: Any) -> Problem:
    """A problem of this id."""
    fields = {
        "problem_id": name,
        "mission_id": "m",
        "policy": policy,
        "epoch": 0,
        "index": 0,
        "question": f"what is {name}?",
        "prompt": f"what is {name}?",
        "answer": name,
        "verifier": Verifier(),
    }
    return Problem(**(fields | changes))


def as_message(event: Problem, key: str | None = None, header: bool = False) -> Message:
    """A problem as foreign producers send it: without headers, unless `header`."""
    headers = {"policy": event.policy.encode()} if header else {}
    return Message("problems", (key or event.key).encode(), event.to_bytes(), headers)


def ask(log: Log, names: Iterable[str], policy: str = "main", key: str | None = None) -> None:
    """Append problems of these ids."""
    log.append([as_message(problem(name, policy), key) for name in names])


class Watch:
    """A clock that moves when it is looked at, so that limits are reached without waiting."""

    def __init__(self, every: Callable[[], None] = lambda: None) -> None:
        self.now = 0.0
        self._every = every

    def __call__(self) -> float:
        self.now += TURN_S
        self._every()
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._every()


def drive(
    world: World,
    log: Log,
    store: ObjectStore,
    processor: Any,
    instance: str = "i0",
    patience_s: float = 30.0,
    point: Callable[[str], None] = lambda name: None,
    watch: Watch | None = None,
) -> Driver:
    """A driver; on memory its clock moves by being read."""
    timing: dict[str, Any] = {}
    if world.name == "memory" or watch is not None:
        watch = watch or Watch()
        timing = {"clock": watch, "sleep": watch.sleep}
    return Driver(processor, log, store, instance, patience_s=patience_s, point=point, **timing)


def run_until(world: World, done: Callable[[], bool], *drivers: Driver) -> None:
    """Step the drivers in turn until `done`; fails when that takes too long."""
    import time

    until, turns = time.monotonic() + 30, itertools.count()
    while not done():
        for driver in drivers:
            driver.step()
        late = next(turns) > 3000 if world.name == "memory" else time.monotonic() > until
        assert not late, "the drivers do not get there"


def lag(driver: Driver) -> int:
    """How many offsets of problems the driver's group has not committed."""
    ends = driver.log.ends("problems")
    marks = driver._reader.committed(list(ends))
    return sum(end - (mark.offset if (mark := marks[p]) else 0) for p, (_, end) in ends.items())


def samples(world: World, log: Log) -> list[SampleGroup]:
    """The samples that a reader sees."""
    events = [decode("samples", r.value) for r in visible(world, log, SAMPLES)]
    return [e for e in events if isinstance(e, SampleGroup)]


def letters(world: World, log: Log) -> list[DeadLetter]:
    """The dead letters that a reader sees."""
    events = [decode("dead-letters", r.value) for r in visible(world, log, DEAD_LETTERS)]
    return [e for e in events if isinstance(e, DeadLetter)]


def assert_once(found: Iterable[SampleGroup], names: Iterable[str]) -> None:
    """Each of these problems has exactly one sample, and there are no others."""
    assert sorted(s.problem_id for s in found) == sorted(names)


def assert_contiguous(found: Iterable[SampleGroup], log: Log) -> None:
    """The sources of the samples cover each partition from its start, without overlap or gap."""
    for partition in log.ends("problems"):
        ranges = sorted(s.source[str(partition)] for s in found if str(partition) in s.source)
        at = 0
        for start, end in ranges:
            assert start == at, f"{partition}: {start} follows {at} in {ranges}"
            assert end > start
            at = end
