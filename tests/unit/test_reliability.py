"""Fault runs without a fault: schedules, what counts as being back, the ledger and its page."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.audit.report import Findings, InFlight
from consumers.reliability.books import books_of, breaches_of
from consumers.reliability.evidence import (
    WORLD_LATE_MS,
    Evidence,
    after_kill,
    after_outage,
    versions_of_all,
)
from consumers.reliability.ledger import (
    Books,
    FaultLine,
    LedgerError,
    Machine,
    Proof,
    RunLine,
    append,
    lines,
    mend,
    next_run,
)
from consumers.reliability.report import page, quantile
from consumers.reliability.schedule import EVERY_S, KINDS, PROCESSES, schedule
from infra.cli.chaos_world import TARGETS
from schemas.acting import Feedback, SensorFrame
from schemas.base import Event
from schemas.learning import GradientUpload, SampleGroup, WeightVersion
from schemas.records import Partition, Record
from schemas.topics import SAMPLES

# --- schedules


@settings(deadline=None, max_examples=30)
@given(st.integers(), st.floats(6, 1500))
def test_a_schedule_is_a_function_of_its_seed_and_in_order(seed: int, seconds: float) -> None:
    faults = schedule(seed, seconds, TARGETS)
    assert faults == schedule(seed, seconds, TARGETS)
    assert [fault.number for fault in faults] == list(range(len(faults)))
    assert [f.due_s for f in faults] == sorted(f.due_s for f in faults)
    assert all(0 < fault.due_s < seconds for fault in faults)
    # Every kind is broken, however short the run.
    assert {fault.kind for fault in faults} == set(KINDS)


def test_another_seed_is_another_schedule() -> None:
    assert schedule(1, 300, TARGETS) != schedule(2, 300, TARGETS)


def test_leaving_a_kind_out_changes_no_other() -> None:
    def in_short(kinds: tuple[str, ...]) -> list[str]:
        return [
            f"{f.due_s} {f}" for f in schedule(3, 600, TARGETS, kinds) if f.kind in PROCESSES[1:]
        ]

    assert in_short(PROCESSES[1:]) == in_short(KINDS)


def test_all_processes_of_a_kind_are_killed() -> None:
    killed = {f.target for f in schedule(1, 1500, TARGETS) if f.action == "kill"}
    assert killed >= {name for names in TARGETS.values() for name in names}


def test_a_run_of_25_minutes_has_faults_enough() -> None:
    counts = Counter(fault.kind for fault in schedule(1, 1500, TARGETS))
    assert min(counts[kind] for kind in PROCESSES) >= 60
    assert counts["kafka"] >= 10 and counts["minio"] >= 10
    for kind, every_s in EVERY_S.items():
        assert counts[kind] == pytest.approx(1500 / every_s, rel=0.4)


def test_a_pace_makes_faults_so_many_times_as_often() -> None:
    usual, often = (schedule(1, 1500, TARGETS, ["supervisor"], pace) for pace in (1, 8))
    assert len(often) == pytest.approx(8 * len(usual), rel=0.2)


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no kind brokr: there are provider"):
        schedule(1, 60, TARGETS, ["brokr"])


def test_a_fault_says_what_it_does() -> None:
    said = {fault.kind: str(fault) for fault in schedule(1, 1500, TARGETS)}
    assert said["provider"] == "kill provider-0"
    assert said["kafka"].startswith("kill kafka for ")
    assert said["clock"].startswith("clock ") and said["clock"].endswith(" s")


# --- what counts as being back


def made(kind: type[Event], **fields: Any) -> Event:
    """An event of which only these fields matter."""
    return kind.model_construct(**fields)


def record(topic: str, event: Event, at_ms: int, partition: int = 0) -> Record:
    return Record(Partition(topic, partition), 0, b"k", b"", timestamp_ms=at_ms, event=event)


def group(policy: str = "words") -> Event:
    return made(SampleGroup, policy=policy, problem_id="p", use=0)


def evidence(kind: str, target: str, boot_id: str = "") -> Evidence:
    found = after_kill(kind, target, 1000.0, boot_id)
    assert found is not None
    return found


def test_what_was_made_before_the_kill_shows_nothing() -> None:
    wanted = after_outage("kafka", 1000.0, "words", 2)
    assert not wanted.sees(record("samples", group(), 999))
    assert not wanted.sees(record("samples", group(), 1000))
    assert wanted.sees(record("samples", group(), 1001))


def test_a_sampler_is_back_once_every_partition_has_moved() -> None:
    wanted = evidence("sampler", "sampler-1@words")
    *first, last = range(SAMPLES.partitions)
    assert not wanted.sees(record("samples", group("arm"), 2000, last))
    assert not any(wanted.sees(record("samples", group(), 2000, p)) for p in (*first, *first))
    assert wanted.sees(record("samples", group(), 2000, last))


def test_a_trainer_is_back_with_an_upload_of_its_own_name() -> None:
    wanted = evidence("trainer", "trainer-1@words")

    def upload(policy: str, trainer: str) -> Record:
        event = made(GradientUpload, policy=policy, trainer=trainer)
        return record("gradient-chunks", event, 2000)

    assert not wanted.sees(upload("words", "trainer-host-0"))
    assert not wanted.sees(upload("arm", "trainer-host-1"))
    assert wanted.sees(upload("words", "trainer-host-1"))


def test_an_actuator_is_back_with_another_boot() -> None:
    wanted = evidence("actuator", "actuator@arm-1", "b1")

    def said(boot_id: str) -> Record:
        return record("feedback", made(Feedback, boot_id=boot_id), 2000)

    assert not wanted.sees(said("b1"))
    assert wanted.sees(said("b2"))


def test_a_world_is_back_with_readings_that_the_dead_one_cannot_have_sent() -> None:
    wanted = evidence("world", "world-lab")

    def frame(at_ms: int, readings: list[object]) -> Record:
        return record("sensor-frames", made(SensorFrame, readings=readings), at_ms)

    assert not wanted.sees(frame(1001 + WORLD_LATE_MS, []))
    assert not wanted.sees(frame(1000 + WORLD_LATE_MS, [object()]))
    assert wanted.sees(frame(1001 + WORLD_LATE_MS, [object()]))


def test_a_store_is_back_with_more_uploads_than_may_have_been_stored_before() -> None:
    wanted = after_outage("minio", 1000.0, "words", 2)

    def upload(policy: str, chunks: list[object]) -> Record:
        event = made(GradientUpload, policy=policy, chunks=chunks, spilled=None)
        return record("gradient-chunks", event, 2000)

    seen = [upload("words", [1]), upload("arm", [1]), upload("words", []), upload("words", [1])]
    assert not any(wanted.sees(one) for one in seen)
    assert wanted.sees(upload("words", [1]))


def test_a_supervisor_is_back_with_a_version_of_each_policy() -> None:
    def version(policy: str) -> Record:
        return record("weight-versions", made(WeightVersion, policy=policy), 2000)

    wanted = versions_of_all(("words", "arm"), 1000.0)
    assert [wanted.sees(version(p)) for p in ("arm", "arm", "words")] == [False, False, True]


def test_what_the_log_does_not_tell_has_no_evidence() -> None:
    assert after_kill("orchestrator", "orchestrator-0", 0.0) is None
    assert after_kill("gate", "gate-0@arm", 0.0) is None
    assert {k for k in PROCESSES if after_kill(k, TARGETS[k][0], 0.0) is None} == {
        "orchestrator",
        "gate",
    }


# --- ledger


def fault(number: int = 0, **changes: object) -> FaultLine:
    told = {
        "run": 1,
        "seed": 7,
        "number": number,
        "due_s": 1.0,
        "at_s": 1.5,
        "wall": "2026-01-01T00:00:00.000+00:00",
        "action": "kill",
        "kind": "sampler",
        "target": "sampler-0@words",
        "what": "kill sampler-0@words",
        "recovered_ms": 2000.0,
    }
    return FaultLine.model_validate({**told, **changes})


def run(number: int = 1, **changes: object) -> RunLine:
    books = Books(
        checked=10,
        lost=0,
        duplicated=0,
        order_violations=0,
        bad_references=0,
        unused_share=0.01,
        counts={"groups": 5, "groups_learnt": 4},
    )
    told = {
        "run": number,
        "seed": 7,
        "began": "2026-01-01T00:00:00+00:00",
        "minutes": 25,
        "seconds": 1700.0,
        "machine": Machine(cpus=2, memory_gib=24, platform="Linux", python="3.11.0"),
        "code": "abc",
        "samples": 60_000,
        "versions": 500,
        "missions": 9,
        "books": books,
        "proofs": [Proof(policy="words", versions=300, equal=300, gradients=900)],
    }
    return RunLine.model_validate({**told, **changes})


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "ledger.jsonl"
    assert next_run(path) == 1
    append(path, [fault(0), fault(1, recovered_ms=None, why="not back"), run()])
    append(path, [fault(0, run=2)])
    assert list(lines(path)) == [
        fault(0),
        fault(1, recovered_ms=None, why="not back"),
        run(),
        fault(0, run=2),
    ]
    assert next_run(path) == 3


def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append(path, [fault(0), fault(1)])
    data = path.read_bytes()
    for cut in range(len(data) - 40, len(data)):
        path.write_bytes(data[:cut])
        assert list(lines(path)) == [fault(0)]
        assert mend(path)
        assert not mend(path)
        append(path, [fault(2)])
        assert list(lines(path)) == [fault(0), fault(2)]


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append(path, [fault(0)])
    path.write_bytes(path.read_bytes() + b'{"type": "fault"}\n')
    with pytest.raises(LedgerError, match=r"ledger.jsonl:2 is no line of a ledger"):
        list(lines(path))


# --- books


def test_books_keep_what_an_audit_found() -> None:
    findings = Findings()
    findings.judge("problem-once", True, "")
    findings.judge("version-sequence", False, "version 3 comes after 1")
    findings.judge("group-once", False, "samples[0]@4")
    findings.counts["groups"] = 9
    books = books_of(findings.report(InFlight(), {}))
    assert (books.checked, books.lost, books.duplicated, books.order_violations) == (3, 0, 1, 1)
    assert books.counts == {"groups": 9}
    assert books.breaches == [
        "group-once, 1 times: samples[0]@4",
        "version-sequence, 1 times: version 3 comes after 1",
    ]


def test_all_that_is_not_as_promised_is_a_breach() -> None:
    good = run().books
    assert breaches_of([fault()], good, run().proofs) == []
    bad = good.model_copy(update={"breaches": ["group-lost"], "unused_share": 0.06})
    proof = Proof(policy="arm", versions=2, equal=1, gradients=0, differing=["version 1: wrong"])
    away = fault(5, recovered_ms=None, why="not back within 120 s")
    never = fault(6, at_s=None, recovered_ms=None, why="the faults' time was over")
    assert breaches_of([away, never], bad, [proof]) == [
        "the books: group-lost",
        "6.0% of the sample groups were not learnt from, at most 5% may be",
        "arm: version 1: wrong",
        "fault 5, kill sampler-0@words: not back within 120 s",
    ]


# --- the page


def test_the_page_has_totals_times_and_how_to_make_it_again() -> None:
    kills = [
        fault(n, kind=kind, target=kind, recovered_ms=1000.0 * n)
        for kind in PROCESSES
        for n in range(1, 101)
    ]
    during = fault(500, recovered_ms=9000.0, during=["kafka"])
    broker = fault(501, kind="kafka", target="kafka", recovered_ms=6500.0)
    text = page([*kills, during, broker, run(), run(2)], "docs/r.jsonl", "docs/r.md")
    assert "| samples | 120,000 |" in text
    assert "| … of each kind, at least | 100 |" in text
    assert "| SIGKILLs of the broker | 1 |" in text
    assert "| versions made again, equal | 600 of 600 |" in text
    assert "| sampler | 101 | 50.0 | 99.0 | 100.0 | 1 | 9.0 | 9.0 | 9.0 |" in text
    assert "| broker, SIGKILL | 1 | 6.5 | 6.5 | 6.5 |" in text
    assert "./ralo chaos report --ledger docs/r.jsonl --write docs/r.md" in text
    assert "Not as promised" not in text


def test_the_page_hides_no_breach() -> None:
    text = page([run(breaches=["the books: a | b"], pace=2.5, kinds=["kafka"])], "r.jsonl", "r.md")
    assert "`--seed 7 --kinds kafka --pace 2.5`" in text
    assert "## Not as promised" in text and r"the books: a \| b" in text


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_reached_by_so_large_a_share(values: list[float], share: float) -> None:
    found = quantile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
