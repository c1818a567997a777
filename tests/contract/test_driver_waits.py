"""What the driver waits for in vain, on a log that fails in ways only the memory log can."""

import itertools
import re
import threading

import pytest
from contract_helpers import World
from copying import (
    WHOLE,
    Copier,
    Watch,
    as_message,
    ask,
    assert_once,
    drive,
    letters,
    problem,
    samples,
)
from prometheus_client import CollectorRegistry

from infra.driver import BROKER_PATIENCE, Driver
from infra.log import Expelled, LogUnavailable, Message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from infra.metrics import Metrics
from infra.patience import GaveUp, Patience
from infra.progress_marks import Progress
from infra.watchdog import Watchdog
from schemas.effects import Get, StateInput, Steps
from schemas.ids import digest
from schemas.missions import MissionControl
from schemas.records import Batch, Partition
from schemas.tensors import ObjectRef
from schemas.topics import MISSIONS

NEEDED = ObjectRef(key="needed", sha256=digest(b"needed"), size_bytes=6)


@pytest.fixture
def log() -> MemoryLog:
    made = MemoryLog()
    made.provision(WHOLE)
    return made


@pytest.fixture
def world(log: MemoryLog) -> World:
    def make(namespace: str) -> MemoryLog:
        return MemoryLog(namespace, log.cluster)

    return World("memory", "", make, MemoryLog.truncate, nobody=None, patience_s=0, quiet_s=0)


class Fetcher(Copier):
    """Needs an object, and loses the broker while it waits for it."""

    broker: MemoryLog
    away: int = 0
    expires: bool = False

    def process(self, batch: Batch) -> Steps:
        self.broker.faults.unavailable_commits, self.away = self.away, 0
        if self.expires:
            self.broker.expire("i0")
            self.expires = False
        yield Get(NEEDED)
        return (yield from super().process(batch))


def fetcher(log: MemoryLog, away: int = 0, expires: bool = False) -> Fetcher:
    """A copier of one record at a time."""
    made = Fetcher(max_batch=1)
    made.broker, made.away, made.expires = log, away, expires
    return made


def progress(log: MemoryLog) -> Progress:
    """What the group has committed beside the offset of the one record's partition."""
    marks = log.cluster.group("copier").marks.values()
    return next(found for mark in marks if (found := Progress.parse(mark)).until)


@pytest.mark.parametrize("expires", [False, True])
def test_an_attempt_is_taken_back_once_the_broker_is_there_again(
    world: World, log: MemoryLog, expires: bool
) -> None:
    ask(log, ["p00"])
    store = MemoryStore()
    for _ in range(7):
        driver = drive(world, log, store, fetcher(log, 3, expires), patience_s=1.0)
        with pytest.raises(GaveUp, match="needed"):
            driver.run(threading.Event())
        assert log.faults.unavailable_commits == 0
        assert all(
            not Progress.parse(m).attempts for m in log.cluster.group("copier").marks.values()
        )
        driver.close()
    store.put(NEEDED.key, b"needed")
    finish(world, log, drive(world, log, store, fetcher(log)))
    assert letters(world, log) == []


def test_a_broker_that_stays_away_ends_the_process_all_the_same(
    world: World, log: MemoryLog
) -> None:
    ask(log, ["p00"])
    watch = Watch()
    driver = drive(world, log, MemoryStore(), fetcher(log, away=10**9), patience_s=1.0, watch=watch)
    with pytest.raises(GaveUp, match=f"waited {BROKER_PATIENCE} s for the group coordinator"):
        driver.run(threading.Event())
    assert BROKER_PATIENCE < watch.now < 3 * BROKER_PATIENCE
    assert progress(log).attempts == 1


def test_a_stop_while_a_commit_is_in_doubt_does_not_undo_it(world: World, log: MemoryLog) -> None:
    ask(log, ["p00"])
    log.faults.lose_next_commit_reply, log.faults.unavailable_writers = 1, 0
    stop, looks = threading.Event(), itertools.count()

    def look() -> None:
        if log.faults.lose_next_commit_reply == 0 and next(looks) > 10:
            stop.set()

    driver = drive(world, log, MemoryStore(), Copier(max_batch=1), watch=Watch(look))
    log.faults.unavailable_writers = 10**9
    driver.run(stop)
    log.faults.unavailable_writers = 0
    assert any(mark.offset == 1 for mark in log.cluster.group("copier").marks.values())
    driver.close()
    finish(world, log, drive(world, log, MemoryStore(), Copier(max_batch=1)))


def test_a_reader_that_is_given_nothing_ends_the_process(world: World, log: MemoryLog) -> None:
    driver = drive(world, log, MemoryStore(), Copier(), patience_s=1.0)
    for _ in range(200):
        driver.step()
    log.faults.empty_polls = 10**9
    ask(log, ["p00"])
    (at,) = (f"problems[{p.number}]" for p, (_, end) in log.ends("problems").items() if end)
    with pytest.raises(GaveUp, match=rf"{re.escape(at)}@0: records wait up to offset 1"):
        driver.run(threading.Event())
    driver.close()
    log.faults.empty_polls = 0
    finish(world, log, drive(world, log, MemoryStore(), Copier()))


def test_a_reader_that_is_given_nothing_is_replaced_first(world: World, log: MemoryLog) -> None:
    driver = drive(world, log, MemoryStore(), Copier(), patience_s=1.0)
    deaf, stop = driver._reader, threading.Event()
    log.faults.empty_polls = 10**9
    ask(log, ["p00"])
    with pytest.raises(Expelled, match="records wait"):
        for _ in range(3000):
            driver.step()
    log.faults.empty_polls = 0
    driver._rejoin(Expelled("given nothing"))
    assert driver._reader is not deaf
    finish(world, log, driver)
    stop.set()
    driver.run(stop)


def test_a_starved_state_reader_ends_the_process(world: World, log: MemoryLog) -> None:
    processor = Copier(state=(StateInput(MISSIONS),))
    processor.waiting_for = lambda: "a mission"  # type: ignore[method-assign]
    driver = drive(world, log, MemoryStore(), processor, patience_s=1.0)
    log.faults.empty_state_polls = 10**9
    log.append(
        [Message("missions", b"m", MissionControl(mission_id="m", action="pause").to_bytes())]
    )
    with pytest.raises(GaveUp, match=r"missions\[0\]@0: records wait up to offset 1"):
        driver.run(threading.Event())


def test_only_idle_time_counts_as_starving(world: World, log: MemoryLog) -> None:
    """A partition that others keep waiting is not starved, however long that takes."""
    clock = Watch()
    two = [Partition("problems", n) for n in range(2)]
    dog = Watchdog(log, two, Patience("copier", 10.0, clock, clock.sleep), clock)
    log.append([as_message(problem(f"p{n}"), f"k{n}") for n in range(40)])
    for _ in range(200):
        clock.now += 60.0
        assert dog.idle(dict.fromkeys(two, 0)) is None
        dog.busy()
    for _ in range(3):
        clock.now += 3600.0
        assert dog.idle(dict.fromkeys(two, 0)) is None
    starved = [found for _ in range(2000) if (found := dog.idle(dict.fromkeys(two, 0)))]
    assert [(s.partition, s.again) for s in starved[:2]] == [(two[0], False), (two[0], True)]


def test_an_idle_process_whose_broker_is_away_says_so_and_ends(
    world: World, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = drive(world, log, MemoryStore(), Copier(), patience_s=1.0)
    for _ in range(200):
        driver.step()

    def away(*_: object) -> None:
        raise LogUnavailable("nobody answers")

    monkeypatch.setattr(driver.log, "stable_ends", away)
    with pytest.raises(GaveUp, match="waited 1 s for the last stable offsets: nobody answers"):
        driver.run(threading.Event())


def test_waits_are_counted(log: MemoryLog) -> None:
    ask(log, ["p00"])
    watch, registry, store = Watch(), CollectorRegistry(), MemoryStore()
    metrics = Metrics("copier", "main", registry)
    driver = Driver(fetcher(log), log, store, "i0", metrics=metrics, clock=watch, sleep=watch.sleep)

    def waits() -> float | None:
        labels = {"processor": "copier", "policy": "main"}
        return registry.get_sample_value("ralo_waits_total", labels)

    for _ in range(20):
        if not driver._reader.assignment():
            driver.step()
    assert waits() == 0
    watch._every = lambda: watch.now > 5 and store.put(NEEDED.key, b"needed")  # type: ignore
    for _ in range(200):
        driver.step()
    # However long it took, it was one wait.
    assert waits() == 1
    log.faults.unavailable_commits = 3
    driver._patience.until_available("the broker", lambda: driver._reader.commit({}))
    assert waits() == 2


def finish(world: World, log: MemoryLog, driver: Driver) -> None:
    """The one problem has one sample in the end, and goes on having one."""
    for _ in range(60):
        driver.step()
    assert_once(samples(world, log), ["p00"])
