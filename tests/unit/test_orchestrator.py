"""The orchestrator's logic: any interleaving and redelivery gives one right result at most."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Event
from schemas.learning import Environment, Evaluation, Layout, Totals, WeightVersion
from schemas.missions import (
    AlgorithmSpec,
    Budget,
    Mission,
    MissionControl,
    MissionReport,
    MissionResult,
    ProblemSource,
    Target,
)
from schemas.records import Partition, Record
from schemas.topics import PROVISIONED
from streams.missions.desk import Desk, Row
from streams.missions.outbox import deed_of
from streams.missions.security import security_of
from streams.missions.state import FINAL_EVALUATION_LIMIT_MS, MissionState, due, observe
from streams.missions.topics import APP, CHANGELOG, TABLE
from streams.missions.watch import Watchdog

HASH = "0" * 64
ENVIRONMENT = Environment(torch="2", threads=1, cpu_capability="x")


def mission(id_: str = "m", **fields: Any) -> Mission:
    fields = {"budget": Budget(problems=100), **fields}
    return Mission(mission_id=id_, policy="p", problems=ProblemSource(name="x"), **fields)


def control(action: Any, reason: str = "", id_: str = "m") -> MissionControl:
    return MissionControl(mission_id=id_, action=action, reason=reason)


def report(stage: Any, id_: str = "m", **fields: Any) -> MissionReport:
    fields = {"heldout_size": 10, **fields}
    return MissionReport(mission_id=id_, policy="p", stage=stage, **fields)


def version(number: int, samples: int, id_: str = "m", kind: Any = "step") -> WeightVersion:
    return WeightVersion(
        policy="p",
        version=number,
        kind=kind,
        mission_id=id_,
        algorithm=AlgorithmSpec(),
        code_sha256=HASH,
        files={},
        shards={},
        layout=Layout(parameters=1, chunk_elements=1, sha256=HASH),
        totals=Totals(samples=samples),
        environment=ENVIRONMENT,
    )


def evaluation(number: int, correct: int, final: bool = False, id_: str = "m") -> Evaluation:
    return Evaluation(
        policy="p",
        mission_id=id_,
        version=number,
        accuracy=correct / 10,
        correct=correct,
        total=10,
        reward=0,
        final=final,
        heldout_sha256=HASH,
    )


PARTITION_OF_POLICY = 2


@dataclass
class Log:
    """The records of a few partitions, in order within each."""

    partitions: dict[Partition, list[Record]] = field(default_factory=dict)

    def append(self, *events: Event, at_ms: int = 0) -> list[Record]:
        return [self._append(event, at_ms) for event in events]

    def _append(self, event: Event, at_ms: int) -> Record:
        single = event.topic in ("missions", "mission-results")
        partition = Partition(event.topic, 0 if single else PARTITION_OF_POLICY)
        records = self.partitions.setdefault(partition, [])
        record = Record(partition, len(records), event.key.encode(), event.to_bytes())
        records.append(replace(record, timestamp_ms=at_ms, event=event))
        return records[-1]


def fold(*records: Record, state: MissionState | None = None) -> MissionState:
    state = state or MissionState(mission_id="m")
    for record in records:
        state = observe(state, record)
    return state


def after(*events: Event, at_ms: int = 0) -> MissionState:
    return fold(*Log().append(*events, at_ms=at_ms))


def result_of(state: MissionState, now_ms: int = 0) -> MissionResult:
    event = due(state, now_ms)
    assert isinstance(event, MissionResult), event
    return event


def test_a_target_that_is_reached_ends_the_mission():
    learning = [mission(target=Target(heldout=0.9)), report("prepared"), version(1, 5)]
    assert due(after(*learning, evaluation(1, 8)), 0) is None
    assert due(after(*learning, evaluation(1, 9)), 0) == control("end", "target")


def test_an_end_on_the_log_is_not_asked_for_again():
    events = [mission(budget=Budget(versions=1)), report("prepared"), version(1, 5)]
    assert due(after(*events), 0) == control("end", "budget.versions")
    assert due(after(*events, control("end", "budget.versions")), 0) is None
    assert due(after(*events, control("cancel")), 0) is None


def test_versions_of_the_base_and_rollbacks_are_no_steps():
    events = [mission(budget=Budget(versions=2)), report("prepared"), version(0, 0, kind="base")]
    events += [version(1, 5), version(2, 5, kind="rollback")]
    assert due(after(*events), 0) is None
    assert due(after(*events, version(3, 9)), 0) == control("end", "budget.versions")


def test_seconds_run_from_the_moment_at_which_it_was_prepared():
    log = Log()
    records = log.append(mission(budget=Budget(seconds=1.5)), at_ms=1_000)
    assert due(fold(*records), 1_000_000) is None
    records += log.append(report("prepared"), at_ms=10_000)
    assert due(fold(*records), 11_499) is None
    assert due(fold(*records), 11_500) == control("end", "budget.seconds")


def seconds_mission(log: Log) -> list[Record]:
    return log.append(mission(budget=Budget(seconds=10)), at_ms=0)


def test_seconds_stand_still_while_the_mission_is_paused():
    log = Log()
    records = seconds_mission(log) + log.append(report("prepared"), at_ms=1_000)
    records += log.append(control("pause"), at_ms=5_000)
    records += log.append(control("pause"), at_ms=7_000)
    assert due(fold(*records), 3_600_000) is None
    records += log.append(control("resume"), at_ms=3_600_000)
    assert due(fold(*records), 3_605_999) is None
    assert due(fold(*records), 3_606_000) == control("end", "budget.seconds")
    records += log.append(control("pause"), at_ms=3_603_000)
    records += log.append(control("resume"), at_ms=3_703_000)
    assert due(fold(*records), 3_705_999) is None
    assert due(fold(*records), 3_706_000) == control("end", "budget.seconds")


def test_a_pause_before_the_mission_is_prepared_counts_from_then_on():
    log = Log()
    records = seconds_mission(log) + log.append(control("pause"), at_ms=1_000)
    records += log.append(report("prepared"), at_ms=20_000)
    assert due(fold(*records), 90_000) is None
    records += log.append(control("resume"), at_ms=50_000)
    assert due(fold(*records), 59_999) is None
    assert due(fold(*records), 60_000) == control("end", "budget.seconds")


def test_seconds_that_were_spent_before_the_pause_end_the_mission():
    log = Log()
    records = seconds_mission(log) + log.append(report("prepared"), at_ms=1_000)
    records += log.append(control("pause"), at_ms=11_000)
    assert due(fold(*records), 11_500) == control("end", "budget.seconds")


@pytest.mark.parametrize("action", ["end", "cancel"])
def test_an_end_lifts_the_pause_and_the_result_leaves_it_out(action: Any):
    log = Log()
    records = seconds_mission(log) + log.append(report("prepared"), at_ms=1_000)
    records += log.append(control("pause"), at_ms=3_000)
    assert fold(*records).phase == "paused"
    records += log.append(control(action), at_ms=63_000)
    assert fold(*records).phase in ("ending", "cancelling")
    records += log.append(control("pause"), at_ms=64_000)
    records += log.append(report("drained", heldout_size=0), at_ms=65_000)
    records += log.append(evaluation(0, 1, final=True))
    assert result_of(fold(*records)).seconds == 4.0


@pytest.mark.parametrize("prepared", [True, False])
def test_what_was_rejected_is_ending(prepared: bool):
    before = [report("prepared")] if prepared else []
    events = [mission(), *before, control("pause"), report("rejected", reason="gone")]
    assert after(*events).phase == "ending"


def test_the_result_holds_first_and_final_accuracy_and_what_was_learnt_from():
    log = Log()
    records = log.append(mission(budget=Budget(problems=7)))
    records += log.append(report("prepared"), at_ms=1_000)
    records += log.append(version(0, 0, kind="base"), version(1, 40), version(2, 90))
    records += log.append(evaluation(0, 1), evaluation(1, 6))
    records += log.append(report("drained", problems=7), at_ms=3_500)
    assert due(fold(*records), 3_500) is None
    records += log.append(evaluation(2, 5, final=True))
    assert result_of(fold(*records)) == MissionResult(
        mission_id="m",
        policy="p",
        outcome="budget",
        reason="budget.problems",
        seconds=2.5,
        problems=7,
        samples=90,
        versions=2,
        final_version=2,
        heldout_before=0.1,
        heldout_after=0.5,
        reward_before=0.0,
        reward_after=0.0,
    )


def test_a_target_of_reward_ends_a_mission_whatever_its_accuracy_is():
    def scored(version: int, reward: float, final: bool = False) -> Evaluation:
        return evaluation(version, 0, final=final).model_copy(update={"reward": reward})

    log = Log()
    records = log.append(mission(budget=Budget(), target=Target(reward=-9.0)))
    records += log.append(report("prepared"), version(0, 0, kind="base"), version(1, 40))
    records += log.append(scored(0, -44.0), scored(1, -9.5))
    assert due(fold(*records), 0) is None
    records += log.append(version(2, 80), scored(2, -9.0), scored(3, -20.0))
    end = due(fold(*records), 0)
    assert isinstance(end, MissionControl) and (end.action, end.reason) == ("end", "target")
    records += log.append(end, report("drained", problems=7), scored(3, -8.0, final=True))
    result = result_of(fold(*records))
    assert (result.outcome, result.reward_before, result.reward_after) == ("target", -44.0, -8.0)


@pytest.mark.parametrize(
    ("ending", "correct", "outcome", "reason"),
    [
        (control("end", "target"), 8, "target", "target"),
        (control("end", "budget.seconds"), 8, "budget", "budget.seconds"),
        (control("end", "budget.seconds"), 9, "target", "target"),
        (control("end", "enough"), 8, "ended", "enough"),
        (control("cancel", "wrong data"), 8, "cancelled", "wrong data"),
        (report("rejected", reason="source changed"), 8, "rejected", "source changed"),
    ],
)
def test_the_outcome_says_what_ended_it(ending: Event, correct: int, outcome: str, reason: str):
    state = after(
        mission(target=Target(heldout=0.9)),
        report("prepared"),
        ending,
        report("drained", problems=3),
        evaluation(1, correct, final=True),
    )
    assert (result_of(state).outcome, result_of(state).reason) == (outcome, reason)


def test_a_mission_that_cannot_run_has_its_result_at_once():
    state = after(mission(), report("rejected", reason="no such dataset"))
    assert result_of(state).outcome == "rejected"
    assert result_of(state).reason == "no such dataset"


def test_a_mission_that_cannot_go_on_drains_first():
    events = [mission(), report("prepared"), report("rejected", reason="gone")]
    assert due(after(*events), 0) is None


def test_a_cancelled_mission_waits_for_drained_only_and_takes_the_newest_accuracy():
    events = [mission(), report("prepared"), evaluation(0, 1), evaluation(3, 4), control("cancel")]
    assert due(after(*events), 0) is None
    assert result_of(after(*events, report("drained"))).heldout_after == 0.4


def test_without_held_out_problems_no_evaluation_is_waited_for():
    state = after(mission(), report("prepared", heldout_size=0), report("drained", problems=100))
    assert result_of(state).heldout_after is None


def test_a_final_evaluation_that_never_comes_is_named_in_the_reason():
    state = after(mission(), report("prepared"), evaluation(3, 4), report("drained", problems=100))
    assert due(state, FINAL_EVALUATION_LIMIT_MS - 1) is None
    late = result_of(state, FINAL_EVALUATION_LIMIT_MS)
    assert (late.heldout_after, late.reason) == (
        0.4,
        "budget.problems; no final evaluation in 600 s",
    )


def test_a_published_result_is_final():
    state = after(mission(), report("rejected", reason="no"))
    published = result_of(state)
    done = fold(*Log().append(published), state=state)
    assert (done.result, done.phase, due(done, 0)) == (published, "finished", None)


def test_a_result_that_is_known_before_its_mission_is_never_published_again():
    log = Log()
    published = MissionResult(mission_id="m", policy="p", outcome="ended")
    state = fold(*log.append(published), *log.append(mission(), report("rejected")))
    assert due(state, 0) is None


def test_a_second_mission_with_the_same_id_changes_nothing():
    state = after(mission(budget=Budget(versions=5)), mission(budget=Budget(versions=1)))
    assert state.budget.versions == 5


def test_samples_of_earlier_missions_of_the_policy_are_not_counted():
    log, table = Log(), Table()
    events = [mission("a"), mission("b"), version(1, 40, "a"), version(2, 70, "b")]
    table.work(log.append(*events, version(3, 75, "b")))
    assert (table.rows["a"]["samples"], table.rows["b"]["samples"]) == (40, 35)


def test_reading_starts_where_the_row_that_lags_most_needs_it():
    log, table = Log(), Table()
    versions = f"weight-versions-{PARTITION_OF_POLICY}"
    table.work(log.append(mission("a"), version(1, 4, "a"), mission("b"), version(2, 4, "b")))
    assert Desk(table.rows).begin() == {"missions-0": 1, versions: 1}
    table.work(log.append(report("drained", "a"), result("a")))
    assert Desk(table.rows).begin() == {"missions-0": 2, versions: 2, "mission-results-0": 0}
    table.work(log.append(report("drained", "b"), result("b"), mission("c")))
    assert Desk(table.rows).begin() == {"missions-0": 5, versions: 2, "mission-results-0": 2}


def result(id_: str) -> MissionResult:
    return MissionResult(mission_id=id_, policy="p", outcome="ended")


def test_views_show_submitted_missions_in_order_with_their_phase():
    log, table = Log(), Table()
    table.work(log.append(mission("late"), at_ms=2) + log.append(mission("early"), at_ms=1))
    table.work(log.append(evaluation(1, 1, id_="stray"), report("prepared", "early")))
    shown = [(view["mission_id"], view["phase"]) for view in table.desk.views()]
    assert shown == [("early", "running"), ("late", "submitted")]
    assert table.desk.view("nobody") is None


class Table:
    """What the agent works on: rows pass through JSON."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.desk = Desk(self.rows)

    def work(self, records: Sequence[Record]) -> None:
        for record in records:
            if change := self.desk.take(record):
                self.rows[change[0]] = json.loads(json.dumps(change[1]))


# -- any order, any redelivery ---------------------------------------------------------------


@st.composite
def stories(draw: st.DrawFn) -> list[Event]:
    """The events of one mission by everybody but the orchestrator, in their causal order."""
    budget = Budget(
        problems=draw(st.none() | st.just(50)),
        versions=draw(st.none() | st.integers(1, 4)),
        seconds=draw(st.none() | st.just(3600.0)),
    )
    target = draw(st.none() | st.just(Target(heldout=0.7)))
    if target is None and not any(budget.model_dump().values()):
        budget = Budget(problems=50)
    events: list[Event] = [mission(budget=budget, target=target)]
    if draw(st.integers(0, 4)) == 0:
        return [*events, report("rejected", reason="no")]
    events.append(report("prepared"))
    events += [version(0, 0, kind="base"), evaluation(0, draw(st.integers(0, 10)))]
    steps = draw(st.integers(0, 5))
    for number in range(1, steps + 1):
        events.append(version(number, 10 * number))
        if draw(st.booleans()):
            events.append(evaluation(number, draw(st.integers(0, 10))))
    if draw(st.booleans()):
        events.append(control(draw(st.sampled_from(["cancel", "end", "pause"])), "by hand"))
    if draw(st.booleans()):
        events.append(report("drained", problems=draw(st.sampled_from([20, 50]))))
        if draw(st.booleans()):
            events.append(evaluation(steps, draw(st.integers(0, 10)), final=True))
    return events


@dataclass
class World:
    """A log, and orchestrators that are killed, restarted, and live beside their successor."""

    log: Log
    changelog: dict[str, Row] = field(default_factory=dict)
    instances: list["Instance"] = field(default_factory=list)
    published: list[Event] = field(default_factory=list)

    def start(self) -> None:
        self.instances = [*self.instances[-1:], Instance(self)]

    def lose(self) -> None:
        self.changelog.clear()
        self.instances = [Instance(self)]

    def step(self, data: st.DataObject) -> None:
        act = data.draw(st.sampled_from(["read"] * 6 + ["again", "decide", "start", "lose"]))
        match act:
            case "start":
                self.start()
            case "lose":
                self.lose()
            case "decide":
                # Only the newest one can publish: starting, it has fenced the others.
                self.instances[-1].decide(killed=data.draw(st.booleans()))
            case _:
                instance = data.draw(st.sampled_from(self.instances))
                partition = data.draw(st.sampled_from(sorted(self.log.partitions, key=str)))
                if act == "again":
                    instance.go_back(partition, data.draw(st.integers(0, 3)))
                instance.read(partition)


class Instance:
    """One process: its copy of the table, and how far it has read."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows = json.loads(json.dumps(world.changelog))
        self.desk = Desk(self.rows)
        self.next = self.desk.begin()

    def go_back(self, partition: Partition, count: int) -> None:
        self.next[str(partition)] = max(0, self.next.get(str(partition), 0) - count)

    def read(self, partition: Partition) -> bool:
        at, records = self.next.get(str(partition), 0), self.world.log.partitions[partition]
        if at == len(records):
            return False
        self.next[str(partition)] = at + 1
        if change := self.desk.take(records[at]):
            row = json.dumps(change[1])
            self.rows[change[0]], self.world.changelog[change[0]] = json.loads(row), json.loads(row)
        return True

    def decide(self, killed: bool) -> None:
        """What the timer does; a kill comes between the publication of two events."""
        known = {deed_of(r.event) for rs in self.world.log.partitions.values() for r in rs}
        for event in self.desk.due(now_ms=1_000):
            if deed_of(event) not in known:
                self.world.published.append(event)
                self.world.log.append(event)
                if killed:
                    return

    def catch_up(self) -> None:
        for partition in list(self.world.log.partitions):
            while self.read(partition):
                pass


def play(story: list[Event], data: st.DataObject) -> World:
    log = Log()
    log.append(*story)
    world = World(log)
    world.start()
    for _ in range(data.draw(st.integers(0, 40))):
        world.step(data)
    return world


@settings(max_examples=60, deadline=None)
@given(stories(), st.data())
def test_no_order_or_redelivery_gives_two_results_or_an_end_without_reason(
    story: list[Event], data: st.DataObject
):
    world = play(story, data)
    world.instances[-1].catch_up()
    world.instances[-1].decide(killed=False)
    ends = [e for e in world.published if isinstance(e, MissionControl)]
    assert len(ends) <= 1
    assert len([e for e in world.published if isinstance(e, MissionResult)]) <= 1
    for end in ends:
        assert end.reason in reasons_to_end(story)


def reasons_to_end(story: list[Event]) -> set[str]:
    submitted = story[0]
    assert isinstance(submitted, Mission)
    best = max((e.accuracy for e in story if isinstance(e, Evaluation)), default=0.0)
    steps = sum(isinstance(e, WeightVersion) and e.kind == "step" for e in story)
    reasons = set()
    if submitted.target and best >= submitted.target.heldout:
        reasons.add("target")
    if submitted.budget.versions and steps >= submitted.budget.versions:
        reasons.add("budget.versions")
    return reasons


@settings(max_examples=60, deadline=None)
@given(stories(), st.data())
def test_who_has_read_everything_shows_the_same_whatever_happened_before(
    story: list[Event], data: st.DataObject
):
    world = play([mission("other", budget=Budget(problems=9)), *story], data)
    world.start()
    world.instances[-1].catch_up()
    straight = World(world.log)
    straight.start()
    straight.instances[-1].catch_up()
    assert world.instances[-1].desk.views() == straight.instances[-1].desk.views()


def test_a_result_that_a_second_writer_read_first_does_not_end_the_reading_of_its_mission():
    log = Log()
    log.append(mission("other"), mission(), report("prepared"), evaluation(0, 1))
    log.append(report("drained", problems=100), evaluation(0, 2, final=True))
    world = World(log)
    world.start()
    world.instances[-1].catch_up()
    world.instances[-1].decide(killed=False)
    world.lose()
    world.start()
    older, newer = world.instances
    scores, missions, results = (
        Partition("evaluations", PARTITION_OF_POLICY),
        Partition("missions", 0),
        Partition("mission-results", 0),
    )
    older.read(scores)  # It tells the mission's row of it,
    newer.read(results)  # which this one's overwrites,
    older.read(missions)  # and the other mission's row says that it is read.
    world.start()
    world.instances[-1].catch_up()
    shown = world.instances[-1].desk.view("m")
    assert shown is not None and shown["result"]["heldout_before"] == 0.1
    assert shown["first"]["accuracy"] == 0.1


# -- the rest --------------------------------------------------------------------------------


def test_a_watchdog_barks_when_nothing_moves_while_something_waits():
    dog = Watchdog(limit_s=10)
    assert not dog.stalled(True, 1, now_s=0)
    assert not dog.stalled(True, 1, now_s=9)
    assert dog.stalled(True, 1, now_s=10)
    assert not dog.stalled(True, 2, now_s=11)
    assert not dog.stalled(False, 2, now_s=30)
    assert not dog.stalled(True, 2, now_s=39)
    dog.excuse()
    assert not dog.stalled(True, 2, now_s=60)


def test_the_changelog_is_provisioned_under_the_name_that_faust_gives_it():
    assert CHANGELOG in PROVISIONED
    assert CHANGELOG.name == f"{APP}-{TABLE}-changelog"
    assert CHANGELOG.partitions == 1
    assert CHANGELOG.config()["cleanup.policy"] == "compact"


def test_connection_settings_are_honoured_or_refused():
    assert security_of({"linger.ms": "5"}).protocol == "PLAINTEXT"
    secret = {"security.protocol": "SASL_SSL", "sasl.mechanisms": "SCRAM-SHA-512"}
    security = security_of({**secret, "sasl.username": "u", "sasl.password": "p"})
    assert (security.protocol, security.mechanism) == ("SASL_SSL", "SCRAM-SHA-512")
    assert security.context is not None and security.context.check_hostname
    with pytest.raises(ValueError, match=r"sasl\.kerberos\.keytab"):
        security_of({"security.protocol": "SASL_SSL", "sasl.kerberos.keytab": "x"})
    with pytest.raises(ValueError, match="GSSAPI"):
        security_of({"security.protocol": "SASL_SSL", "sasl.mechanism": "GSSAPI"})
