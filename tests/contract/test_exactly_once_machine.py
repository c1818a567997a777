"""Random histories of processes, kills, rebalances and faults: each record has one output."""

import contextlib
import itertools
from collections.abc import Callable, Iterator

import pytest
from contract_helpers import Crash, World
from copying import (
    WHOLE,
    Copier,
    Watch,
    as_message,
    assert_contiguous,
    drive,
    problem,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from infra.driver import Driver
from infra.log import Aborted, Expelled, LogUnavailable
from infra.memory.cluster import Faults
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from infra.patience import GaveUp
from schemas.learning import SampleGroup
from schemas.records import Partition
from schemas.topics import decode

INSTANCES = ("i0", "i1", "i2")
MOMENTS = ("after_put", "sent_outputs", "sent_offsets", "committed")
FAULTS = ("lose_next_commit_reply", "fail_next_commit", "abort_next", "unavailable_polls")
DEATHS = (Crash, Expelled, GaveUp, Aborted)


class Process:
    """One process: it may die at a moment, and things may happen while it works."""

    def __init__(self, world: World, log: MemoryLog, instance: str) -> None:
        self.instance = instance
        self.dies_at: str | None = None
        self.meanwhile: list[tuple[str, Callable[[], None]]] = []
        self.busy = self.dead = False
        copier = Copier(max_batch=3, on_record=lambda name: self.point("working"))
        self.driver: Driver = drive(
            world, log, MemoryStore(), copier, instance, 2.0, self.point, Watch()
        )

    def point(self, name: str) -> None:
        for moment, act in self.meanwhile[:1]:
            if moment == name:
                self.meanwhile.clear()
                act()
        if name == self.dies_at:
            raise Crash(name)

    def step(self) -> bool:
        """One turn; whether the process is still alive."""
        if self.dead:
            # It may have died while another, whose turn was the outer one, was at work.
            return False
        if self.busy:
            return True
        self.busy = True
        try:
            self.driver.step()
        except LogUnavailable:
            self.driver._stale = True
        except DEATHS:
            self.dead = True
        finally:
            self.busy = False
        return not self.dead


class ExactlyOnce(RuleBasedStateMachine):
    """Problems come in, processes come and go; at the end each problem has exactly one sample."""

    @initialize()
    def begin(self) -> None:
        self.log = MemoryLog()
        self.world = World("memory", "", lambda _: self.log, _truncate, None, 0, 0)
        self.log.provision(WHOLE)
        self.names = (f"p{n}" for n in itertools.count())
        self.wanted: list[str] = []
        self.alive: dict[str, Process] = {}

    @rule(count=st.integers(1, 5), policy=st.sampled_from(["main", "other"]))
    def produce(self, count: int, policy: str) -> None:
        names = list(itertools.islice(self.names, count))
        self.log.append([as_message(problem(name, policy)) for name in names])
        self.wanted += names if policy == "main" else []

    @rule(
        count=st.integers(1, 4), ends=st.sampled_from(["committed", "committed", "aborted", "open"])
    )
    def produce_in_a_transaction(self, count: int, ends: str) -> None:
        names = list(itertools.islice(self.names, count))

        def point(name: str) -> None:
            if name == "sent_outputs" and ends != "committed":
                raise Crash

        messages = [as_message(problem(name)) for name in names]
        try:
            with self.calm():
                self.log.writer("source").publish(messages, {}, "g", None, point)
            self.wanted += names
        except Crash:
            if ends == "aborted":
                self.log.time_out("source")

    @rule(instance=st.sampled_from(INSTANCES))
    def start(self, instance: str) -> None:
        # A running one with this name is fenced, and finds out when it goes on.
        self.alive.pop(instance, None)
        with contextlib.suppress(GaveUp):
            self.alive[instance] = Process(self.world, self.log, instance)
            self._turn(3)

    @precondition(lambda self: self.alive)
    @rule(turns=st.integers(1, 4))
    def work(self, turns: int) -> None:
        self._turn(turns)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), moment=st.sampled_from(MOMENTS))
    def doom(self, data: st.DataObject, moment: str) -> None:
        self.alive[data.draw(st.sampled_from(sorted(self.alive)))].dies_at = moment

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        moment=st.sampled_from(("working", *MOMENTS)),
        what=st.sampled_from(["start", "step", "expire", "time out"]),
        instance=st.sampled_from(INSTANCES),
        turns=st.integers(2, 6),
    )
    def meanwhile(
        self, data: st.DataObject, moment: str, what: str, instance: str, turns: int
    ) -> None:
        def act() -> None:
            if what == "start":
                self.start(instance)
            if what == "expire":
                self.expire(chosen.instance)
            if what == "time out":
                self.time_out(chosen.instance)
            self._turn(turns)

        chosen = self.alive[data.draw(st.sampled_from(sorted(self.alive)))]
        chosen.meanwhile = [(moment, act)]

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        self.alive.pop(data.draw(st.sampled_from(sorted(self.alive)))).driver.close()

    @rule(instance=st.sampled_from(INSTANCES))
    def expire(self, instance: str) -> None:
        self.log.expire(instance)

    @rule(instance=st.sampled_from(INSTANCES))
    def time_out(self, instance: str) -> None:
        self.log.time_out(f"copier.{instance}")

    @rule(fault=st.sampled_from(FAULTS))
    def fault(self, fault: str) -> None:
        setattr(self.log.faults, fault, 1)

    @rule()
    def arrive_late(self) -> None:
        self.log.deliver_late()

    @invariant()
    def nothing_twice(self) -> None:
        if hasattr(self, "log"):
            found = [sample.problem_id for sample in self.visible()]
            assert len(found) == len(set(found))
            assert set(found) <= set(self.wanted)

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        for instance in INSTANCES:
            self.log.expire(instance)
            self.log.time_out(f"copier.{instance}")
        self.log.time_out("source")
        self.log.cluster.faults = Faults()
        last = Process(self.world, self.log, "last")
        for _ in range(3 * len(self.wanted) + 60):
            assert last.step()
        self.nothing_twice()
        assert {sample.problem_id for sample in self.visible()} == set(self.wanted)
        assert_contiguous(self.visible(), self.log)

    def _turn(self, turns: int) -> None:
        for _ in range(turns):
            for process in list(self.alive.values()):
                # Another may run under its name when it dies.
                if not process.step() and self.alive.get(process.instance) is process:
                    del self.alive[process.instance]

    @contextlib.contextmanager
    def calm(self) -> Iterator[None]:
        """The faults are meant for the processes, not for those who watch and feed them."""
        meant, self.log.cluster.faults = self.log.cluster.faults, Faults()
        try:
            yield
        finally:
            self.log.cluster.faults = meant

    def visible(self) -> list[SampleGroup]:
        """What a reader sees now, without waiting for open transactions."""
        reader = self.log.state_reader(dict.fromkeys(self.log.ends("samples"), 0))
        with self.calm():
            events = [decode("samples", record.value) for record in reader.poll(10_000, 0)]
        return [event for event in events if isinstance(event, SampleGroup)]


def _truncate(log: MemoryLog, partition: Partition, before: int) -> None:
    log.truncate(partition, before)


ExactlyOnce.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestExactlyOnce = ExactlyOnce.TestCase


def test_the_judge_would_notice_a_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that commits no offsets with its outputs, nor looks for what it published."""
    machine = ExactlyOnce()
    machine.begin()
    machine.produce(count=3, policy="main")
    monkeypatch.setattr(
        "infra.memory.cluster.MemoryCluster.add_marks", lambda *args, **kwargs: None
    )
    monkeypatch.setattr("infra.mirror.Mirror.passed", lambda *args: {})
    for _ in range(2):
        machine.start(instance="i0")
        for _ in range(20):
            machine.alive["i0"].step()
    with pytest.raises(AssertionError):
        machine.nothing_twice()
