"""Replays on the memory log: what is copied, at which times, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.replay import (
    AlreadyThere,
    BadReplay,
    Pace,
    Sent,
    check_references,
    copied_so_far,
    needs_survey,
    prepare,
    refuse_in_place,
    refuse_twice,
    send,
    survey,
    whole,
)
from consumers.replay.offsets import Offsets, Sieve
from consumers.replay.references import may_refer
from consumers.replay.sending import Clock
from consumers.selection import Expression, Selection, parse_range
from infra.cli.replay_view import absolute
from infra.copying import Raw, original_of
from infra.envelope import message
from infra.log import Log, LogError, Message
from infra.memory.copying import MemoryCopier
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from schemas.learning import RollbackRequest, SampleGroup
from schemas.missions import MissionControl
from schemas.records import Partition
from schemas.tensors import ObjectRef
from schemas.topics import TOPICS

START_MS = 1_700_000_000_000
MISSIONS = Partition("missions", 0)


@pytest.fixture
def source() -> MemoryLog:
    log = MemoryLog("")
    log.provision(list(TOPICS.values()))
    return log


@pytest.fixture
def into(source: MemoryLog) -> MemoryLog:
    """A prepared sandbox on the same cluster."""
    log = MemoryLog("sandbox.s.", source.cluster)
    prepare(source, log, list(TOPICS))
    return log


def control(name: str, at_ms: int) -> Message:
    event = MissionControl(mission_id=name, action="pause")
    return replace(message(event), timestamp_ms=START_MS + at_ms)


def rollback(policy: str, at_ms: int) -> Message:
    event = RollbackRequest(request_id=f"r{at_ms}", policy=policy, to_version=1)
    return replace(message(event), timestamp_ms=START_MS + at_ms)


def raws(log: Log, topic: str) -> dict[int, list[Raw]]:
    found = {}
    for partition, (first, after) in log.ends(topic).items():
        if first < after:
            found[partition.number] = log.raw_reader(partition, first).poll(10_000, 0)
    return found


def run(source: Log, into: Log, *topics: str, **more: Any) -> Sent:
    found = whole(source, Selection(topics))
    return send(source, into, found.offsets, "", **more)


class Hand:
    """A clock that moves when it is slept on, and then a little too far."""

    def __init__(self, oversleep_s: float = 0.0) -> None:
        self.now_s, self.oversleep_s = 50.0, oversleep_s
        self.clock = Clock(lambda: self.now_s, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds + self.oversleep_s


class Watched(MemoryLog):
    """Notes when each copy was sent, by a clock, and what it was."""

    def __init__(self, namespace: str, source: MemoryLog, hand: Hand, cost_s: float = 0.0) -> None:
        super().__init__(namespace, source.cluster)
        self.hand, self.cost_s = hand, cost_s
        self.sent: list[tuple[float, str]] = []

    def copier(self, paced: bool = False) -> MemoryCopier:
        inner, watched = super().copier(paced), self

        class Noting(MemoryCopier):
            def copy(self, to: Partition, origin: str, records: Sequence[Raw]) -> None:
                for raw in records:
                    at = f"{to.topic}@{raw.offset}"
                    watched.sent.append((round(watched.hand.now_s - 50.0, 6), at))
                    watched.hand.now_s += watched.cost_s
                inner.copy(to, origin, records)

        return Noting(self._view)


def watched(source: MemoryLog, hand: Hand, cost_s: float = 0.0) -> Watched:
    log = Watched("sandbox.s.", source, hand, cost_s)
    prepare(source, log, list(TOPICS))
    return log


# -- what is copied -----------------------------------------------------------------------------


@pytest.mark.parametrize("paced", [False, True])
def test_copies_keep_key_headers_time_partition_and_order(
    source: MemoryLog, into: MemoryLog, paced: bool
) -> None:
    source.append([rollback(f"p{n % 7}", n) for n in range(300)])
    sent = run(source, into, "gradient-chunks", pace=Pace(1000) if paced else None)
    assert sent.records == 300 and not sent.interrupted
    before, after = raws(source, "gradient-chunks"), raws(into, "gradient-chunks")
    assert before.keys() == after.keys() and len(before) > 1
    for number, originals in before.items():
        copies = after[number]
        assert [raw[1:4] for raw in copies] == [raw[1:4] for raw in originals]
        for original, copy in zip(originals, copies, strict=True):
            assert copy.headers[:-1] == original.headers
            assert original_of(copy.headers) == f"gradient-chunks[{number}]@{original.offset}"


def test_what_is_selected_by_content_is_copied_and_nothing_else(
    source: MemoryLog, into: MemoryLog
) -> None:
    source.append([control(f"m{n % 3}", n) for n in range(30)])
    source.append([Message("missions", b"x", b"no event at all", {}, START_MS)])
    chosen = Selection(("missions",), mission="m1", raw=True)
    found = survey(source, chosen, None, lambda *_: None)
    assert found.records == 10 and needs_survey(chosen, references=False)
    send(source, into, found.offsets, "")
    assert [raw.key for raw in raws(into, "missions")[0]] == [b"m1"] * 10


def test_what_was_aborted_is_not_copied(source: MemoryLog, into: MemoryLog) -> None:
    source.append([control("m1", 0)])
    source.faults.abort_next = 1
    with pytest.raises(LogError):
        source.writer("t").publish([control("m2", 1)], {}, "g", None)
    source.append([control("m3", 2)])
    assert run(source, into, "missions").records == 2
    assert [raw.key for raw in raws(into, "missions")[0]] == [b"m1", b"m3"]


def test_what_is_appended_meanwhile_is_not_copied(source: MemoryLog, into: MemoryLog) -> None:
    source.append([control("m", n) for n in range(5)])
    found = whole(source, Selection(("missions",), parse_range("1:")))
    source.append([control("late", 9)])
    assert send(source, into, found.offsets, "").records == 4


def test_a_sandbox_keeps_what_is_old_and_has_as_many_partitions(source: MemoryLog) -> None:
    made = []

    class Provisioned(MemoryLog):
        def provision(self, topics: Sequence[Any]) -> list[str]:
            made.extend(topics)
            return super().provision(topics)

    source.cluster.topics["missions"] = source.cluster.topics["problems"]
    prepare(source, Provisioned("sandbox.s.", source.cluster), ["missions"])
    assert {topic.retention_ms for topic in made} == {-1}
    assert {t.name: t.partitions for t in made}["missions"] == TOPICS["problems"].partitions
    assert {topic.name for topic in made} >= TOPICS.keys()


# -- at which times -----------------------------------------------------------------------------


def test_several_topics_are_sent_in_the_order_of_time_at_their_times(source: MemoryLog) -> None:
    source.append([control("m", 0), control("m", 20), control("m", 500)])
    source.append([rollback("p", 10), rollback("p", 20), rollback("p", 30)])
    hand = Hand()
    sent = run(
        source,
        watched_log := watched(source, hand),
        *("missions", "gradient-chunks"),
        pace=Pace(),
        clock=hand.clock,
    )
    assert watched_log.sent == [
        (0.0, "missions@0"),
        (0.01, "gradient-chunks@0"),
        (0.02, "missions@1"),
        (0.02, "gradient-chunks@1"),
        (0.03, "gradient-chunks@2"),
        (0.5, "missions@2"),
    ]
    assert sent.punctuality.apart.max_ms < 1e-3 and sent.due_s == 0.5


def test_deadlines_are_absolute_so_lateness_does_not_add_up(source: MemoryLog) -> None:
    source.append([control("m", 10 * n) for n in range(500)])
    hand = Hand(oversleep_s=0.0015)
    log = watched(source, hand, cost_s=0.002)
    sent = run(source, log, "missions", pace=Pace(), clock=hand.clock)
    off_s = [abs(at_s - 0.01 * n) for n, (at_s, _) in enumerate(log.sent)]
    assert max(off_s) <= 0.0015 + 1e-6
    assert sent.punctuality.late.max_ms == pytest.approx(1.5, rel=0.01)
    assert sent.punctuality.apart.quantile(0.99) < 2


def test_a_send_that_takes_long_delays_only_what_is_due_meanwhile(source: MemoryLog) -> None:
    source.append([control("m", at_ms) for at_ms in (0, 1, 2, 100)])
    hand = Hand()
    log = watched(source, hand, cost_s=0.01)
    sent = run(source, log, "missions", pace=Pace(), clock=hand.clock)
    assert [at_s for at_s, _ in log.sent] == [0.0, 0.01, 0.02, 0.1]
    assert sent.punctuality.figures()["late_ms"]["max"] == pytest.approx(18)


def test_n_times_as_fast_and_long_pauses_cut(source: MemoryLog) -> None:
    source.append([control("m", at_ms) for at_ms in (0, 100, 60_100, 60_300)])
    hand = Hand()
    log = watched(source, hand)
    run(source, log, "missions", pace=Pace(10, max_gap_s=0.5), clock=hand.clock)
    assert [at_s for at_s, _ in log.sent] == [0.0, 0.01, 0.51, 0.53]


def test_times_that_go_backward_are_due_at_once(source: MemoryLog) -> None:
    source.append([control("m", at_ms) for at_ms in (0, 100, 40, 110)])
    source.append([rollback("p", 105)])
    hand = Hand()
    log = watched(source, hand)
    run(source, log, "missions", "gradient-chunks", pace=Pace(), clock=hand.clock)
    assert [at_s for at_s, _ in log.sent] == [0.0, 0.1, 0.1, 0.105, 0.11]
    assert [at for _, at in log.sent][1:3] == ["missions@1", "missions@2"]


def test_a_dry_run_knows_how_long_it_takes(source: MemoryLog) -> None:
    source.append([control("m", at_ms) for at_ms in (0, 100, 60_100)])
    source.append([rollback("p", 60_200)])
    chosen = Selection(("missions", "gradient-chunks"))
    found = survey(source, chosen, MemoryStore(), lambda *_: None)
    assert found.counts == {
        ("missions", "mission-control"): 3,
        ("gradient-chunks", "rollback-request"): 1,
    }
    assert found.span_s == 60.2 and found.size_bytes.total() > 100
    assert found.seconds_at(Pace(2)) == pytest.approx(30.1)
    assert found.seconds_at(Pace(2, max_gap_s=1)) == pytest.approx(0.05 + 1 + 0.05)


# -- stopped and taken up -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [0, 1, 7, 19])
def test_stopped_anywhere_it_goes_on_where_it_was(
    source: MemoryLog, into: MemoryLog, stop_after: int
) -> None:
    source.append([rollback(f"p{n % 5}", n) for n in range(20)])
    found = whole(source, Selection(("gradient-chunks",)))
    sent = Sent()
    first = send(
        *(source, into, found.offsets, "", Pace(1e6)),
        stopped=lambda: sent.records >= stop_after,
        sent=sent,
    )
    assert first.interrupted and first.records == stop_after
    # What a processor in the sandbox has written since is not mistaken for a copy.
    into.append([rollback(f"p{n}", 99) for n in range(5)])
    left = found.after(copied_so_far(into, "", list(found.offsets)))
    assert left.records == 20 - stop_after
    assert send(source, into, left.offsets, "").records == 20 - stop_after
    origins = [
        original_of(raw.headers)
        for records in raws(into, "gradient-chunks").values()
        for raw in records
    ]
    copied = [origin for origin in origins if origin]
    assert len(copied) == len(set(copied)) == 20
    assert found.after(copied_so_far(into, "", list(found.offsets))).records == 0


def test_copies_of_another_namespace_are_not_mistaken_for_ours(
    source: MemoryLog, into: MemoryLog
) -> None:
    source.append([control("m", n) for n in range(4)])
    found = whole(source, Selection(("missions",)))
    send(source, into, found.offsets, "other.")
    assert copied_so_far(into, "", [MISSIONS]) == {}
    assert copied_so_far(into, "other.", [MISSIONS]) == {MISSIONS: 3}


def test_an_error_while_reading_ends_the_replay(source: MemoryLog, into: MemoryLog) -> None:
    source.append([control("m", n) for n in range(300)])
    found = whole(source, Selection(("missions",)))
    source.truncate(MISSIONS, 200)
    for pace in (None, Pace(1e6)):
        with pytest.raises(LogError, match="missions"):
            send(source, into, found.offsets, "", pace)


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["", "prod.", "sandbox.", "sandboxed.", "x.sandbox.a."])
def test_nothing_but_a_sandbox_is_replayed_into(target: str) -> None:
    with pytest.raises(BadReplay, match="goes into a sandbox"):
        refuse_in_place("", target)


def test_a_sandbox_is_not_replayed_into_itself() -> None:
    refuse_in_place("", "sandbox.a.")
    with pytest.raises(BadReplay, match="never goes in place"):
        refuse_in_place("sandbox.a.", "sandbox.a.")


def test_a_second_replay_into_a_sandbox_is_refused(source: MemoryLog, into: MemoryLog) -> None:
    source.append([control("m", 0)])
    refuse_twice(into, ["missions", "samples"], "s")
    run(source, into, "missions")
    with pytest.raises(AlreadyThere, match=r"1 in missions.*--resume.*--append.*drop s"):
        refuse_twice(into, ["missions", "samples"], "s")
    refuse_twice(into, ["samples"], "s")


@pytest.mark.parametrize(
    "words",
    [
        *("start", "end", "47", "47:", ":47", "10:20", "+2", "-3", "-5:-2", ":+2", "@-10m:end"),
        *("@-2h:-1h", "@2026-11-22T00:00:00Z", "@1795305600000:1h", "@start:-1h"),
    ],
)
def test_a_range_is_said_so_that_it_means_the_same_later(words: str) -> None:
    range_ = parse_range(words, now_ms=1_795_305_600_000)
    assert parse_range(absolute(range_), now_ms=1_900_000_000_000) == range_


# -- references ---------------------------------------------------------------------------------


def group(name: str, ref: ObjectRef) -> Message:
    event = SampleGroup(
        problem_id=name,
        mission_id="m",
        policy="p",
        rollouts_ref=ref,
        version=1,
        source={"problems-0": (0, 1)},
    )
    return message(event)


def test_missing_and_changed_objects_are_found(source: MemoryLog) -> None:
    store = MemoryStore()
    good, gone = store.put("good", b"1234"), store.put("gone", b"5678")
    short, turned = store.put("short", b"90"), store.put("turned", b"ab")
    refs = (good, gone, good, short, turned)
    source.append([group(f"g{n}", ref) for n, ref in enumerate(refs)])
    store.delete(["gone"])
    store.objects |= {"short": b"9", "turned": b"ba"}
    found = survey(source, Selection(("samples",)), store, lambda *_: None)
    assert len(found.named) == 4
    by_size = check_references(found.named, store, "size")
    assert by_size.objects == 4 and by_size.size_bytes == 12
    assert len(by_size.faults) == 2
    (missing,) = [fault for fault in by_size.faults if "gone" in fault]
    assert missing.startswith("samples[") and "is missing" in missing
    assert any("short has 1 bytes, the event says 2" in fault for fault in by_size.faults)
    by_hash = check_references(found.named, store, "hash")
    assert {key for key in ("gone", "short", "turned") if key in "".join(by_hash.faults)} == {
        *("gone", "short", "turned")
    }
    assert check_references(found.named, store, "none").faults == []


def test_objects_in_spilled_fields_are_found_too(source: MemoryLog) -> None:
    from learning_steps import finished, mission, prepared, upload

    from streams.learning.spill import spill

    store, of = MemoryStore(), mission()
    prepared(store, of)
    whole_one = upload(store, of, 0, (0, 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.learning.spill.INLINE_BYTES", 0)
        small = finished(spill(whole_one, lambda sha: f"spilled/{sha}"), store)
    assert small.spilled is not None and small.chunks == []
    source.append([message(small)])
    found = survey(source, Selection(("gradient-chunks",)), store, lambda *_: None)
    keys = {key for key, _, _ in found.named}
    assert keys == {small.spilled.key, *(chunk.key for chunk in whole_one.chunks)}
    assert check_references(found.named, store, "hash").faults == []
    store.delete([whole_one.chunks[0].key])
    assert len(check_references(found.named, store, "size").faults) == 1
    store.delete([small.spilled.key])
    again = survey(source, Selection(("gradient-chunks",)), store, lambda *_: None)
    (fault,) = check_references(again.named, store, "size").faults
    assert small.spilled.key in fault


def test_only_topics_whose_events_can_name_objects_are_looked_into() -> None:
    assert {name for name in TOPICS if may_refer(name)} == {
        *("missions", "samples", "gradient-chunks", "weight-versions", "releases")
    }
    frames = Selection(("sensor-frames",))
    assert not needs_survey(frames, references=True)
    assert needs_survey(Selection(("samples",)), references=True)
    assert not needs_survey(Selection(("samples",)), references=False)
    assert needs_survey(replace(frames, key="r1"), references=False)
    assert needs_survey(replace(frames, where=Expression("offset > 2")), references=False)


# -- offsets ------------------------------------------------------------------------------------


@given(
    chosen=st.sets(st.integers(0, 60)),
    held=st.sets(st.integers(0, 60)),
    last=st.integers(-1, 60),
    size=st.integers(1, 9),
)
def test_offsets_say_what_was_put_into_them(
    chosen: set[int], held: set[int], last: int, size: int
) -> None:
    offsets = Offsets()
    for offset in sorted(chosen):
        offsets.add(offset)
    assert offsets.count == len(chosen) and bool(offsets) == bool(chosen)
    left = offsets.after(last)
    wanted = sorted(offset for offset in chosen if offset > last)
    assert [o for first, after in left.runs() for o in range(first, after)] == wanted
    if wanted:
        assert (left.first, left.next) == (wanted[0], wanted[-1] + 1)
    sieve, there = Sieve(left), [Raw(offset, 0, None, b"", ()) for offset in sorted(held)]
    passed = [
        raw.offset
        for begin in range(0, len(there), size)
        for raw in sieve(there[begin : begin + size])
    ]
    assert passed == sorted(held & set(wanted))
