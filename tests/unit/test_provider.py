"""The provider: which missions run; problems come without gap, once, and never too many."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from provider_world import (
    SHA,
    Instance,
    World,
    character_folder,
    grpo_only,
    mission,
    questions,
    weight_version,
)

from consumers.read import read
from infra.driver import Driver
from infra.envelope import message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from producers.missions import publish
from producers.problems.provider import CLOSE_EVERY_S, TICK_PROBLEMS, ProblemProvider
from schemas.effects import Bury, Unready
from schemas.ids import is_heldout, problem_id
from schemas.learning import DeadLetterResolution, Problem, SampleGroup, Totals, WeightVersion
from schemas.missions import Mission, MissionControl, MissionReport
from schemas.records import Partition, Record
from schemas.tensors import ObjectRef
from schemas.topics import TOPICS


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return questions(tmp_path / "sums.jsonl")


def running(world: World, **wiring: Any) -> Instance:
    instance = Instance(world, **wiring)
    instance.take_over()
    return instance


def control(action: Any, mission_id: str = "m1") -> MissionControl:
    return MissionControl(mission_id=mission_id, action=action)


# -- missions that run ----------------------------------------------------------------------


def test_a_mission_is_prepared_with_base_model_and_heldout_set(source: Path) -> None:
    world = World()
    world.publish(mission(source))
    running(world).work_all()
    (report,) = world.reports("prepared")
    assert (report.train_size, report.heldout_size) == (14, 2)
    assert sorted(report.base_files) == ["config.json", "tokenizer.json"]
    assert report.base_shards["model.safetensors"].key == "bases/m1/model.safetensors"
    assert all(world.store.get(ref) for ref in report.base_files.values())
    assert report.heldout is not None
    lines = world.store.get(report.heldout).splitlines()
    heldout = [Problem.model_validate_json(line) for line in lines]
    assert [p.index for p in heldout] == list(range(2))
    assert all(is_heldout(p.question, 0.25) for p in heldout)
    assert heldout[0].problem_id == problem_id("heldout", 0, heldout[0].question)


def test_the_real_base_model_is_stored_and_prompts_are_checked_against_it(source: Path) -> None:
    models = pytest.importorskip("streams.learning.models")
    small = {"base": "new", "new": {"alphabet": "0123456789+", "positions": 12, "width": 8}}
    world = World()
    world.publish(mission(source, model=small))
    world.publish(mission(source, "m2", policy="other"))
    running(world, base_folder=models.base_folder).work_all()
    (report,) = world.reports("prepared")
    assert {"config.json", "tokenizer.json"} <= set(report.base_files)
    assert list(report.base_shards) == ["model.safetensors"]
    (rejected,) = world.reports("rejected")
    assert "characters that the model's tokenizer lacks" in rejected.reason


def test_the_second_mission_of_a_policy_goes_on_from_the_first(source: Path) -> None:
    world = World()
    world.publish(mission(source))
    world.publish(mission(source, "m2"))
    world.publish(mission(source, "m3", policy="other"))
    running(world).work_all()
    reports = {r.mission_id: r for r in world.reports("prepared")}
    bases = {name: (one.base_files, one.base_shards) for name, one in reports.items()}
    assert bases["m1"] == bases["m2"] != bases["m3"]
    keys = {name: shards["model.safetensors"].key for name, (_, shards) in bases.items()}
    assert keys == {
        "m1": "bases/m1/model.safetensors",
        "m2": "bases/m1/model.safetensors",
        "m3": "bases/m3/model.safetensors",
    }


def test_a_policy_with_weights_gets_no_other_base(source: Path) -> None:
    world = World()
    world.learn("main", 0)
    world.publish(mission(source))
    running(world).work_all()
    (report,) = world.reports("prepared")
    assert (report.base_files, report.base_shards) == ({}, {})


def test_the_same_mission_again_is_ignored(source: Path) -> None:
    world = World()
    for _ in range(3):
        world.publish(mission(source))
    instance = running(world)
    instance.work_all()
    world.committed = 0
    instance.work_all()
    assert len(world.reports("prepared")) == 1
    assert not list(world.records("dead-letters"))


def test_preparing_waits_for_what_was_said_of_earlier_missions(source: Path) -> None:
    world = World()
    world.publish(mission(source))
    instance = running(world)
    world.publish(mission(source, "m2"))
    instance.work()
    instance.observe(world.records("missions").__next__().partition, 1)
    with pytest.raises(Unready, match="earlier missions of policy main"):
        instance.work()
    instance.catch_up()
    instance.work()
    first, second = world.reports("prepared")
    assert first.base_shards == second.base_shards != {}


# -- missions that do not -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"algorithm": {"name": "grpoo"}}, "no algorithm 'grpoo'"),
        ({"model": {"base": "/no/model"}}, "'/no/model' is not here"),
        ({"training": {"groups_per_upload": 2049}}, "groups_per_upload 2049: an upload's event"),
        ({"max_in_flight": 3}, "max_in_flight 3 is less than one step's 4 groups"),
        ({"rollout": {"max_tokens": 14}}, "more than the model's 16 positions"),
        ({"rollout": {"max_tokens": 1}}, "none can be written"),
    ],
)
def test_a_mission_that_cannot_run_is_one_dead_letter(
    source: Path, changes: dict[str, Any], detail: str
) -> None:
    assert_rejected(mission(source, **changes), detail)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"heldout": 0}, "16 to train on and 0 held out"),
        ({"verifier": {"name": "exakt"}}, "no verifier 'exakt'"),
        ({"verifier": {"name": "os:abort"}}, "RALO_ALLOW_LOCAL_CODE"),
        ({"verifier": {"name": "reasoning-gym"}}, "set problems.verifier.args.dataset"),
        ({"prompt": "{question} "}, "characters that the model's tokenizer lacks"),
        ({"answer": "{reply}"}, r"sums.jsonl:1: problems.answer: the item has no {reply}"),
        ({"name": "none.jsonl"}, "none.jsonl: No such file"),
        ({"source": "reasoning-gym", "name": "zebra_puzzles"}, "refused: it needs pycosat"),
        (
            {"source": "reasoning-gym", "name": "boxnet", "size": 40, "answer": "?"},
            "scores the source's own answers",
        ),
    ],
)
def test_a_source_that_cannot_be_used_is_one_dead_letter(
    source: Path, changes: dict[str, Any], detail: str
) -> None:
    if changes.get("name") == "boxnet":
        changes = {**changes, "verifier": {"name": "reasoning-gym"}}
    problems = {"source": "jsonl", "name": str(source), "heldout": 0.25, **changes}
    assert_rejected(mission(source, problems=problems), detail)


def assert_rejected(wrong: Mission, detail: str) -> None:
    world = World()
    record = world.publish(wrong)
    instance = running(world)
    outputs = instance.work()
    assert outputs is not None
    (bury,) = outputs.buried
    assert (bury.record.at, bury.reason) == (record.at, "invalid mission")
    assert detail in bury.detail
    (report,) = outputs.events
    assert isinstance(report, MissionReport)
    assert (report.stage, report.reason) == ("rejected", bury.detail)
    assert not list(world.store.keys())
    instance.settle()
    assert not world.events(Problem)


def test_a_mission_that_killed_the_provider_is_rejected_once_and_holds_up_no_other(
    source: Path,
) -> None:
    world = World()
    deadly = world.publish(mission(source))
    # The driver, which has counted the deaths, buries the record and commits past it.
    world.bury(Bury(deadly, "deadly", "the process died 5 times in a row while working on it"))
    world.committed = 1
    world.publish(mission(source, "m2"))
    for _ in range(2):
        instance = running(world)
        instance.settle()
    (report,) = world.reports("rejected")
    assert report.mission_id == "m1" and "died 5 times" in report.reason
    assert not world.problems("m1") and world.problems("m2")


def test_an_id_is_used_once(source: Path) -> None:
    world = World()
    world.publish(mission(source))
    world.publish(mission(source, seed=1))
    running(world).work_all()
    (letter,) = world.records("dead-letters")
    assert getattr(letter.event, "reason", "") == "duplicate mission id"
    assert len(world.reports("prepared")) == 1
    assert not world.reports("rejected")


def test_another_model_for_the_same_policy_is_refused(source: Path) -> None:
    world = World()
    world.publish(mission(source))
    world.publish(mission(source, "m2", model={"new": {"width": 128}}))
    running(world).work_all()
    (report,) = world.reports("rejected")
    assert "policy 'main' has the model of mission 'm1'" in report.reason


def test_a_control_needs_its_mission(source: Path) -> None:
    world = World()
    world.publish(control("pause"))
    world.publish(mission(source))
    world.publish(control("resume"))
    running(world).work_all()
    (letter,) = world.records("dead-letters")
    assert getattr(letter.event, "detail", "") == "no mission 'm1' before missions[0]@0"


# -- feeding --------------------------------------------------------------------------------


def started(world: World, submitted: Mission) -> Instance:
    world.publish(submitted)
    instance = running(world)
    instance.work_all()
    return instance


def test_problems_are_fed_in_whole_batches_while_there_is_room(source: Path) -> None:
    world = World()
    instance = started(world, mission(source, max_in_flight=10))
    fed = []
    for learnt in (0, 3, 2, 1, 3, 7):
        world.learn("main", learnt)
        instance.catch_up()
        before = len(world.problems("m1"))
        instance.settle()
        fed.append(len(world.problems("m1")) - before)
    # Room for 10: two batches of four; in flight then 5 + 4, 7, 6 + 4, 7 and 0 + 8.
    assert fed == [8, 4, 0, 4, 0, 8]


def test_a_step_can_always_close(source: Path) -> None:
    world = World()
    instance = started(world, mission(source, max_in_flight=6, training={"groups_per_upload": 6}))
    instance.settle()
    assert len(world.problems("m1")) == 6


def test_epochs_follow_each_other_in_their_own_order(source: Path) -> None:
    world = World()
    instance = started(world, mission(source, max_in_flight=44, budget={"problems": 42}))
    instance.settle()
    problems = world.problems("m1")
    assert [p.epoch for p in problems] == [0] * 14 + [1] * 14 + [2] * 14
    orders = [[p.question for p in problems[i : i + 14]] for i in (0, 14, 28)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert len({tuple(order) for order in orders}) == 3
    assert len({p.problem_id for p in problems}) == 42
    assert problems[20].problem_id == problem_id("m1", 1, problems[20].question)


def test_a_transaction_is_bounded(source: Path) -> None:
    world = World()
    instance = started(world, mission(source, max_in_flight=1000, budget={"problems": 2000}))
    sizes = []
    while (outputs := instance.tick()) is not None:
        sizes.append(len(outputs.events))
    assert sizes == [TICK_PROBLEMS] * 3 + [1000 - 3 * TICK_PROBLEMS]


def test_a_standby_feeds_nothing(source: Path) -> None:
    world = World()
    started(world, mission(source))
    standby = Instance(world)
    standby.catch_up()
    assert standby.tick() is None
    standby.provider.assigned([])
    assert standby.tick() is None
    standby.take_over()
    assert standby.tick() is not None


def test_what_was_aborted_is_fed_again(source: Path) -> None:
    world = World()
    instance = started(world, mission(source))
    first, again = instance.tick(commit=False), instance.tick()
    assert first is not None
    assert again is not None
    assert first.events == again.events


def test_dead_problems_make_room(source: Path) -> None:
    world = World()
    instance = started(world, mission(source, max_in_flight=4))
    instance.settle()
    for record in list(world.records("problems")):
        world.bury(Bury(record, "deadly"))
    world.bury(Bury(Record(record.partition, 99, b"k", b"no problem"), "undecodable"))
    instance.settle()
    assert len(world.problems("m1")) == 8


def test_a_sample_that_kills_the_trainer_is_not_waited_for(source: Path) -> None:
    world = World()
    instance = started(world, mission(source, budget={"problems": 6}))
    instance.settle()
    group = SampleGroup(
        problem_id="p",
        mission_id="m1",
        policy="main",
        version=0,
        seed=0,
        source={"problems-0": (0, 1)},
    )
    deadly = Record(Partition("samples", 1), 3, b"k", group.to_bytes())
    world.bury(Bury(deadly, "deadly"))
    world.learn("main", 5)
    instance.settle()
    assert world.reports("drained")


def test_a_dead_sample_that_is_sent_again_is_waited_for_again(source: Path) -> None:
    world = World()
    instance = started(world, mission(source, budget={"problems": 6}))
    instance.settle()
    # The trainer lists what it buries, so the version accounts for it.
    letter = world.bury(Bury(Record(Partition("samples", 1), 3, b"k", b"sample"), "unreadable"))
    fields = {"letter": letter.at, "origin": "samples[1]@3", "run": "r"}
    world.publish(DeadLetterResolution(action="requeued", policy="main", **fields))
    world.learn("main", 6)
    instance.settle()
    assert not world.reports("drained")
    world.learn("main", 1)
    instance.settle()
    assert world.reports("drained")


@pytest.mark.parametrize(
    ("action", "origin", "policy"),
    [
        ("dropped", "samples[1]@3", "main"),
        ("requeued", "problems[1]@3", "main"),
        ("requeued", "samples[1]@3", None),
        ("requeued", "elsewhere", "main"),
    ],
)
def test_other_words_on_letters_are_not_waited_for(
    source: Path, action: Any, origin: str, policy: str | None
) -> None:
    world = World()
    instance = started(world, mission(source, budget={"problems": 6}))
    instance.settle()
    fields = {"letter": "dead-letters[0]@0", "origin": origin, "run": "r", "policy": policy}
    world.publish(DeadLetterResolution(action=action, **fields))
    world.learn("main", 6)
    instance.settle()
    assert world.reports("drained")


def test_the_budget_is_kept_and_the_mission_drained(source: Path) -> None:
    world = World()
    instance = started(world, mission(source, budget={"problems": 6}))
    instance.settle()
    assert len(world.problems("m1")) == 6
    assert not world.reports("drained")
    world.learn("main", 6)
    instance.settle()
    (report,) = world.reports("drained")
    assert (report.problems, report.version) == (6, world.events(WeightVersion)[-1].version)


def test_the_end_is_said_once_and_again_only_when_aborted(source: Path) -> None:
    world = World()
    instance = started(world, mission(source, budget={"problems": 6}))
    instance.settle()
    world.learn("main", 6)
    instance.catch_up()
    aborted, said = instance.tick(commit=False), instance.tick()
    assert aborted is not None
    assert said is not None
    assert aborted.events == said.events == world.reports("drained")
    assert instance.tick() is None
    instance.settle()
    assert len(world.reports("drained")) == 1


def test_a_record_that_is_read_again_counts_once(source: Path) -> None:
    world = World()
    instance = started(world, mission(source))
    instance.settle()
    for topic in ("problems", "missions"):
        for record in world.records(topic):
            instance.provider.observe(record)
    world.learn("main", 8)
    instance.settle()
    assert len(world.problems("m1")) == 16


def test_an_open_step_is_asked_to_close_when_nothing_moves(source: Path) -> None:
    world = World()
    instance = started(world, mission(source))
    instance.settle()
    world.publish(control("end"))
    closes = []
    for learnt in (0, 0, 2, 0, 0, 0):
        if learnt:
            world.learn("main", learnt)
        instance.settle()
        closes.append(world.closes())
        world.now += CLOSE_EVERY_S
    # Learning two groups is movement, after which the wait begins anew.
    assert closes == [0, 1, 1, 2, 3, 4]
    world.refuse("main", 6)
    instance.settle()
    assert [r.problems for r in world.reports("drained")] == [8]


def test_pause_resume_and_cancel(source: Path) -> None:
    world = World()
    instance = started(world, mission(source))
    instance.settle()
    world.publish(control("pause"))
    world.learn("main", 8)
    instance.settle()
    assert len(world.problems("m1")) == 8
    world.publish(control("resume"))
    instance.settle()
    assert len(world.problems("m1")) == 16
    world.publish(control("cancel"))
    world.publish(control("resume"))
    world.learn("main", 8)
    instance.settle()
    assert len(world.problems("m1")) == 16
    assert [r.problems for r in world.reports("drained")] == [16]


def test_missions_of_a_policy_run_one_after_the_other(source: Path) -> None:
    world = World()
    instance = started(world, mission(source, budget={"problems": 4}))
    world.publish(mission(source, "m2", budget={"problems": 4}))
    world.publish(mission(source, "m3"))
    world.publish(control("cancel", "m3"))
    instance.settle()
    assert [len(world.problems(m)) for m in ("m1", "m2")] == [4, 0]
    # One that never began has nothing to wait for.
    assert [r.mission_id for r in world.reports("drained")] == ["m3"]
    world.publish(control("pause", "m1"))
    world.learn("main", 4)
    instance.settle()
    assert [len(world.problems(m)) for m in ("m1", "m2")] == [4, 4]


def test_a_paused_mission_lets_others_pass_only_before_it_began(source: Path) -> None:
    world = World()
    world.publish(mission(source))
    world.publish(control("pause"))
    world.publish(mission(source, "m2"))
    instance = running(world)
    instance.settle()
    assert [len(world.problems(m)) for m in ("m1", "m2")] == [0, 8]
    world.publish(control("resume"))
    world.publish(control("pause", "m2"))
    world.learn("main", 8)
    instance.settle()
    assert [len(world.problems(m)) for m in ("m1", "m2")] == [0, 8]


def test_policies_do_not_wait_for_each_other(source: Path) -> None:
    world = World()
    world.publish(mission(source))
    world.publish(mission(source, "m2", policy="other"))
    instance = running(world)
    instance.settle()
    assert [len(world.problems(m)) for m in ("m1", "m2")] == [8, 8]


def test_a_source_that_changed_ends_the_mission(source: Path) -> None:
    world = World()
    started(world, mission(source)).settle()
    questions(source, 17)
    world.learn("main", 8)
    successor = running(world)
    successor.settle()
    (report,) = world.reports("rejected")
    assert "the source has changed since the mission was prepared" in report.reason
    assert len(world.problems("m1")) == report.problems == 8
    assert [r.problems for r in world.reports("drained")] == [8]


def test_a_source_that_is_gone_ends_the_mission(source: Path) -> None:
    world = World()
    started(world, mission(source)).settle()
    source.unlink()
    world.learn("main", 4)
    successor = running(world)
    successor.catch_up()
    assert successor.tick() is not None
    assert successor.tick() is None
    (report,) = world.reports("rejected")
    assert "No such file" in report.reason
    world.learn("main", 4)
    running(world).settle()
    assert len(world.reports("drained")) == 1


# -- under the driver -----------------------------------------------------------------------


def test_the_driver_feeds_each_index_once_whatever_the_commit_does(source: Path) -> None:
    log, store = MemoryLog(), MemoryStore()
    log.provision(list(TOPICS.values()))
    publish(log, mission(source, max_in_flight=16, budget={"problems": 30}))
    faults = ["none", "abort_next", "fail_next_commit", "lose_next_commit_reply"] * 2
    for turn, fault in enumerate(faults):
        provider = ProblemProvider(grpo_only, character_folder, clock=lambda: 0.0)
        driver = Driver(provider, log, store, f"i{turn % 2}", sleep=lambda _: None)
        for _ in range(30):
            driver.step()
        if fault != "none":
            setattr(log.faults, fault, 1)
        groups = len(list(read("problems", log=log)))
        log.append([message(weight_version("main", Totals(groups=groups)))])
        for _ in range(30):
            driver.step()
        driver.close()
        log.expire(f"i{turn % 2}")
        log.deliver_late()
    events = [record.event for record in read("problems", log=log)]
    assert sorted(e.index for e in events if isinstance(e, Problem)) == list(range(30))
    reports = [record.event for record in read("missions", log=log)]
    stages = [e.stage for e in reports if isinstance(e, MissionReport)]
    assert stages == ["prepared", "drained"]


# -- any interleaving -----------------------------------------------------------------------


class Interleaved(RuleBasedStateMachine):
    """Ticks, aborts, learning, dead letters, restarts and reading in any order."""

    source: Path

    @initialize(
        limit=st.integers(4, 12),
        batch=st.integers(1, 14),
        step=st.integers(1, 4),
        budgets=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    )
    def begin(self, limit: int, batch: int, step: int, budgets: list[int]) -> None:
        self.world, self.limit, self.step = World(), limit, step
        self.missions = {}
        for number, budget in enumerate(budgets):
            submitted = mission(
                self.source,
                f"m{number}",
                policy="b" if number == 1 else "a",
                rollout={"problems_per_batch": batch, "max_tokens": 4},
                training={"groups_per_upload": step},
                budget={"problems": budget},
                max_in_flight=limit,
            )
            self.missions[submitted.mission_id] = submitted
            self.world.publish(submitted)
        self.dead: list[Record] = []
        self.requeued = 0
        self.instance = running(self.world)

    def flying(self, policy: str) -> int:
        """Problems on their way, by the log itself."""
        emitted: int = sum(p.policy == policy for p in self.world.events(Problem))
        dead: int = sum(getattr(r.event, "policy", "") == policy for r in self.dead)
        totals = self.world.totals.get(policy)
        accounted = totals.groups if totals else 0
        return emitted - dead - accounted

    @rule()
    def work(self) -> None:
        try:
            self.instance.work()
        except Unready:
            self.instance.catch_up("missions")

    @rule(commit=st.booleans())
    def tick(self, commit: bool) -> None:
        self.instance.tick(commit)

    @rule(data=st.data(), count=st.integers(1, 4))
    def read(self, data: st.DataObject, count: int) -> None:
        unread = self.instance.unread()
        if unread:
            self.instance.observe(data.draw(st.sampled_from(unread)), count)

    @rule(policy=st.sampled_from("ab"), share=st.floats(0, 1), refused=st.booleans())
    def learn(self, policy: str, share: float, refused: bool) -> None:
        account = self.world.refuse if refused else self.world.learn
        account(policy, round(self.flying(policy) * share))

    @precondition(lambda self: self.flying("a") > 0)
    @rule(data=st.data())
    def bury(self, data: st.DataObject) -> None:
        alive = [r for r in self.world.records("problems") if r not in self.dead]
        alive = [r for r in alive if getattr(r.event, "policy", "") == "a"]
        record = data.draw(st.sampled_from(alive))
        self.dead.append(record)
        self.world.bury(Bury(record, "deadly"))

    @rule(crash=st.booleans(), data=st.data())
    def restart(self, crash: bool, data: st.DataObject) -> None:
        if crash:
            self.instance.provider.tick()
        self.instance = Instance(self.world)
        for partition in data.draw(st.permutations(self.instance.unread())):
            if partition.topic in ("missions", "problems"):
                self.instance.observe(partition, 10_000)
        self.instance.take_over()

    @rule(action=st.sampled_from(["pause", "resume"]), number=st.integers(0, 2))
    def order(self, action: str, number: int) -> None:
        if f"m{number}" in self.missions:
            self.world.publish(control(action, f"m{number}"))

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @invariant()
    def no_gap_nothing_twice_never_too_many(self) -> None:
        for id_, submitted in self.missions.items():
            problems = self.world.problems(id_)
            assert [p.index for p in problems] == list(range(len(problems)))
            assert len({p.problem_id for p in problems}) == len(problems)
            assert not any(is_heldout(p.question, 0.25) for p in problems)
            assert len(problems) <= (submitted.budget.problems or 0)
        assert all(self.flying(policy) <= self.limit for policy in "ab")
        reported = [(r.stage, r.mission_id) for r in self.world.events(MissionReport)]
        assert len(set(reported)) == len(reported)

    def teardown(self) -> None:
        """Whatever happened, a fair world brings every mission to its end."""
        if not hasattr(self, "missions"):
            return
        for id_ in self.missions:
            self.world.publish(control("resume", id_))
        for _ in range(600):
            closes = self.world.closes()
            self.instance.settle()
            for policy in "ab":
                flying = self.flying(policy)
                if flying >= self.step or self.world.closes() > closes:
                    self.world.learn(policy, min(flying, self.step))
            self.world.now += 1
        self.no_gap_nothing_twice_never_too_many()
        drained = {r.mission_id: r.problems for r in self.world.reports("drained")}
        assert drained == {m: s.budget.problems for m, s in self.missions.items()}


@pytest.mark.slow
def test_any_interleaving(tmp_path: Path) -> None:
    class Here(Interleaved):
        source = questions(tmp_path / "sums.jsonl")

    here = Here.TestCase
    here.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    here("runTest").runTest()


def test_the_world_of_these_tests_can_fail(source: Path) -> None:
    """A provider that forgets what it emitted would be caught."""
    world = World()
    instance = started(world, mission(source))
    instance.tick()
    instance.provider.assigned([next(world.records("missions")).partition])
    instance.tick()
    indices = [p.index for p in world.problems("m1")]
    assert len(indices) != len(set(indices))


def test_a_heldout_file_is_the_same_bytes_every_time(source: Path) -> None:
    refs: set[ObjectRef | None] = set()
    for _ in range(2):
        world = World()
        started(world, mission(source))
        refs.add(world.reports("prepared")[0].heldout)
    (ref,) = refs
    assert ref is not None
    assert ref.sha256 != SHA
    assert json.loads(world.store.get(ref).splitlines()[0])["mission_id"] == "m1"
