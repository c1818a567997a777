import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import audit_breaches as breaches
import pytest
from audit_books import (
    BookLog,
    drop,
    evaluation,
    group,
    names,
    overlapping,
    use,
    valid,
)
from audit_breaches import BREACHES, SEALED, Plant
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_steps import finished

from consumers.audit import (
    LEARNING,
    AuditReport,
    NeedsObjects,
    NoObjects,
    UnknownMission,
    audit,
)
from consumers.audit.log import audit_log
from consumers.audit.ranges import Ranges
from consumers.audit.report import INVARIANTS
from consumers.audit.store import StoreChecker
from infra.cli.audit import show
from infra.envelope import message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from schemas.ids import digest
from schemas.learning import WeightHead
from schemas.records import Partition, Record
from schemas.topics import TOPICS
from streams.learning.keys import gradient_fields_key, manifest_key
from streams.learning.spill import spill


@pytest.fixture
def everything_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.learning.spill.INLINE_BYTES", 0)


def test_a_valid_log_balances() -> None:
    report = valid().audit()
    assert list(names(report)) == []
    assert report.ok and report.breaches == []
    assert (report.lost, report.duplicated, report.bad_refs) == (0, 0, 0)
    assert report.duplicates_dropped == 1
    in_flight = {"problems": 2, "samples": 2, "uploads": 1, "commands": 0}
    assert report.in_flight.model_dump() == in_flight
    assert report.dropped == {"cancelled": 1}
    assert report.refused == {"overlap": 1, "layout": 1}
    assert report.unused_share == pytest.approx(2 / 5)


def test_the_balance_of_a_mission_adds_up() -> None:
    balance = valid().audit().missions["m1"]
    parts = balance.sampled + balance.cancelled + balance.dead + balance.in_flight + balance.lost
    assert balance.problems == parts == 9
    assert (balance.sampled, balance.cancelled, balance.dead, balance.in_flight) == (5, 1, 1, 2)


def test_every_invariant_was_checked() -> None:
    checked = {i.name: i.checked for i in valid().audit().invariants}
    assert {name for name in LEARNING if not checked[name]} == set()


@pytest.mark.parametrize(("invariant", "plant"), BREACHES, ids=lambda v: getattr(v, "__name__", v))
def test_a_breach_is_named(invariant: str, plant: Plant) -> None:
    log = valid()
    plant(log)
    log.seal()
    report = log.audit()
    assert report.breaches == [invariant], list(names(report))
    assert not report.ok


def test_every_invariant_has_a_breach() -> None:
    assert {name for name, _ in BREACHES} == set(LEARNING)


@pytest.mark.parametrize(("invariant", "plant"), SEALED, ids=lambda v: getattr(v, "__name__", v))
def test_a_wrong_hash_is_named(invariant: str, plant: Plant) -> None:
    log = valid()
    plant(log)
    report = log.audit()
    assert report.breaches == [invariant], list(names(report))


def test_a_breach_says_where_and_how_often() -> None:
    log = valid()
    breaches.version_tampered_with(log)
    (breach,) = (i for i in log.audit().invariants if i.broken)
    assert (breach.broken, breach.first) == (
        2,
        ["weight-versions[0]@3: version 2: 1", "weight-versions[0]@5: version 3: 1"],
    )


def test_only_the_first_positions_are_kept() -> None:
    log = valid()
    for number in range(9):
        log.put(f"x{number}", evaluation(100 + number))
    (breach,) = (i for i in log.audit().invariants if i.broken)
    assert (breach.broken, len(breach.first)) == (9, 5)


@pytest.mark.parametrize(
    ("plant", "lost", "duplicated"),
    [
        (breaches.problem_lost, 1, 0),
        (breaches.group_lost, 1, 0),
        (breaches.group_in_a_gap, 1, 0),
        (breaches.upload_lost, 1, 0),
        (breaches.unburied, 1, 0),
        (breaches.learnt_twice, 0, 1),
        (breaches.group_twice, 0, 1),
        (breaches.applied_twice, 0, 1),
    ],
)
def test_lost_and_duplicated_are_counted(plant: Plant, lost: int, duplicated: int) -> None:
    log = valid()
    plant(log)
    log.seal()
    report = log.audit()
    assert (report.lost, report.duplicated) == (lost, duplicated)


# -- what looks like a breach and is none ------------------------------------------------------


def test_a_requeued_dead_letter_is_no_duplicate() -> None:
    log = valid()
    log.put("again", log["p3"].event, number=1)
    # p7, before it on the partition, is sampled as well.
    log.put("g7", group(log["p7"].event, 1, ("problems-1", 2, 3)), number=1)
    log.put("g3", group(log["p3"].event, 1, ("problems-1", 3, 4)), number=1)
    report = log.audit()
    assert report.breaches == [], list(names(report))
    assert report.missions["m1"].dead == 0
    assert report.counts["problems_requeued"] == 1


def test_letters_are_counted_by_what_became_of_them() -> None:
    log = valid()
    log.settle("x", "letter-p3")
    counts = log.audit().counts
    assert (counts["dead_letters"], counts["letters_requeued"], counts["letters_dropped"]) == (
        3,
        1,
        2,
    )
    assert log.audit().breaches == []


def test_what_was_sent_again_after_the_audit_began_is_not_missed() -> None:
    log = valid()
    breaches.sent_nowhere(log)
    assert log.audit().breaches == ["letter-lost"]
    assert log.audit().lost == 1
    began = {Partition("dead-letters", 0): log["requeued-e"].offset}
    assert log.audit(began=began).breaches == []


def test_a_copy_in_a_sandbox_is_of_another_log() -> None:
    log = valid()
    breaches.sent_without_a_word(log)
    log["x"].headers["replay-of"] = b"evaluations[0]@9"
    assert log.audit().breaches == []


def test_a_requeued_dead_sample_is_no_duplicate() -> None:
    log = valid()
    log.bury("x", "g8", "trainer")
    log.put("again", log["g8"].event, number=1)
    log["u3"].edit(groups=[], dropped=[drop(log["g8"], "unreadable")])
    report = log.audit()
    assert report.breaches == [], list(names(report))


def test_an_overlap_accounts_for_what_it_does_not_repeat() -> None:
    report = overlapping(valid()).audit()
    assert report.breaches == [], list(names(report))
    assert (report.dropped, report.counts["groups_lost"]) == ({"cancelled": 1}, 0)


def test_an_overlap_that_accounts_for_nothing_is_a_breach() -> None:
    report = overlapping(valid(), dropped=0).audit()
    assert report.breaches == ["settled-upload", "version-totals", "version-marks"]


def test_each_policy_may_bury_what_says_no_policy() -> None:
    log = valid()
    log.put("x", log["letter-corrupt"].event)
    assert log.audit().breaches == []
    log.put("y", log["letter-corrupt"].event)
    assert log.audit().breaches == ["dead-letter-once"]


def test_swept_objects_of_expired_versions_are_not_missed() -> None:
    log = valid()
    del log.store.objects["gradients/main/0/u0/0"], log.store.objects["gradients/main/0/u2/0"]
    report = log.audit()
    assert report.breaches == []
    assert report.counts["objects_expired"] == 2


def test_chunks_of_an_open_upload_are_needed_while_its_base_is_admissible() -> None:
    log = valid()
    del log.store.objects["gradients/main/1/u3/0"]
    assert log.audit().breaches == ["reference"]
    # The chain of the head, version 3, is 3, 1, 0: version 2 was rolled back.
    log["u3"].edit(base_version=2)
    assert log.audit().breaches == []


def _ends(first: dict[str, int], records: dict[str, list[Record]]) -> Callable[[str], Any]:
    def ends(topic: str) -> dict[Partition, tuple[int, int]]:
        after = {r.partition: r.offset + 1 for r in records.get(topic, [])}
        return {p: (first.get(str(p), 0), end) for p, end in after.items()}

    return ends


def test_what_retention_deleted_is_not_lost() -> None:
    log = valid()
    first = {"problems-0": 5, "samples-0": 3, "gradient-chunks-0": 2}
    records = log.records()
    for topic, kept in records.items():
        records[topic] = [r for r in kept if r.offset >= first.get(str(r.partition), 0)]
    without = audit(records, StoreChecker(log.store), ends=_ends({}, records))
    assert without.breaches, "the log begins at 0, so what is missing is lost"
    report = audit(records, StoreChecker(log.store), ends=_ends(first, records))
    assert report.breaches == [], list(names(report))


class _Growing(dict[str, Any]):
    """Another head appears between the two readings of `weight-heads`."""

    def __init__(self, log: BookLog, new: Record) -> None:
        super().__init__(log.records())
        self._new, self._reads = new, 0

    def get(self, key: str, default: Any = None) -> Iterable[Record]:
        found: list[Record] = super().get(key, default)
        if key != "weight-heads":
            return found
        self._reads += 1
        return found if self._reads == 1 else [*found, self._new]


def test_a_version_published_meanwhile_is_no_breach() -> None:
    log = valid()
    head = WeightHead(policy="main", version=4)
    new = Record(Partition("weight-heads", 0), 4, b"main", head.to_bytes())
    log["g8"].edit(version=4)
    log["u3"].edit(groups=[use(log["g8"])])
    report = audit(_Growing(log, new), StoreChecker(log.store))
    assert report.breaches == [], list(names(report))


def test_a_dead_letter_of_a_record_that_came_meanwhile_is_no_breach() -> None:
    log = valid()
    breaches.letter_of_nothing(log)
    after = _ends({}, log.records())

    def later(topic: str) -> dict[Partition, tuple[int, int]]:
        return {p: (first, end + 100) for p, (first, end) in after(topic).items()}

    assert log.audit(ends=after).breaches == ["dead-letter-origin"]
    assert log.audit(ends=later).breaches == []


# -- what is audited ---------------------------------------------------------------------------


def test_one_policy_is_audited_alone() -> None:
    log = valid()
    breaches.totals(log)
    assert log.audit(policy="other").breaches == []
    assert log.audit(policy="main").breaches == ["version-totals"]
    assert log.audit(policy="other").counts["problems"] == 1


def test_a_mission_is_audited_with_its_policy() -> None:
    log = valid()
    assert log.audit(mission="m2").counts["problems"] == 1
    assert log.audit(mission="m0").counts["problems"] == 9
    with pytest.raises(UnknownMission, match=r"'m7'.*m0, m1, m2"):
        log.audit(mission="m7")


def _spilled(log: BookLog) -> BookLog:
    """What may be moved out of events is, but for the base version."""
    for name in ("u0", "u1", "u2", "u3"):
        one = log[name].event
        key = partial(gradient_fields_key, "main", one.base_version, one.upload_id)
        log[name].event = finished(spill(one, key), log.store)
    log.seal()
    for name in ("v1", "v2", "v3"):
        if name != "v1":
            log[name].edit(parent_sha256=digest(log["v1"].value))
        key = partial(manifest_key, "main", log[name].event.version)
        log[name].event = finished(spill(log[name].event, key), log.store)
    return log


@pytest.mark.usefixtures("everything_spills")
def test_what_was_moved_out_of_events_is_audited_all_the_same() -> None:
    plain, report = valid().audit(), _spilled(valid()).audit()
    assert report.breaches == [], list(names(report))
    # The lists of u1 and u3 and the manifests of versions 1, 2 and 3 are needed as well.
    assert report.counts["objects_needed"] == plain.counts["objects_needed"] + 5
    for name, count in plain.counts.items():
        assert name.startswith("objects") or report.counts[name] == count


@pytest.mark.usefixtures("everything_spills")
@pytest.mark.parametrize("name", ["u1", "u3", "v1", "v2"])
def test_a_moved_part_that_is_missing_is_a_bad_reference(name: str) -> None:
    log = _spilled(valid())
    del log.store.objects[log[name].event.spilled.key]
    report = log.audit()
    assert "reference" in report.breaches
    assert (report.breaches == ["reference"]) == name.startswith("u")


@pytest.mark.usefixtures("everything_spills")
def test_a_chunk_that_only_a_list_names_is_needed() -> None:
    log = _spilled(valid())
    del log.store.objects["gradients/main/0/u1/0"]
    assert log.audit().breaches == ["reference"]


@pytest.mark.usefixtures("everything_spills")
def test_lists_of_chunks_go_with_the_chunks_and_manifests_stay() -> None:
    log = _spilled(valid())
    # u0 was applied in version 1, which is expired; u2 was refused.
    for name in ("u0", "u2"):
        del log.store.objects[log[name].event.spilled.key]
    assert log.audit().breaches == []


@pytest.mark.usefixtures("everything_spills")
def test_without_objects_books_with_moved_parts_are_not_balanced() -> None:
    with pytest.raises(NeedsObjects, match=r"weight-versions\[0\]@1"):
        audit(_spilled(valid()).records(), NoObjects())


def test_without_objects_the_log_alone_is_audited() -> None:
    log = valid()
    log.store.objects.clear()
    report = audit(log.records(), NoObjects())
    assert report.breaches == []
    assert {i.name: i.checked for i in report.invariants}["reference"] == 0


def test_large_objects_are_checked_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.audit.store.IN_MEMORY_BYTES", 4)
    log = valid()
    seen: list[tuple[int, int]] = []
    report = audit(log.records(), StoreChecker(log.store, lambda *counts: seen.append(counts)))
    assert report.breaches == []
    assert seen[-1] == (report.counts["objects_needed"],) * 2
    breaches.object_changed(log)
    assert log.audit().breaches == ["reference"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8))))
def test_ranges_are_sets(added: list[tuple[int, int]]) -> None:
    ranges, members = Ranges(), set[int]()
    for start, size in added:
        new = set(range(start, start + size))
        assert ranges.add(start, start + size) == members.isdisjoint(new)
        members |= new
    assert [n for n in range(60) if n in ranges] == sorted(members)
    assert ranges.high == max(members, default=-1) + 1
    missing = [n for low, high in ranges.gaps() for n in range(low, high)]
    assert missing == sorted(set(range(ranges.high)) - members)


# -- a log, not a list of records --------------------------------------------------------------


class _Moving(MemoryLog):
    """Publishes the head of its newest version only when it is asked for heads the fourth time."""

    asked = 0

    def ends(self, topic: str) -> dict[Partition, tuple[int, int]]:
        self.asked += topic == "weight-heads"
        if self.asked == 4 and topic == "weight-heads":
            self.append([message(WeightHead(policy="other", version=0))])
        return super().ends(topic)


def _filled(log: MemoryLog, store: MemoryStore) -> None:
    """The events of the policy `other` that need no positions of each other."""
    log.provision(list(TOPICS.values()))
    books = valid()
    events = [books[name].event for name in ("m2", "o0", "ov0")]
    log.append([message(event) for event in events])
    store.objects.update(books.store.objects)


def test_a_log_is_audited_from_its_records_alone() -> None:
    log, store = MemoryLog("ns."), MemoryStore()
    _filled(log, store)
    assert audit_log(log, StoreChecker(store)).breaches == ["weight-head"]
    log.append([message(WeightHead(policy="other", version=0))])
    report = audit_log(log, StoreChecker(store))
    assert report.breaches == [], list(names(report))
    assert report.counts["problems_in_flight"] == 1


def test_a_breach_in_a_moving_log_is_looked_at_again() -> None:
    log, store = _Moving(), MemoryStore()
    _filled(log, store)
    said: list[str] = []
    report = audit_log(log, StoreChecker(store), report=lambda what, done, of: said.append(what))
    assert report.breaches == [], list(names(report))
    assert said == ["again, for the log moved"]


def test_a_report_is_printed_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    log = valid()
    show(log.audit())
    assert "the books balance" in capsys.readouterr().out
    breaches.learnt_twice(log)
    log.seal()
    show(log.audit())
    printed = " ".join(capsys.readouterr().out.split())
    assert f"1 of {len(INVARIANTS)} invariants broken" in printed
    assert "gradient-chunks[0]@2: samples[0]@0 is in another applied upload" in printed


def test_a_report_survives_json() -> None:
    report = valid().audit()
    document = json.loads(report.model_dump_json())
    assert (document["ok"], document["breaches"]) == (True, [])
    assert AuditReport.model_validate(document) == report
