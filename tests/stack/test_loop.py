"""The loop end to end as real processes: learns, survives kills, ends; the books always balance."""

import os
import random
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from containers import Servers
from running import LEARNERS, Loop, running, small_mission, until

from infra import supervision
from infra.embedded.stack import Endpoints

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(1200)]


def assert_clean(loop: Loop, mission_id: str) -> None:
    report = loop.audit()
    broken = {i.name: i.first for i in report.invariants if i.broken}
    assert not broken
    assert (report.lost, report.duplicated, report.bad_refs) == (0, 0, 0)
    assert (report.in_flight.problems, report.in_flight.samples, report.in_flight.uploads) == (
        0,
        0,
        0,
    ), loop.last_words()


def test_a_mission_runs_to_its_end_and_is_evaluated(
    stack: Endpoints, namespace: str, tmp_path: Path
) -> None:
    mission = small_mission("plain", tmp_path)
    with running(stack, namespace, tmp_path) as loop:
        loop.submit(mission)
        result = loop.until_result("plain", 240)
    assert (result.outcome, result.problems, result.samples) == ("budget", 400, 1600)
    assert result.final_version == loop.versions("plain")[-1].version >= 50
    assert result.heldout_before is not None and result.heldout_after is not None
    assert_clean(loop, "plain")


def test_two_samplers_and_two_trainers_share_the_work(
    stack: Endpoints, namespace: str, tmp_path: Path
) -> None:
    mission = small_mission("shared", tmp_path, budget={"problems": 1600}, max_in_flight=64)
    with running(stack, namespace, tmp_path, sampler=2, trainer=2) as loop:
        loop.submit(mission)
        loop.until_result("shared", 400)
    assert_clean(loop, "shared")
    from consumers.read import read
    from schemas.learning import GradientUpload

    uploads = [r.event for r in read("gradient-chunks", log=loop.log, policy="shared")]
    by_trainer = [u.trainer for u in uploads if isinstance(u, GradientUpload) and u.chunks]
    shares = {name: by_trainer.count(name) / len(by_trainer) for name in set(by_trainer)}
    assert len(shares) == 2 and min(shares.values()) >= 0.3, shares


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["sampler", "trainer"])
def test_a_run_goes_on_when_one_of_two_is_gone_for_good(
    stack: Endpoints, namespace: str, tmp_path: Path, kind: str
) -> None:
    mission = small_mission("gone", tmp_path, budget={"problems": 800}, max_in_flight=64)
    with running(stack, namespace, tmp_path, sampler=2, trainer=2) as loop:
        loop.submit(mission)
        until(lambda: len(loop.versions("gone")) > 10, 240, loop.last_words)
        pid = loop.processes()[f"{kind}-1@gone"]["pid"]
        supervision.write_scale(loop.config, {kind: 1})
        os.kill(pid, signal.SIGKILL)
        loop.until_result("gone", 300)
    assert_clean(loop, "gone")


def died(loop: Loop, kinds: Iterable[str]) -> bool:
    """Whether a process of each kind was killed."""
    rows = loop.processes().items()
    return all(any(n.startswith(k) and r["last_exit"] == -9 for n, r in rows) for k in kinds)


@pytest.mark.chaos
@pytest.mark.parametrize("point", ["sent_offsets", "committed"])
def test_death_at_a_named_point_loses_nothing(
    stack: Endpoints, namespace: str, tmp_path: Path, point: str
) -> None:
    name = point.replace("_", "-")
    mission = small_mission(name, tmp_path, budget={"problems": 600})
    with running(stack, namespace, tmp_path, crash_at=f"{point}:12") as loop:
        loop.submit(mission)
        until(lambda: died(loop, (*LEARNERS, "evaluator")), 300, loop.last_words)
        loop.stop()
        loop.start()
        loop.until_result(name, 300)
    assert_clean(loop, name)


@pytest.mark.chaos
def test_death_after_an_object_was_put_loses_nothing(
    stack: Endpoints, namespace: str, tmp_path: Path
) -> None:
    """Groups of so many completions are objects; the provider puts only while it prepares."""
    mission = small_mission(
        "after-put",
        tmp_path,
        model={"new": {"positions": 16}},
        rollout={"group_size": 448, "max_tokens": 8, "problems_per_batch": 4},
        training={"groups_per_upload": 4},
        budget={"problems": 64},
    )
    with running(stack, namespace, tmp_path, crash_at="after_put:2") as loop:
        loop.submit(mission)
        until(lambda: died(loop, ["provider"]), 120, loop.last_words)
        loop.stop()
        loop.start("after_put:12")
        until(lambda: died(loop, LEARNERS[1:]), 300, loop.last_words)
        loop.stop()
        loop.start()
        loop.until_result("after-put", 300)
    assert_clean(loop, "after-put")


@pytest.mark.chaos
def test_random_kills_and_restarts_of_the_servers_lose_nothing(
    stack: Endpoints, servers: Servers, namespace: str, tmp_path: Path
) -> None:
    seed = 20_261_121
    rng = random.Random(seed)
    mission = small_mission("kills", tmp_path, budget={"problems": 4000})
    deaths = dict.fromkeys(LEARNERS, 0)
    with running(stack, namespace, tmp_path) as loop:
        loop.submit(mission)
        until(lambda: len(loop.versions("kills")) > 3, 240, loop.last_words)
        restarts = [("kafka", 3), ("minio", 6)]
        round_ = 0
        while min(deaths.values()) < 5:
            round_ += 1
            for kind in rng.sample(LEARNERS, 2):
                deaths[kind] += loop.kill(kind)
                time.sleep(rng.uniform(0.0, 2.0))
            for server, at in restarts:
                if round_ == at:
                    servers.kill(server)
                    servers.up(lambda line: None)
            seen = until(lambda: len(loop.versions("kills")), 60, loop.last_words)
            until(
                lambda seen=seen: len(loop.versions("kills")) > seen or loop.result("kills"),
                180,
                loop.last_words,
            )
            if loop.result("kills"):
                break
        loop.until_result("kills", 600)
    assert min(deaths.values()) >= 5, f"seed {seed}: the mission ended too early: {deaths}"
    report = loop.audit()
    assert_clean(loop, "kills")
    assert report.unused_share <= 0.05, report
