import itertools

import pytest

from consumers.read import read
from infra.log import Message
from infra.memory.log import MemoryLog
from schemas.learning import Evaluation, RollbackRequest
from schemas.missions import MissionControl
from schemas.topics import EVALUATIONS, GRADIENT_CHUNKS, MISSIONS

SHA = "0" * 64


def evaluation(version: int, policy: str = "main", mission: str = "m1") -> Evaluation:
    return Evaluation(
        policy=policy,
        mission_id=mission,
        version=version,
        accuracy=version / 10,
        correct=version,
        total=10,
        reward=0.0,
        heldout_sha256=SHA,
    )


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog("ns.")
    log.provision([EVALUATIONS, GRADIENT_CHUNKS, MISSIONS])
    return log


def append(log: MemoryLog, *events: Evaluation | RollbackRequest | MissionControl) -> None:
    log.append([Message(e.topic, e.key.encode(), e.to_bytes()) for e in events])


def versions(records: list[object]) -> list[int]:
    return sorted(r.event.version for r in records)  # type: ignore[attr-defined]


def test_reads_all_partitions_from_the_start(log: MemoryLog) -> None:
    append(log, *(evaluation(v, policy=f"p{v}") for v in range(8)))
    records = list(read("evaluations", log=log))
    assert versions(records) == list(range(8))
    assert len({r.partition for r in records}) > 1


def test_order_is_kept_per_partition(log: MemoryLog) -> None:
    append(log, *(evaluation(v) for v in range(2500)))
    assert [r.event.version for r in read("evaluations", log=log)] == list(range(2500))


def test_filters_by_mission_and_policy(log: MemoryLog) -> None:
    append(log, evaluation(1), evaluation(2, mission="m2"), evaluation(3, policy="other"))
    assert versions(list(read("evaluations", log=log, mission="m1"))) == [1, 3]
    assert versions(list(read("evaluations", log=log, policy="main"))) == [1, 2]
    assert versions(list(read("evaluations", log=log, mission="m1", policy="main"))) == [1]


def test_an_event_without_a_mission_matches_no_mission(log: MemoryLog) -> None:
    append(log, RollbackRequest(request_id="r", policy="main", to_version=1))
    assert list(read("gradient-chunks", log=log, mission="m1")) == []
    assert len(list(read("gradient-chunks", log=log, policy="main"))) == 1


def test_what_does_not_decode_is_kept_without_an_event(log: MemoryLog) -> None:
    log.append([Message("evaluations", b"main", b"{broken")])
    append(log, evaluation(1))
    kept = list(read("evaluations", log=log))
    assert [r.event is None for r in kept if r.value == b"{broken"] == [True]
    assert len(kept) == 2
    assert versions(list(read("evaluations", log=log, policy="main"))) == [1]


def test_raw_records_are_not_decoded(log: MemoryLog) -> None:
    append(log, evaluation(1))
    (record,) = read("evaluations", log=log, raw=True)
    assert record.event is None
    assert record.value == evaluation(1).to_bytes()
    with pytest.raises(ValueError, match="raw"):
        read("evaluations", log=log, raw=True, policy="main")


def test_ends_where_the_log_ended_at_the_call(log: MemoryLog) -> None:
    append(log, evaluation(1), evaluation(2))
    records = read("evaluations", log=log)
    first = next(records)
    append(log, evaluation(3))
    assert versions([first, *records]) == [1, 2]


def test_uncommitted_records_are_not_read(log: MemoryLog) -> None:
    append(log, evaluation(1))
    writer = log.writer("t")
    aborted = evaluation(2)
    log.faults.abort_next = 1
    reader = log.work_reader("g", [MISSIONS], "i")
    message = Message(aborted.topic, aborted.key.encode(), aborted.to_bytes())
    with pytest.raises(Exception, match="abort"):
        writer.publish([message], {}, "g", reader.membership())
    append(log, evaluation(3))
    assert versions(list(read("evaluations", log=log))) == [1, 3]


def test_follow_goes_on_with_what_comes(log: MemoryLog) -> None:
    append(log, evaluation(1))
    records = read("evaluations", log=log, follow=True)
    assert versions(list(itertools.islice(records, 1))) == [1]
    append(log, evaluation(2))
    assert versions(list(itertools.islice(records, 1))) == [2]


def test_what_retention_deleted_is_not_waited_for(log: MemoryLog) -> None:
    append(log, *(evaluation(v) for v in range(4)))
    (partition,) = {r.partition for r in read("evaluations", log=log)}
    log.truncate(partition, 2)
    assert versions(list(read("evaluations", log=log))) == [2, 3]


def test_an_unknown_topic_is_named(log: MemoryLog) -> None:
    with pytest.raises(ValueError, match=r"no topic 'evals'.*evaluations"):
        read("evals", log=log)
