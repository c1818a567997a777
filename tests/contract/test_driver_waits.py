"""What the driver waits for in vain, on a log that fails in ways only the memory log can."""

import itertools
import threading

import pytest
from contract_helpers import World
from copying import WHOLE, Copier, Watch, ask, assert_once, drive, letters, samples

from infra.driver import BROKER_PATIENCE, Driver
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from infra.patience import GaveUp
from infra.progress_marks import Progress
from schemas.effects import Get, Steps
from schemas.ids import digest
from schemas.records import Batch
from schemas.tensors import ObjectRef

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

    def process(self, batch: Batch) -> Steps:
        self.broker.faults.unavailable_commits, self.away = self.away, 0
        yield Get(NEEDED)
        return (yield from super().process(batch))


def fetcher(log: MemoryLog, away: int) -> Fetcher:
    """A copier of one record at a time."""
    made = Fetcher(max_batch=1)
    made.broker, made.away = log, away
    return made


def progress(log: MemoryLog) -> Progress:
    """What the group has committed beside the offset of the one record's partition."""
    marks = log.cluster.group("copier").marks.values()
    return next(found for mark in marks if (found := Progress.parse(mark)).until)


def test_an_attempt_is_taken_back_once_the_broker_is_there_again(
    world: World, log: MemoryLog
) -> None:
    ask(log, ["p00"])
    store = MemoryStore()
    for _ in range(7):
        driver = drive(world, log, store, fetcher(log, away=3), patience_s=1.0)
        with pytest.raises(GaveUp, match="needed"):
            driver.run(threading.Event())
        assert log.faults.unavailable_commits == 0
        assert all(
            not Progress.parse(m).attempts for m in log.cluster.group("copier").marks.values()
        )
        driver.close()
    store.put(NEEDED.key, b"needed")
    finish(world, log, drive(world, log, store, fetcher(log, away=0)))
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


def finish(world: World, log: MemoryLog, driver: Driver) -> None:
    """The one problem has one sample in the end, and goes on having one."""
    for _ in range(60):
        driver.step()
    assert_once(samples(world, log), ["p00"])
