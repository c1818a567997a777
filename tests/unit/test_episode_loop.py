"""Control policies through the whole loop of one process: learnt, evaluated, proved, audited."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_world import episode_loop, episode_mission
from learning_steps import finished
from loop_world import PROOF, Loop

from consumers.audit.log import audit_log
from consumers.audit.store import StoreChecker
from consumers.experience import experience
from consumers.progress import TOPICS, Progress
from consumers.read import complete
from consumers.recompute import NotReproduced, recompute_upload, recompute_version
from consumers.weights import export
from infra import envelope
from infra.cli.live import line, table
from schemas.ids import digest, is_heldout
from schemas.learning import (
    DeadLetter,
    Evaluation,
    GradientUpload,
    Problem,
    SampleGroup,
    WeightVersion,
)
from schemas.missions import MissionReport
from schemas.records import Record
from streams.learning.control.environments import make_environment
from streams.learning.control.episodes import dump_episodes
from streams.learning.control.player import Player


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """Fifteen steps of PPO on the point mass, with evaluations."""
    loop = episode_loop(tmp_path_factory.mktemp("loop"), "evaluator")
    loop.submit(episode_mission(count=60, args={"success_return": -5}))
    return loop


def uploads(loop: Loop) -> list[Record]:
    found = loop.records("gradient-chunks")
    return [r for r in found if isinstance(r.event, GradientUpload)]


def test_the_return_on_held_out_seeds_gets_better(learnt: Loop) -> None:
    first, last = learnt.events(Evaluation)
    assert (first.version, last.version, last.final) == (0, 15, True)
    assert first.reward < -11 and last.reward > -5
    (report,) = [r for r in learnt.events(MissionReport) if r.stage == "prepared"]
    assert first.total == last.total == report.heldout_size > 2
    assert first.accuracy < 0.4 < last.accuracy == last.correct / last.total


def test_problems_are_seeds_of_tasks_and_none_is_on_both_sides(learnt: Loop) -> None:
    problems = learnt.events(Problem)
    assert not any(is_heldout(problem.question, 0.2) for problem in problems)
    assert problems[0].question.startswith("PointMass-v0 seed 0.")
    assert problems[0].metadata["environment"] == {"id": "PointMass-v0", "make": {}}


def test_groups_are_episodes_with_a_summary(learnt: Loop) -> None:
    groups = learnt.events(SampleGroup)
    assert len(groups) == 60
    for group in groups:
        assert (group.origin, group.size, group.rollouts) == ("episode", 4, [])
        assert group.episodes.task == "PointMass-v0" and group.episodes.lengths == [12] * 4
    # A problem's second epoch has the same starts and other noise.
    assert len({tuple(group.episodes.returns) for group in groups}) == 60


def test_uploads_are_deltas_and_the_manifest_says_that_no_optimizer_was_asked(
    learnt: Loop,
) -> None:
    for record in uploads(learnt):
        upload = record.event
        assert (upload.kind, upload.local.epochs, upload.weight) == ("delta", 4, 192.0)
        assert upload.deterministic and upload.environment.device == "cpu"
    versions = learnt.events(WeightVersion)
    assert [v.version for v in versions] == list(range(16))
    assert all(v.step.rule == "delta" and v.optimizer == {} for v in versions[1:])
    assert versions[0].files.keys() == {"config.json"}


def test_the_whole_chain_is_made_again_to_the_last_bit(learnt: Loop) -> None:
    records = learnt.records(*PROOF)
    for record in uploads(learnt):
        named = [ref.sha256 for ref in complete(record.event, learnt.store).chunks]
        assert recompute_upload(records, learnt.store, record.at) == named
    for version in range(1, 16):
        found = recompute_version(records, learnt.store, version)
        assert found.keys() == {"model.safetensors"}


def test_every_group_is_played_again_to_the_last_bit(learnt: Loop) -> None:
    player, mission = Player(make_environment), episode_mission(count=60)
    versions = {v.version: v for v in learnt.events(WeightVersion)}
    problems = {p.problem_id: p for p in learnt.events(Problem)}
    for group in learnt.events(SampleGroup)[::7]:
        finished(player.follow(versions[group.version]), learnt.store)
        task, episodes = player.episodes(problems[group.problem_id], mission, group.use)
        assert task == group.episodes.task
        assert digest(dump_episodes(episodes)) == group.episodes_ref.sha256


def altered(records: list[Record], kind: Any, **update: Any) -> list[Record]:
    return [
        replace(r, event=r.event.model_copy(update=update)) if isinstance(r.event, kind) else r
        for r in records
    ]


def test_forged_local_steps_and_states_are_found(learnt: Loop) -> None:
    records, at = learnt.records(*PROOF), uploads(learnt)[3].at
    local = uploads(learnt)[3].event.local.model_copy(update={"steps": 7})
    with pytest.raises(NotReproduced, match=r"its local steps are .*steps=7.* in the log"):
        recompute_upload(altered(records, GradientUpload, local=local), learnt.store, at)
    (shard,) = learnt.events(WeightVersion)[0].shards.values()
    forged = [
        replace(r, event=r.event.model_copy(update={"optimizer": {"optimizer-x": shard}}))
        if isinstance(r.event, WeightVersion) and r.event.version == 4
        else r
        for r in records
    ]
    with pytest.raises(NotReproduced, match="leaves the optimizer's state alone"):
        recompute_version(forged, learnt.store, 4)


def test_the_books_balance(learnt: Loop) -> None:
    report = audit_log(learnt.log, StoreChecker(learnt.store))
    assert report.breaches == [] and report.counts["groups_learnt"] == 60
    assert report.counts["rollouts"] == 240
    kinds = {i.name: i.checked for i in report.invariants}
    assert kinds["upload-kind"] == 15


def test_missing_episodes_are_a_bad_reference(tmp_path: Path) -> None:
    loop = episode_loop(tmp_path)
    loop.submit(episode_mission(count=4))
    ref = loop.events(SampleGroup)[1].episodes_ref
    del loop.store.objects[ref.key]
    assert audit_log(loop.log, StoreChecker(loop.store)).breaches == ["reference"]


def test_progress_shows_returns(learnt: Loop) -> None:
    progress = Progress(mission="m")
    for record in learnt.records(*(topic.name for topic in TOPICS)):
        progress.observe(record)
    assert progress.acts and progress.samples == 240
    first, last = progress.returns
    assert first.value < -11 and last.value > -5
    assert f"held-out {last.value:.2f}" in line(progress) and "return -" in line(progress)
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as shown:
        console.print(table(progress))
    # The worst is the lowest bar, the best the highest.
    (row,) = [text for text in shown.get().splitlines() if "held-out return" in text]
    assert " █ " in row and f"{last.value:.2f}" in row


def test_a_version_is_exported_as_a_folder_that_a_mission_can_begin_with(
    learnt: Loop, tmp_path: Path
) -> None:
    head = learnt.events(WeightVersion)[-1]
    export(learnt.store, head, tmp_path / "arm", lambda name: None)
    loop = episode_loop(tmp_path, "evaluator")
    loop.submit(episode_mission(count=4, model={"base": str(tmp_path / "arm"), "mlp": None}))
    # The same policy, noise and held-out seeds: what was learnt there is where it starts here.
    assert loop.events(Evaluation)[0].reward == learnt.events(Evaluation)[-1].reward


# -- experience -----------------------------------------------------------------------------


def test_experience_is_read_again_by_version_and_offset(learnt: Loop) -> None:
    where = {"log": learnt.log, "store": learnt.store}
    everything = list(experience(**where, policy="p"))
    assert len(everything) == 60 and not list(experience(**where, policy="other"))
    for one in everything:
        assert np.allclose(one.episodes.returns, one.group.episodes.returns)
        assert one.episodes.obs.shape == (48, 2)
    late = list(experience(**where, mission="m", versions=range(10, 15)))
    assert {one.group.version for one in late} == set(range(10, 15)) and len(late) == 20
    good = list(experience(**where, where=lambda group: max(group.episodes.returns) > -5))
    assert 0 < len(good) < 60
    middle = everything[30]
    rest = [one.at for one in experience(**where, start=middle.after)]
    partition = middle.record.partition
    before = [
        one.at
        for one in everything
        if one.record.partition == partition and one.record.offset <= middle.record.offset
    ]
    assert sorted(rest + before) == sorted(one.at for one in everything)


# -- what cannot run, and what breaks -------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"problems": {"name": "NoSuchThing-v0"}}, "NoSuchThing"),
        ({"problems": {"name": "os:Thing-v0"}}, "RALO_ALLOW_LOCAL_CODE"),
        ({"problems": {"args": {"tsks": []}}}, "problems.args.tsks"),
        ({"problems": {"args": {"tasks": [{"id": "Reacher-v5"}, {}]}}}, "one policy cannot act"),
        ({"algorithm": {"name": "grpo", "settings": {}}}, "grpo learns from tokens"),
        ({"model": {"base": "/no/such/folder"}}, "no control policy, for it has no config.json"),
    ],
)
def test_a_mission_that_cannot_run_is_rejected_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    loop = episode_loop(tmp_path)
    loop.submit(episode_mission(**changes))
    (report,) = loop.events(MissionReport)
    assert report.stage == "rejected" and why in report.reason
    (letter,) = loop.events(DeadLetter)
    assert why in letter.detail


def test_an_environment_that_fails_costs_its_problem_alone(tmp_path: Path) -> None:
    loop = episode_loop(tmp_path)
    tasks = [{}, {"make": {"fails_at": -9}}]
    loop.submit(episode_mission(count=12, args={"tasks": tasks}))
    letters = loop.events(DeadLetter)
    failing = [p for p in loop.events(Problem) if "fails_at" in p.question]
    assert 0 < len(letters) == len(failing) < 12
    assert {letter.reason for letter in letters} == {"environment"}
    assert all("the point has left the line" in letter.detail for letter in letters)
    assert len(loop.events(SampleGroup)) == 12 - len(failing)
    assert audit_log(loop.log, StoreChecker(loop.store)).ok


def test_restarted_processes_lose_and_repeat_nothing(tmp_path: Path) -> None:
    loop = episode_loop(tmp_path)
    loop.log.append([envelope.message(episode_mission(count=24))])
    for name in ("sampler", "trainer", "aggregator", "provider") * 3:
        for driver in list(loop.drivers.values()) * 2:
            driver.step()
        loop.start(name)
    loop.run()
    report = audit_log(loop.log, StoreChecker(loop.store))
    assert report.ok and report.counts["groups_learnt"] == 24
    records = loop.records(*PROOF)
    head = loop.events(WeightVersion)[-1].version
    assert recompute_version(records, loop.store, head)
    assert all(recompute_upload(records, loop.store, r.at) for r in uploads(loop))


def test_several_environments_are_learnt_by_one_policy(tmp_path: Path) -> None:
    loop = episode_loop(tmp_path)
    tasks = [{"make": {"goal": 2.0}}, {"make": {"goal": 1.0}}]
    loop.submit(episode_mission(count=16, args={"tasks": tasks}, algorithm={"name": "reptile"}))
    assert {g.episodes.task for g in loop.events(SampleGroup)} == {
        'PointMass-v0 {"goal": 1.0}',
        'PointMass-v0 {"goal": 2.0}',
    }
    stats = [r.event.stats for r in uploads(loop)]
    assert max(one["tasks"] for one in stats) == 2
    records = loop.records(*PROOF)
    assert all(recompute_upload(records, loop.store, r.at) for r in uploads(loop))
