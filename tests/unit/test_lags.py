"""What waits for consumer groups, on the memory log."""

import pytest
from test_selection import control, evaluation, put, transact

from consumers.lags import Lag, lags, policy_of
from infra import envelope
from infra.log import Message
from infra.memory.log import MemoryLog
from schemas.partitioner import partition_for
from schemas.records import Partition
from schemas.topics import EVALUATIONS, MISSIONS

ONE = Partition("missions", 0)


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog("ns.")
    log.provision([EVALUATIONS, MISSIONS])
    return log


def only(log: MemoryLog, group: str, partition: Partition, mark: int, **options: int) -> Lag:
    (found,) = (
        one for one in lags(log, group, {partition: mark}, **options) if one.partition == partition
    )
    return found


def test_a_group_that_takes_everything_waits_for_all_records(log: MemoryLog) -> None:
    for n in range(5):
        put(log, control(n), 100 + n)
    assert only(log, "provider", ONE, 2) == Lag("provider", ONE, 2, 5, 3, 3, 102, True)
    assert only(log, "provider", ONE, 5) == Lag("provider", ONE, 5, 5, 0, 0, None, True)


def test_markers_and_aborted_records_are_nobodys_work(log: MemoryLog) -> None:
    transact(log, control(0))
    transact(log, control(1), abort=True)
    found = only(log, "provider", ONE, 1)
    assert (found.offsets, found.records) == (3, 0)


@pytest.mark.parametrize("headers", [True, False])
def test_another_policys_events_are_not_a_groups_work(log: MemoryLog, headers: bool) -> None:
    events = [evaluation(n, policy=policy) for n in range(6) for policy in ("a", "b", "c", "d")]
    messages = [envelope.message(e) for e in events]
    plain = [Message(m.topic, m.key, m.value) for m in messages]
    log.append(messages if headers else plain)
    for policy in ("a", "b", "c", "d"):
        at = Partition("evaluations", partition_for(policy.encode(), 4))
        assert only(log, f"gate.{policy}", at, 0).records == 6
    every = sum(one.records for one in lags(log, "someone", {Partition("evaluations", 0): 0}))
    assert every == 24


def test_what_does_not_decode_waits_to_be_buried(log: MemoryLog) -> None:
    log.append([Message("evaluations", b"a", b"{broken")])
    at = Partition("evaluations", partition_for(b"a", 4))
    assert only(log, "gate.a", at, 0).records == 1


def test_partitions_without_a_commit_wait_from_their_beginning(log: MemoryLog) -> None:
    for n in range(12):
        put(log, evaluation(n, policy=f"p{n}"), n)
    found = list(lags(log, "someone", {Partition("evaluations", 0): 0}))
    assert [one.partition.number for one in found] == [0, 1, 2, 3]
    assert [one.committed for one in found] == [0, None, None, None]
    assert sum(one.records for one in found) == 12


def test_a_mark_before_what_is_kept_counts_what_is_kept(log: MemoryLog) -> None:
    for n in range(10):
        put(log, control(n), n)
    log.truncate(ONE, 7)
    found = only(log, "provider", ONE, 2)
    assert (found.committed, found.offsets, found.records, found.since_ms) == (2, 3, 3, 7)


def test_of_a_long_backlog_a_part_is_looked_at(log: MemoryLog) -> None:
    for n in range(30):
        put(log, control(n), n)
    found = only(log, "provider", ONE, 0, looked_at=20)
    assert (found.offsets, found.records, found.whole) == (30, 20, False)


def test_the_policy_of_a_group() -> None:
    assert policy_of("trainer.main") == "main"
    assert policy_of("sampler.demo.v2") == "demo.v2"
    assert policy_of("provider") is None
    assert policy_of("someone.else") is None
