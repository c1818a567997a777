"""Deltas: what a trainer makes of episodes, what an aggregator makes of deltas."""

from pathlib import Path
from typing import Any

import pytest
import torch
from episode_world import TASK, acting, episode_mission, fresh
from learning_steps import TOTAL, gradient
from learning_world import world
from safetensors.torch import save
from test_gymnasium_engine import play

from schemas.learning import EpisodesSummary, LocalSteps, SampleGroup, UploadsRefused, WeightVersion
from schemas.missions import AlgorithmSpec
from streams.learning.control.episodes import Episodes
from streams.learning.control.torch_mlp import TorchPolicy
from streams.learning.deltas import inner_of, normaliser_share, upload_delta
from streams.learning.environment import environment
from streams.learning.gradients import Gradient, GradientError
from streams.learning.layout import FlatLayout, read_layout

# -- the trainer's part ---------------------------------------------------------------------


def base(version: int = 0, **steps: int) -> WeightVersion:
    return WeightVersion(
        policy="p",
        version=version,
        kind="base",
        mission_id="m",
        algorithm=AlgorithmSpec(),
        code_sha256="0" * 64,
        files={},
        shards={},
        layout={"parameters": 1, "chunk_elements": 1, "sha256": "0" * 64},
        mission_steps=steps,
        environment=environment(),
    )


def layout_of(policy: TorchPolicy) -> FlatLayout:
    return read_layout({"model.safetensors": save(policy.state_dict())})


def groups_of(policy: TorchPolicy, count: int = 2) -> list[tuple[SampleGroup, Episodes]]:
    played = []
    for number in range(count):
        episodes = play(acting(policy), TASK, resets=[number, 50 + number], noises=[number, 7])
        group = SampleGroup(
            problem_id=f"q{number}",
            mission_id="m",
            policy="p",
            origin="episode",
            episodes=episodes.summary(TASK.text),
            version=0,
            source={},
        )
        played.append((group, episodes))
    return played


def delta_of(policy: TorchPolicy, at: WeightVersion | None = None, **changes: Any) -> Gradient:
    mission = episode_mission(**changes)
    return upload_delta(policy, layout_of(policy), mission, at or base(), groups_of(policy))


def test_a_delta_is_what_local_steps_add_to_the_base_statistics_included(tmp_path: Path) -> None:
    policy = fresh(tmp_path)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    found = delta_of(policy)
    # The policy holds the base as before.
    assert all(torch.equal(before[name], t) for name, t in policy.state_dict().items())
    assert found.local == LocalSteps(
        steps=4,
        epochs=4,
        minibatch=64,
        seed=found.local.seed if found.local else 0,
        learning_rate=3e-3,
    )
    assert found.weight == 48 and found.stats["length_mean"] == 12
    slots = {slot.name: slot for slot in layout_of(policy).slots}
    assert slots.keys() == before.keys()
    assert float(found.vector[slots["obs_count"].start]) == 48
    for name in ("actor.0.weight", "critic.1.bias", "log_std", "obs_mean", "obs_var"):
        assert bool((found.vector[slots[name].start : slots[name].stop] != 0).any()), name


def test_a_delta_is_made_of_its_groups_in_their_order_alone(tmp_path: Path) -> None:
    policy = fresh(tmp_path)
    first, again = delta_of(policy), delta_of(policy)
    assert torch.equal(first.vector, again.vector) and first.local == again.local
    other = upload_delta(
        policy, layout_of(policy), episode_mission(), base(), groups_of(policy)[::-1]
    )
    assert not torch.equal(first.vector, other.vector)


def test_the_inner_rate_follows_the_missions_schedule() -> None:
    mission = episode_mission(
        training={"schedule": "linear", "total_steps": 10, "learning_rate": 0.1}
    )
    rates = [inner_of(mission, base(5, m=steps), ["g"]).learning_rate for steps in (0, 5, 9)]
    assert rates == pytest.approx([0.1, 0.05, 0.01])
    assert inner_of(mission, base(9, other=9), ["g"]).learning_rate == pytest.approx(0.1)
    assert inner_of(mission, base(), ["g"]).seed != inner_of(mission, base(), ["h"]).seed
    assert inner_of(mission, base(), ["g"]).normaliser_share == normaliser_share(4) == 1 / 16


def test_a_delta_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    policy = fresh(tmp_path)
    with pytest.raises(GradientError, match="the delta is not finite"):
        delta_of(policy, training={"learning_rate": 1e38, "clip_norm": 1e38})
    assert all(bool(t.isfinite().all()) for t in policy.state_dict().values())


def test_another_policys_layout_is_refused(tmp_path: Path) -> None:
    policy = fresh(tmp_path)
    layout = read_layout({"model.safetensors": save({"actor.0.weight": torch.zeros(3, 3)})})
    with pytest.raises(GradientError, match=r"no tensor actor.0.weight \(3, 3\)"):
        upload_delta(policy, layout, episode_mission(), base(), groups_of(policy))


def test_a_group_knows_its_size_by_its_summary() -> None:
    summary = EpisodesSummary(task="t", returns=[1.0, 2.0], lengths=[3, 4], terminated=0)
    group = SampleGroup(
        problem_id="q", mission_id="m", policy="p", episodes=summary, version=0, source={}
    )
    assert group.size == 2


# -- the aggregator's part ------------------------------------------------------------------


def test_the_mean_of_deltas_is_added_at_the_outer_rate(tmp_path: Path) -> None:
    at = world(tmp_path, uploads_per_step=2, outer_rate=0.25)
    before = at.weights(at.head())
    one, two = gradient(0), gradient(4)
    at.upload(0, (0, 4), kind="delta", weight=100.0)
    at.upload(0, (4, 8), kind="delta", weight=300.0)
    at.run()
    head = at.head()
    mean = one * 0.25 + two * 0.75
    assert torch.allclose(at.weights(head), before + 0.25 * mean, atol=1e-6)
    assert head.step is not None
    assert (head.step.rule, head.step.step, head.step.clip_factor) == ("delta", 0, 1.0)
    assert head.step.learning_rate == 0.25
    assert head.step.grad_norm == pytest.approx(float(mean.norm()), rel=1e-5)
    assert head.optimizer == {} and head.mission_steps == {"m": 1}
    assert len(before) == TOTAL


def test_a_delta_of_one_upload_at_rate_one_lands_on_what_the_trainer_had(tmp_path: Path) -> None:
    at = world(tmp_path)
    before = at.weights(at.head())
    at.upload(0, (0, 4), kind="delta")
    at.run()
    assert torch.equal(at.weights(at.head()), before + gradient(0))


def test_deltas_leave_the_optimizer_of_earlier_gradients_alone(tmp_path: Path) -> None:
    at = world(tmp_path)
    at.upload(0, (0, 4))
    at.run()
    first = at.head()
    at.upload(1, (4, 8), kind="delta")
    at.run()
    second = at.head()
    assert second.optimizer == first.optimizer != {}
    assert second.step and second.step.step == 1
    at.restart()
    at.upload(2, (8, 12))
    at.run()
    third = at.head()
    assert third.step and (third.step.rule, third.step.step) == ("adamw", 2)
    assert third.optimizer != second.optimizer


def test_a_delta_does_not_join_a_step_of_gradients(tmp_path: Path) -> None:
    at = world(tmp_path, uploads_per_step=2)
    at.upload(0, (0, 4))
    at.upload(0, (4, 8), kind="delta")
    at.upload(0, (8, 12))
    at.run()
    (step,) = at.versions()[1:]
    assert [one.reason for one in step.refused] == ["layout"]
    assert "a delta cannot join the open step" in step.refused[0].detail
    assert len(step.uploads) == 2 and step.totals.refused == 4
    assert not at.events(UploadsRefused)
