"""What only the memory log can be made to do: abort, be away for a poll, let time pass."""

import pytest
from contract_helpers import (
    ALONE,
    IN,
    OUT,
    World,
    message,
    one_step,
    resume,
    started,
    texts,
    until,
    visible,
)
from copying import WHOLE, Copier, Watch, ask, assert_contiguous, assert_once, drive, samples

from infra.log import Aborted, Doubtful, Fenced, LogUnavailable, Mark, OffsetLost
from infra.memory.cluster import MemoryCluster
from infra.memory.log import MemoryLog
from infra.memory.readers import MemoryWorkReader
from infra.memory.store import MemoryStore
from schemas.records import Partition

NAMES = [f"p{n:02}" for n in range(24)]


@pytest.fixture
def log() -> MemoryLog:
    made = MemoryLog()
    made.provision([IN, OUT])
    return made


@pytest.fixture
def world(log: MemoryLog) -> World:
    def make(namespace: str) -> MemoryLog:
        return MemoryLog(namespace, log.cluster)

    def truncate(view: MemoryLog, partition: Partition, before: int) -> None:
        view.truncate(partition, before)

    return World("memory", "", make, truncate, nobody=None, patience_s=0, quiet_s=0)


@pytest.fixture
def reader(world: World, log: MemoryLog) -> MemoryWorkReader:
    log.append([message("in", IN)])
    made = log.work_reader("g", [IN], "one")
    started(world, made, 2)
    return made


def test_offsets_in_an_open_transaction_are_waited_for(
    world: World, log: MemoryLog, reader: MemoryWorkReader
) -> None:
    log.faults.fail_next_commit = 1
    with pytest.raises(Doubtful):
        one_step(world, log, reader)
    with pytest.raises(LogUnavailable, match="same transactional id"):
        reader.committed(sorted(reader.assignment(), key=str))
    log.time_out("w")
    assert set(reader.committed(sorted(reader.assignment(), key=str)).values()) == {None}


def test_an_aborting_coordinator_leaves_the_writer_usable(
    world: World, log: MemoryLog, reader: MemoryWorkReader
) -> None:
    writer = log.writer("w")
    log.faults.abort_next = 1
    with pytest.raises(Aborted):
        writer.publish([message("lost")], {}, "g", None)
    writer.publish([message("kept")], {}, "g", None)
    assert texts(visible(world, log)) == ["kept"]


def test_a_writer_whose_transaction_timed_out_is_of_no_use_again(
    world: World, log: MemoryLog, reader: MemoryWorkReader
) -> None:
    writer = log.writer("w")
    log.time_out("w")
    with pytest.raises(Fenced):
        writer.publish([message("lost")], {}, "g", None)
    with pytest.raises(Doubtful):
        writer.publish([message("lost")], {}, "g", None)
    log.writer("w").publish([message("kept")], {}, "g", None)
    assert texts(visible(world, log)) == ["kept"]


def test_an_expired_member_loses_its_partitions_and_comes_back(
    world: World, log: MemoryLog, reader: MemoryWorkReader
) -> None:
    until(world, reader, 1)
    owned, stale = reader.assignment(), reader.membership()
    log.expire("one")
    with pytest.raises(Fenced):
        log.writer("w").publish([message("late")], {next(iter(owned)): Mark(1)}, "g", stale)
    with pytest.raises(Fenced):
        reader.commit({next(iter(owned)): Mark(1)})
    assert reader.assignment() == owned
    reader.changes()
    assert reader.poll(10, 0) == []
    assert set(reader.changes().revoked) == owned
    assert reader.assignment() == set()
    reader.poll(10, 0)
    assert set(reader.changes().assigned) == owned
    resume(reader, owned)
    assert texts(until(world, reader, 1)) == ["in"]


def test_the_partitions_of_an_expired_member_go_to_the_others(
    world: World, log: MemoryLog, reader: MemoryWorkReader
) -> None:
    two = log.work_reader("g", [IN], "two")
    reader.close()
    two.poll(1, 0)
    two.poll(1, 0)
    assert two.assignment() == set()
    log.expire("one")
    two.poll(1, 0)
    assert len(two.assignment()) == 2


def test_a_partition_moves_in_two_polls(
    world: World, log: MemoryLog, reader: MemoryWorkReader
) -> None:
    before = reader.membership()
    two = log.work_reader("g", [IN], "two")
    two.poll(1, 0)
    assert (len(reader.assignment()), len(two.assignment())) == (2, 0)
    # In the background the generation has moved on, though the first member was not told yet.
    assert reader.membership() != before
    reader.poll(1, 0)
    assert (len(reader.assignment()), len(two.assignment())) == (1, 0)
    two.poll(1, 0)
    assert (len(reader.assignment()), len(two.assignment())) == (1, 1)


def test_a_broker_that_is_away_moves_no_position(world: World, log: MemoryLog) -> None:
    reader = log.state_reader({p: 0 for p in log.ends("in")})
    log.append([message("in", IN)])
    log.faults.unavailable_polls = 2
    for _ in range(2):
        with pytest.raises(LogUnavailable):
            reader.poll(10, 0)
    assert texts(reader.poll(10, 0)) == ["in"]


def test_time_comes_from_the_cluster_and_passes_only_when_nothing_comes() -> None:
    waited: list[float] = []
    log = MemoryLog(cluster=MemoryCluster(now=lambda: 12.5, wait=waited.append))
    log.provision([OUT])
    reader = log.state_reader({ALONE: 0})
    assert reader.poll(10, 0.25) == []
    (record,) = log.append([message("x")])
    assert record.timestamp_ms == 12_500
    assert len(reader.poll(10, 0.5)) == 1
    assert waited == [0.25]


def test_a_position_beyond_the_end_is_lost_too(log: MemoryLog) -> None:
    with pytest.raises(OffsetLost, match=r"out\[0\]@5: the log holds 0 to 0"):
        log.state_reader({ALONE: 5}).poll(1, 0)


@pytest.mark.parametrize("fault", ["abort_next", "unavailable_polls"])
@pytest.mark.parametrize("at", range(0, 12, 3))
def test_the_driver_survives_each_fault(world: World, fault: str, at: int) -> None:
    log, store = MemoryLog("d."), MemoryStore()
    log.provision(WHOLE)
    ask(log, NAMES)
    turns = iter(range(1000))

    def break_at_turn() -> None:
        if next(turns, -1) == at * 10:
            setattr(log.faults, fault, 1)

    driver = drive(world, log, store, Copier(max_batch=3), watch=Watch(break_at_turn))
    for _ in range(300):
        try:
            driver.step()
        except LogUnavailable:
            driver._stale = True
    assert_once(samples(world, log), NAMES)
    assert_contiguous(samples(world, log), log)


@pytest.mark.parametrize("serve", [True, False], ids=["polling", "not polling"])
def test_a_member_whose_session_ends_in_mid_batch_doubles_nothing(
    world: World, serve: bool
) -> None:
    log, store = MemoryLog("d."), MemoryStore()
    log.provision(WHOLE)
    second = drive(world, log, store, Copier(), "i1")
    ask(log, NAMES)

    def expire(name: str) -> None:
        if not samples(world, log):
            log.expire("i0")
            for _ in range(6):
                second.step()
            watch.now += 1.0 if serve else 0.0

    watch = Watch()
    first = drive(world, log, store, Copier(on_record=expire), "i0", watch=watch)
    log.expire("i1")
    for _ in range(60):
        first.step()
        second.step()
    assert_once(samples(world, log), NAMES)
    assert_contiguous(samples(world, log), log)
