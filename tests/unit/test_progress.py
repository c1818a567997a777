from dataclasses import replace

import pytest
from audit_books import ROLLOUT, BookLog, drop, evaluation, group, mission, problem, use, valid
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.progress import Point, Progress, Rate
from consumers.read import decoded
from schemas.base import Event
from schemas.learning import Evaluation, GradientUpload, UploadsRefused
from schemas.missions import MissionControl, MissionReport, MissionResult
from schemas.records import Partition, Record
from schemas.tensors import ObjectRef, Spilled


def records(log: BookLog) -> list[Record]:
    """All records of the log, decoded, a second apart in each topic."""
    return [
        replace(decoded(record), timestamp_ms=1_000_000 + 1000 * record.offset)
        for topic in log.records().values()
        for record in topic
    ]


def fed(progress: Progress, events: list[Record]) -> Progress:
    for record in events:
        progress.observe(record)
    return progress


def with_stats(log: BookLog) -> BookLog:
    for name, reward in (("u0", 0.25), ("u1", 0.5)):
        log[name].edit(stats={"reward_mean": reward, "loss": -reward})
    log["v2"].edit(staleness=1.5)
    return log


def test_counts_of_a_policy() -> None:
    progress = fed(Progress(policy="main"), records(with_stats(valid())))
    assert (progress.problems, progress.groups, progress.samples) == (9, 6, 10)
    assert (progress.uploads, progress.versions, progress.version) == (5, 3, 3)
    assert progress.dropped == {"cancelled": 1}
    assert progress.refused == {"overlap": 1, "layout": 1}
    assert progress.staleness == 1.5
    assert progress.loss == -0.5
    # p3 is a dead letter; g8 is in an open upload.
    assert progress.in_flight == {"problems": 2, "groups": 1, "uploads": 1}


def test_what_is_sent_again_is_counted_once() -> None:
    log = valid()
    before = fed(Progress(policy="main"), records(log))
    # Two of the three letters are settled in the valid log.
    assert (before.dead_letters, before.in_flight["problems"]) == (1, 2)
    log.put("p3-again", log["p3"].event, number=1)
    log.settle("requeued-p3", "letter-p3", "p3-again")
    after = fed(Progress(policy="main"), records(log))
    assert (after.problems, after.dead_letters) == (before.problems, 0)
    assert after.in_flight["problems"] == 3


def test_a_group_that_is_sent_again_is_settled_once() -> None:
    log = valid()
    before = fed(Progress(policy="main"), records(log))
    log.bury("letter-g8", "g8", "trainer")
    log["u3"].edit(groups=[], dropped=[drop(log["g8"], "unreadable")])
    log.put("g8-again", log["g8"].event, number=1)
    log.settle("requeued-g8", "letter-g8", "g8-again")
    after = fed(Progress(policy="main"), records(log))
    assert (after.groups, after.in_flight["problems"]) == (6, before.in_flight["problems"])
    # The copy waits for an upload; the first time is settled with u3, which is open.
    assert (before.in_flight["groups"], after.in_flight["groups"]) == (1, 2)
    log["refusal"].edit(resume={"gradient-chunks-0": 9})
    log["u3"].edit(groups=[use(log["g8"])], dropped=[])
    assert fed(Progress(policy="main"), records(log)).in_flight["groups"] == 1


def test_curves_are_by_version() -> None:
    progress = fed(Progress(policy="main"), records(with_stats(valid())))
    assert [(p.version, p.value) for p in progress.rewards] == [(0, 0.25), (0, 0.5)]
    assert progress.reward == 0.5
    assert progress.heldout == [Point(0, 0.5, 1_000_000), Point(3, 0.5, 1_001_000)]


@pytest.mark.parametrize("mixed", [False, True])
def test_uploads_that_a_version_lists_beside_its_event_are_settled(mixed: bool) -> None:
    log = with_stats(valid())
    expected = fed(Progress(policy="main"), records(log)).in_flight
    for name in ("v1", "v2", "v3"):
        counts = {"uploads": log[name].event.count("uploads")}
        spilled = Spilled(key="k", sha256="0" * 64, size_bytes=1, counts=counts)
        log[name].edit(uploads=[], spilled=spilled)
    events = records(log)
    if mixed:
        events.sort(key=lambda record: record.partition.topic, reverse=True)
    assert fed(Progress(policy="main"), events).in_flight == expected


def test_policies_that_share_a_partition_settle_their_own() -> None:
    log = valid()
    open_now = fed(Progress(), records(log)).in_flight["uploads"]
    foreign = at(log["u1"].event.model_copy(update={"policy": "other"}), 0, 0)
    assert fed(Progress(), [*records(log), foreign]).in_flight["uploads"] == open_now + 1


def test_others_are_left_out() -> None:
    progress = fed(Progress(policy="other"), records(valid()))
    assert (progress.problems, progress.groups, progress.uploads) == (1, 1, 0)
    assert (progress.refused, progress.heldout) == ({}, [])


def test_a_mission_counts_what_is_its_own() -> None:
    log = valid()
    m0 = fed(Progress(mission="m0"), records(log))
    assert (m0.problems, m0.stage, m0.versions) == (0, "rejected", 0)
    # Refusals name no mission; they count with the uploads that they refuse.
    assert m0.refused == {}
    m1 = fed(Progress(mission="m1"), records(log))
    assert (m1.problems, m1.stage, m1.refused) == (9, "running", {"overlap": 1, "layout": 1})
    assert m1.policy == "main"


def test_the_stage_is_the_word_of_the_orchestrator_until_there_is_an_outcome() -> None:
    progress, stages = Progress(mission="m"), list[str]()
    told = [
        mission("m", "main"),
        MissionReport(mission_id="m", policy="main", stage="prepared"),
        MissionControl(mission_id="m", action="pause"),
        MissionControl(mission_id="m", action="cancel"),
        MissionReport(mission_id="m", policy="main", stage="drained"),
    ]
    for offset, event in enumerate(told):
        progress.observe(at(event, offset, 0))
        stages.append(progress.stage)
    assert stages == ["submitted", "running", "paused", "cancelling", "evaluating"]
    result = MissionResult(mission_id="m", policy="main", outcome="cancelled")
    progress.observe(at(result, 0, 0))
    assert progress.stage == "cancelled"


def test_an_order_for_another_policys_mission_says_nothing_of_this_one() -> None:
    progress = fed(Progress(policy="main"), records(valid()))
    before = progress.stage
    progress.observe(at(MissionControl(mission_id="nobody", action="pause"), 99, 0))
    assert progress.stage == before


@settings(deadline=None, max_examples=50)
@given(st.randoms(use_true_random=False))
def test_the_order_between_topics_does_not_matter(shuffle: object) -> None:
    events = records(with_stats(valid()))
    expected = fed(Progress(mission="m1"), events).summary()
    by_topic: dict[str, list[Record]] = {}
    for record in events:
        by_topic.setdefault(record.partition.topic, []).append(record)
    mixed: list[Record] = []
    # Missions first: whoever follows a mission knows its policy.
    mixed += by_topic.pop("missions")
    while by_topic:
        topic = shuffle.choice(sorted(by_topic))  # type: ignore[attr-defined]
        mixed.append(by_topic[topic].pop(0))
        if not by_topic[topic]:
            del by_topic[topic]
    rates = ("samples_hz", "versions_hz")
    found = fed(Progress(mission="m1"), mixed).summary()
    assert {k: v for k, v in found.items() if k not in rates} == {
        k: v for k, v in expected.items() if k not in rates
    }


def at(event: Event, offset: int, timestamp_ms: int) -> Record:
    return Record(Partition(event.topic, 0), offset, b"", b"", {}, timestamp_ms, event)


def test_rates_are_by_the_time_of_the_log() -> None:
    progress = Progress()
    for second in range(30):
        event = group(problem(second), 0, ("problems-0", second, second + 1))
        progress.observe(at(event, second, 5_000_000 + 1000 * second))
    assert progress.samples_hz == pytest.approx(2.0)
    for half in range(20):
        event = group(problem(40 + half), 0, ("problems-0", 40 + half, 41 + half))
        progress.observe(at(event, 40 + half, 5_030_000 + 500 * half))
    # The window of ten seconds now holds the faster part alone, but for its first mark.
    assert progress.samples_hz == pytest.approx(4.0, rel=0.1)


def test_one_moment_has_no_rate() -> None:
    rate = Rate(10)
    assert rate.hz == 0
    rate.add(1000, 5)
    rate.add(1000, 5)
    assert rate.hz == 0


def test_elapsed_is_from_the_first_problem() -> None:
    progress = fed(Progress(), [at(problem(1), 1, 9_000), at(problem(0), 0, 7_000)])
    assert progress.elapsed_s == 2.0
    assert Progress().elapsed_s == 0.0


def test_rollouts_in_an_object_count_as_the_mission_asks() -> None:
    progress = Progress()
    progress.observe(at(mission("m1", "main"), 0, 0))
    ref = ObjectRef(key="k", sha256="0" * 64, size_bytes=1)
    event = group(problem(0), 0, ("problems-0", 0, 1), rollouts=[], rollouts_ref=ref)
    progress.observe(at(event, 0, 0))
    assert progress.samples == mission("m1", "main").rollout.group_size != len([ROLLOUT])


def test_an_evaluation_that_comes_twice_counts_once() -> None:
    twice: list[Evaluation] = [evaluation(3), evaluation(0), evaluation(3)]
    progress = fed(Progress(), [at(e, i, i) for i, e in enumerate(twice)])
    assert [point.version for point in progress.heldout] == [0, 3]


def test_what_did_not_decode_changes_nothing() -> None:
    progress = Progress()
    progress.observe(Record(Partition("samples", 0), 0, b"", b"{", {}, 5))
    assert progress.summary() == Progress().summary()


def test_a_summary_is_json() -> None:
    import json

    summary = fed(Progress(policy="main"), records(with_stats(valid()))).summary()
    assert json.loads(json.dumps(summary))["heldout"] == [[0, 0.5], [3, 0.5]]


def test_the_books_hold_both_kinds_of_refusals() -> None:
    """The fixtures above rely on it: one beside a version, one at once."""
    events = [slot.event for slot in valid().slots.values()]
    assert sum(isinstance(e, UploadsRefused) for e in events) == 2
    assert sum(isinstance(e, GradientUpload) for e in events) == 5
