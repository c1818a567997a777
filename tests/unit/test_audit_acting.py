"""The books of robots: a valid log balances, and every breach planted in it is named."""

from collections.abc import Callable
from typing import Any

import acting_breaches as breaches
import pytest
from acting_books import REACH_1, TRACKER, ActingLog, feedback, frame, outcome, release, valid
from acting_breaches import BREACHES, Plant
from audit_books import names

from consumers.audit import ACTING, AuditReport, NoObjects, UnknownMission, audit
from consumers.audit.log import audit_log
from consumers.audit.recent import Recent
from infra.cli.audit import show
from infra.envelope import message
from infra.memory.log import MemoryLog
from schemas.records import Partition, Record
from schemas.topics import TOPICS


def test_a_valid_log_balances() -> None:
    report = valid().audit()
    assert list(names(report)) == []
    assert (report.lost, report.duplicated) == (0, 0)
    # other's only command, and the one that came after the last outcome, are on their way.
    assert report.in_flight.commands == 2


def test_everything_is_counted() -> None:
    counts = valid().audit().counts
    expected = {
        "frames": 8,
        "frames_copied": 1,
        "frames_missing": 1,
        "readings_dropped": 1,
        "frames_unfused": 1,
        "frames_waiting": 1,
        "states": 5,
        "states_copied": 1,
        "controller_claims": 3,
        "commands": 9,
        "commands_copied": 1,
        "commands_applied": 4,
        "commands_duplicate": 1,
        "commands_old_epoch": 1,
        "commands_lost": 1,
        "commands_open": 2,
        "feedback": 5,
        "feedback_copied": 1,
        "feedback_missing": 1,
        "releases": 3,
        "releases_committed": 1,
        "releases_rolled_back": 2,
        "safety_events": 5,
        "safety_events_copied": 1,
        "robot_results": 2,
    }
    assert {name: counts.get(name) for name in expected} == expected


def test_every_invariant_was_checked() -> None:
    checked = {i.name: i.checked for i in valid().audit().invariants}
    assert {name for name in ACTING if not checked[name]} == set()


@pytest.mark.parametrize(("invariant", "plant"), BREACHES, ids=lambda v: getattr(v, "__name__", v))
def test_a_breach_is_named(invariant: str, plant: Plant) -> None:
    log = valid()
    plant(log)
    report = log.audit()
    assert report.breaches == [invariant], list(names(report))


def test_every_invariant_has_a_breach() -> None:
    assert {name for name, _ in BREACHES} == set(ACTING)


@pytest.mark.parametrize(
    ("plant", "lost", "duplicated"),
    [
        (breaches.frame_missing, 1, 0),
        (breaches.frame_between_states, 1, 0),
        (breaches.forgotten, 1, 0),
        (breaches.safety_event_lost, 1, 0),
        (breaches.executed_twice, 0, 1),
    ],
)
def test_lost_and_duplicated_are_counted(plant: Plant, lost: int, duplicated: int) -> None:
    log = valid()
    plant(log)
    report = log.audit()
    assert (report.lost, report.duplicated) == (lost, duplicated)


def test_a_breach_says_where() -> None:
    log = valid()
    breaches.executed_late(log)
    (breach,) = (i for i in log.audit().invariants if i.broken)
    assert breach.first == [
        "feedback[0]@4: applied rover.8.0 at commands[0]@9: at 170.1 of 170.0 ms, boot b2"
    ]


# -- what looks like a breach and is none ------------------------------------------------------


def _ends(first: dict[str, int], records: dict[str, list[Record]]) -> Callable[[str], Any]:
    def ends(topic: str) -> dict[Partition, tuple[int, int]]:
        after = {r.partition: r.offset + 1 for r in records.get(topic, [])}
        return {p: (first.get(str(p), 0), end) for p, end in after.items()}

    return ends


def _kept(log: ActingLog, first: dict[str, int]) -> AuditReport:
    """The audit of a log of which retention took all before these offsets."""
    records = {
        name: [r for r in kept if r.offset >= first.get(str(r.partition), 0)]
        for name, kept in log.records().items()
    }
    return audit(records, NoObjects(), ends=_ends(first, records))


TRIMMED = {
    "sensor-frames-0": 5,
    "fused-states-0": 4,
    "commands-0": 6,
    "feedback-0": 1,
    "safety-events-0": 1,
    "releases-0": 3,
}


@pytest.mark.parametrize("only", [*TRIMMED, "all"])
def test_what_retention_deleted_is_not_lost(only: str) -> None:
    first = TRIMMED if only == "all" else {only: TRIMMED[only]}
    report = _kept(valid(), first)
    assert report.breaches == [], list(names(report))


def test_outcomes_of_expired_commands_are_counted() -> None:
    assert _kept(valid(), {"commands-0": 6}).counts["outcomes_of_expired"] == 3


def test_a_breach_behind_what_retention_deleted_is_found_all_the_same() -> None:
    log = valid()
    breaches.executed_late(log)
    assert _kept(log, TRIMMED).breaches == ["command-in-time"]


def test_a_robot_that_is_off_owes_no_outcome() -> None:
    log = valid()
    log.logged_ms["l3"] += 3_600_000
    report = log.audit()
    assert report.breaches == [], list(names(report))


def test_what_an_ended_boot_still_sends_is_no_step_back() -> None:
    log = valid()
    log.log("f5", frame(5, dropped=1), 2100)
    log.log("b2", feedback(2, outcome(log["k1"], "expired"), commands_next=6), 2100)
    report = log.audit()
    assert report.breaches == [], list(names(report))
    assert report.counts["outcomes_again"] == 1


def test_a_gap_may_be_counted_by_a_later_frame_than_the_next() -> None:
    log = valid()
    log.log("f7", frame(7, dropped=1), 2100)
    assert log.audit().breaches == ["frame-sequence"]
    log.log("f8", frame(8, dropped=1), 2120)
    assert log.audit().breaches == ["frame-sequence"]
    log.log("f9", frame(9, dropped=3), 2140)
    report = log.audit()
    assert report.breaches == [], list(names(report))


def test_an_offer_that_is_refused_ends_nothing_that_acts() -> None:
    log = valid()
    log.log("again", release("r4", "OFFERED", 1), 2700)
    log.log("refused", release("r4", "ROLLED_BACK", 1, REACH_1), 2700)
    report = log.audit()
    assert report.breaches == [], list(names(report))


def test_trackers_with_other_settings_have_other_hashes() -> None:
    log = valid()
    for number, stage in enumerate(("OFFERED", "FETCHED")):
        slow = TRACKER.model_copy(update={"sha256": str(number) * 64})
        log.log(f"r4-{stage}", release("r4", stage, 4, slow), 2700)
    log["l3"].edit(policy=TRACKER.model_copy(update={"sha256": "7" * 64}))
    report = log.audit()
    assert report.breaches == [], list(names(report))


def test_what_is_no_event_is_counted_and_stops_nothing() -> None:
    log = valid()
    log.log("x", b"{not json", topic="feedback")
    log.bury("letter", "x", "controller")
    report = log.audit()
    assert report.breaches == [], list(names(report))
    assert report.counts["records_undecodable"] == 1


def test_the_audit_of_a_policy_leaves_robots_alone() -> None:
    log = valid()
    breaches.executed_twice(log)
    report = log.audit(policy="main")
    assert report.breaches == [] and "frames" not in report.counts


def test_a_mission_of_robots_is_no_policy_to_audit() -> None:
    with pytest.raises(UnknownMission, match="m1 is of robots: an audit without a mission"):
        valid().audit(mission="m1")


# -- bounds, and a log that is no list ---------------------------------------------------------


def test_only_the_newest_are_remembered() -> None:
    recent: Recent[int, str] = Recent(2)
    recent[0] = recent[1] = "a"
    assert recent.may_hold(0, "a") and not recent.may_hold(0, "b") and not recent.may_hold(7, "a")
    recent[2] = "a"
    assert recent.get(0) is None
    assert recent.may_hold(0, "b") and not recent.may_hold(1, "b")


def test_frames_without_fusion_are_counted_not_kept() -> None:
    log = valid()
    for seq in range(3, 5000):
        log.log(f"late{seq}", frame(seq, "b2"), 2000 + 20 * seq)
    report = log.audit()
    assert report.breaches == []
    assert report.counts["frames_waiting"] == 1 + 4997


def test_a_log_is_audited_partition_by_partition() -> None:
    log = MemoryLog("ns.")
    log.provision(list(TOPICS.values()))
    books = valid()
    events = [books[name].event for name in ("m1", "s0", "s1", "f0", "f1", "of0", "r1-OFFERED")]
    log.append([message(event) for event in events])
    report = audit_log(log, NoObjects())
    assert report.breaches == [], list(names(report))
    assert (report.counts["frames"], report.counts["safety_events"]) == (3, 2)
    log.append([message(frame(3))])
    assert audit_log(log, NoObjects()).breaches == ["frame-sequence"]


def test_a_report_names_what_robots_did(capsys: pytest.CaptureFixture[str]) -> None:
    show(valid().audit())
    printed = " ".join(capsys.readouterr().out.split())
    assert "commands 9 4 applied, 1 duplicate, 1 old epoch, 1 lost, 2 open" in printed
    assert "safety events 5" in printed
