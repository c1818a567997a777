"""Partitions: order, keys, ends, time stamps, deletion, provisioning, namespaces."""

import random

import pytest
from contract_helpers import (
    ALONE,
    FOUR,
    IN,
    OUT,
    Crash,
    World,
    crash_at,
    message,
    started,
    texts,
    until,
    visible,
    wait_for,
)

from infra.log import Log, LogError, Message, OffsetLost
from schemas.learning import Problem
from schemas.partitioner import partition_for
from schemas.records import Partition
from schemas.topics import Topic

KEYS = [f"key-{n}" for n in range(60)]


def test_records_come_in_order_within_a_partition(world: World, log: Log) -> None:
    log.provision([FOUR])
    appended = log.append([message(str(n), FOUR, KEYS[n % 7]) for n in range(100)])
    reader = log.state_reader(dict.fromkeys(log.ends("four"), 0))
    read = until(world, reader, 100)
    reader.close()
    for partition in log.ends("four"):
        here = [r for r in read if r.partition == partition]
        assert [r.offset for r in here] == list(range(len(here)))
        assert texts(here) == texts(r for r in appended if r.partition == partition)


def test_the_key_decides_the_partition(world: World, log: Log) -> None:
    log.provision([FOUR])
    log.append([message(key, FOUR, key) for key in KEYS])
    writer = log.writer("keys")
    writer.publish([message(key, FOUR, key) for key in KEYS], {}, "g", world.nobody)
    writer.close()
    for record in visible(world, log, FOUR):
        assert record.key is not None
        assert record.partition.number == partition_for(record.key, 4)
    assert len({partition_for(key.encode(), 4) for key in KEYS}) == 4


def test_append_answers_where_the_records_lie(world: World, log: Log) -> None:
    log.provision([FOUR])
    appended = log.append([message(key, FOUR, key) for key in KEYS])
    assert {(r.at, r.value) for r in appended} == {
        (r.at, r.value) for r in visible(world, log, FOUR)
    }


def test_everything_of_a_message_survives(world: World, log: Log) -> None:
    log.provision([OUT])
    sent = Message(
        "out", b"\x00\xff", b"\x80value", {"schema": b"x", "empty": b""}, 1_700_000_000_123
    )
    log.append([sent])
    (read,) = visible(world, log)
    assert (read.key, read.value, read.timestamp_ms) == (sent.key, sent.value, sent.timestamp_ms)
    assert dict(read.headers) == dict(sent.headers)


def test_a_message_without_a_key_is_read(world: World, log: Log) -> None:
    log.provision([FOUR])
    log.append([Message("four", None, b"keyless")])
    (read,) = visible(world, log, FOUR)
    assert (read.key, read.value) == (None, b"keyless")


def test_a_record_above_the_limit_is_refused_for_good(world: World, log: Log) -> None:
    log.provision([OUT])
    giant = Message("out", b"k", random.Random(0).randbytes(600 * 1024))
    with pytest.raises(LogError, match="out"):
        log.append([giant])
    writer = log.writer("giant")
    with pytest.raises(LogError):
        writer.publish([message("small"), giant], {}, "g", world.nobody)
    writer.close()
    log.writer("giant").close()
    assert visible(world, log) == []


def test_ends_count_open_transactions(world: World, log: Log) -> None:
    log.provision([OUT])
    assert log.ends("out") == {ALONE: (0, 0)}
    log.append([message("a")])
    with pytest.raises(Crash):
        log.writer("w").publish(
            [message("b"), message("c")], {}, "g", world.nobody, crash_at("sent_outputs")
        )
    assert log.ends("out") == {ALONE: (0, 3)}


def test_offset_at_finds_the_first_record_of_that_time_or_later(world: World, log: Log) -> None:
    log.provision([OUT])
    assert log.offset_at(ALONE, 0) == 0
    for stamp in (1000, 3000, 2000, 5000):
        log.append([Message("out", b"k", b"v", {}, stamp)])
    wanted = {0: 0, 1000: 0, 1001: 1, 2500: 1, 3001: 3, 5000: 3, 5001: 4}
    assert {t: log.offset_at(ALONE, t) for t in wanted} == wanted


def test_deleted_records_are_reported_not_skipped(world: World, log: Log) -> None:
    log.provision([OUT])
    log.append([message(str(n)) for n in range(10)])
    world.truncate(log, ALONE, 6)
    assert log.ends("out") == {ALONE: (6, 10)}
    reader = log.work_reader("g", [OUT], "one")
    wait_for(world, "an assignment", lambda: not reader.poll(1, 0.05) and bool(reader.assignment()))
    reader.start({ALONE: 2})
    with pytest.raises(OffsetLost):
        until(world, reader, 1)
    assert texts(visible(world, log)) == ["6", "7", "8", "9"]


def test_a_state_reader_starts_where_it_is_told(world: World, log: Log) -> None:
    log.provision([OUT])
    log.append([message(str(n)) for n in range(6)])
    reader = log.state_reader({ALONE: 4})
    assert texts(until(world, reader, 2)) == ["4", "5"]


def test_provisioning_twice_is_safe(world: World, log: Log) -> None:
    assert sorted(log.provision([IN, OUT])) == ["in", "out"]
    log.append([message("kept")])
    assert world.log().provision([IN, OUT, FOUR]) == ["four"]
    assert texts(visible(world, log)) == ["kept"]


def test_another_partition_count_is_refused(log: Log) -> None:
    log.provision([IN])
    with pytest.raises(LogError, match="2 partitions"):
        log.provision([Topic("in", (Problem,), partitions=3)])
    assert len(log.ends("in")) == 2


def test_a_topic_that_does_not_exist_is_named(log: Log) -> None:
    with pytest.raises(LogError, match="nowhere"):
        log.ends("nowhere")


def test_namespaces_do_not_meet(world: World) -> None:
    here, there = world.log("a."), world.log("b.")
    for log in (here, there):
        log.provision([IN, OUT])
    here.append([message("here", IN)])
    there.append([message("there", IN)])
    # The same transactional id elsewhere fences nobody here, the same group shares no offsets.
    writer = here.writer("w")
    there.writer("w")
    reader, foreign = here.work_reader("g", [IN], "one"), there.work_reader("g", [IN], "one")
    mine = started(world, reader, 2)
    assert all(p.topic == "in" for p in mine)
    (record,) = until(world, reader, 1)
    after = {record.partition: _mark(record.offset + 1)}
    writer.publish([message("copied")], after, "g", reader.membership())
    started(world, foreign, 2)
    assert texts(until(world, foreign, 1)) == ["there"]
    assert foreign.committed([record.partition]) == {record.partition: None}
    assert texts(visible(world, here)) == ["copied"]
    assert visible(world, there) == []


def _mark(offset: int) -> object:
    from infra.log import Mark

    return Mark(offset)


def test_a_partition_is_written_as_in_events() -> None:
    assert str(Partition("gradient-chunks", 3)) == "gradient-chunks-3"
    assert Partition.parse("gradient-chunks-3") == Partition("gradient-chunks", 3)
