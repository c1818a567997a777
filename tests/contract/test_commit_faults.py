"""Commits that come late, twice or not at all, and replies that get lost."""

from collections.abc import Callable

import pytest
from commit_faults import CommitFaults
from contract_helpers import (
    IN,
    OUT,
    Crash,
    World,
    crash_at,
    during,
    message,
    one_step,
    settle,
    started,
    texts,
    visible,
    wait_for,
)
from copying import WHOLE, Copier, ask, assert_contiguous, assert_once, drive, lag, run_until
from copying import samples as samples_of

from infra.log import Doubtful, Log, Mark, WorkReader
from infra.store import ObjectStore
from schemas.records import Partition

NAMES = [f"p{n:02}" for n in range(24)]
DOUBT = "the commit's reply did not come"


@pytest.fixture
def log(world: World, faults: CommitFaults) -> Log:
    made = world.log()
    made.provision([IN, OUT])
    return made


@pytest.fixture
def reader(world: World, log: Log) -> WorkReader:
    log.append([message("in", IN)])
    made = log.work_reader("g", [IN], "one")
    started(world, made, 2)
    return made


def copied(reader: WorkReader) -> Partition:
    """The partition whose one record was read."""
    return next(p for p in sorted(reader.assignment(), key=str) if reader.position(p))


@pytest.mark.parametrize(
    ("fault", "late", "done"),
    [
        ("reply lost", False, True),
        ("request late", False, False),
        ("request late", True, True),
    ],
)
def test_the_committed_offset_tells_whether_a_doubtful_commit_happened(
    world: World,
    log: Log,
    reader: WorkReader,
    faults: CommitFaults,
    fault: str,
    late: bool,
    done: bool,
) -> None:
    faults.arm(fault)
    with pytest.raises(Doubtful):
        one_step(world, log, reader)
    if late:
        faults.deliver_late()
    settle(log, "w")
    partition = copied(reader)
    assert reader.committed([partition]) == {partition: Mark(1) if done else None}
    assert texts(visible(world, log)) == (["out"] if done else [])


def test_a_commit_that_comes_after_the_successor_is_refused(
    world: World, log: Log, reader: WorkReader, faults: CommitFaults
) -> None:
    faults.arm("request late")
    with pytest.raises(Doubtful):
        one_step(world, log, reader)
    successor = log.writer("w")
    late = during("sent_outputs", faults.deliver_late)
    with pytest.raises(Crash):
        successor.publish(
            [message("open")],
            {},
            "g",
            world.nobody,
            lambda name: late(name) or crash_at("sent_offsets")(name),
        )
    settle(log, "w")
    assert visible(world, log) == []


@pytest.mark.parametrize("fault", ["request twice", "copy kept"])
def test_a_repeated_commit_after_the_transaction_changes_nothing(
    world: World, log: Log, reader: WorkReader, faults: CommitFaults, fault: str
) -> None:
    faults.arm(fault)
    partition = one_step(world, log, reader)
    assert not faults.armed
    assert texts(visible(world, log)) == ["out"]
    end = ends(world, log, 2)
    faults.deliver_late()
    settle(log, "w")
    assert log.ends("out") == end
    assert reader.committed([partition]) == {partition: Mark(1)}


def ends(world: World, log: Log, next_offset: int) -> dict[Partition, tuple[int, int]]:
    """The ends once the marker is written, which is a moment after the commit."""
    wait_for(world, "the marker", lambda: [e for _, e in log.ends("out").values()] == [next_offset])
    return log.ends("out")


def test_a_repeated_commit_in_the_next_transaction_tears_it(
    world: World, log: Log, reader: WorkReader, faults: CommitFaults
) -> None:
    """Kafka without KIP-890 does this; so readers judge by `source`, not by transactions alone."""
    faults.arm("copy kept")
    writer = log.writer("w")
    writer.publish([message("first")], {}, "g", world.nobody)
    late = during("sent_outputs", faults.deliver_late)
    partition = min(reader.assignment(), key=str)
    with pytest.raises(Crash):
        writer.publish(
            [message("torn")],
            {partition: Mark(1)},
            "g",
            reader.membership(),
            lambda name: late(name) or crash_at("sent_offsets")(name),
        )
    settle(log, "w")
    assert texts(visible(world, log)) == ["first", "torn"]
    assert reader.committed([partition]) == {partition: None}


@pytest.mark.parametrize("fault", ["cut before", "cut after"])
def test_a_connection_that_breaks_under_a_commit_leaves_all_or_nothing(
    world: World, log: Log, reader: WorkReader, faults: CommitFaults, fault: str
) -> None:
    faults.arm(fault)
    try:
        one_step(world, log, reader)
        known = True
    except Doubtful:
        known = False
    assert not faults.armed
    settle(log, "w")
    partition = copied(reader)
    done = reader.committed([partition]) == {partition: Mark(1)}
    assert done or not known
    assert texts(visible(world, log)) == (["out"] if done else [])


class Network:
    """Harms the second commit, and lets what was kept arrive at a moment after it."""

    def __init__(self, faults: CommitFaults, fault: str, arrives: str) -> None:
        self._faults, self._fault, self._arrives = faults, fault, arrives
        self._commits = 0

    def point(self, name: str) -> None:
        """What happens at a moment of a publication, or before a successor's."""
        self._commits += name == "sent_offsets"
        if name == "sent_offsets" and self._commits == 2:
            self._faults.arm(self._fault)
        elif name == self._arrives:
            self._faults.deliver_late()

    def watch(self, log: Log) -> None:
        """Notice when a producer is made that takes over from another."""
        opening: Callable[[str], object] = log.writer

        def writer(transactional_id: str) -> object:
            self.point("successor")
            return opening(transactional_id)

        log.writer = writer  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(
    ("fault", "arrives", "doubtful"),
    [
        ("reply lost", "never", True),
        ("request late", "never", True),
        ("request late", "successor", True),
        ("request late", "sent_outputs", True),
        ("request twice", "never", False),
        ("copy kept", "sent_outputs", False),
        ("copy kept", "sent_offsets", False),
        ("cut before", "never", None),
        ("cut after", "never", None),
    ],
)
def test_a_driver_publishes_once_whatever_happens_to_a_commit(
    world: World,
    log: Log,
    store: ObjectStore,
    faults: CommitFaults,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    arrives: str,
    doubtful: bool | None,
) -> None:
    """A connection that breaks is in doubt only where the client does not ask again."""
    log.provision(WHOLE)
    ask(log, NAMES)
    network = Network(faults, fault, arrives)
    network.watch(log)
    driver = drive(world, log, store, Copier(max_batch=6), point=network.point)
    try:
        run_until(world, lambda: lag(driver) == 0, driver)
        for _ in world.quiet_tries():
            driver.step()
    finally:
        driver.close()
    assert network._commits > 3 and not faults.armed
    assert doubtful in (None, DOUBT in caplog.text)
    assert_once(samples_of(world, log), NAMES)
    assert_contiguous(samples_of(world, log), log)


def test_what_a_torn_transaction_has_published_is_not_done_again(
    world: World,
    log: Log,
    store: ObjectStore,
    faults: CommitFaults,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The process dies of it: its successor finds the outputs without their offsets."""
    log.provision(WHOLE)
    ask(log, NAMES)
    network = Network(faults, "copy kept", "sent_outputs")

    def torn(name: str) -> None:
        network.point(name)
        if name == "sent_outputs" and network._commits == 2:
            raise Crash

    driver = drive(world, log, store, Copier(max_batch=6), point=torn)
    with pytest.raises(Crash):
        run_until(world, lambda: lag(driver) == 0, driver)
    published = len(samples_of(world, log))
    successor = drive(world, log, store, Copier(max_batch=6))
    try:
        run_until(world, lambda: lag(successor) == 0, successor)
    finally:
        successor.close()
        driver.close()
    assert published > 0 and "by a transaction that was torn" in caplog.text
    assert_once(samples_of(world, log), NAMES)
    assert_contiguous(samples_of(world, log), log)
