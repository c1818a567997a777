"""Episodes of environments: seeds, ends, what is recorded, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_world import SIZE, TASK, acting, fresh
from point_mass import STEPS

from schemas.environments import EnvironmentTask
from schemas.missions import NewPolicy
from streams.learning.control.environments import (
    EnvironmentUnavailable,
    describe,
    make_environment,
    policy_folder,
)
from streams.learning.control.episodes import (
    BadEpisodes,
    Episodes,
    dump_episodes,
    joined,
    load_episodes,
)
from streams.learning.control.mlp import BadPolicy, MlpPolicy
from streams.learning.engines.counters import normals, permutation
from streams.learning.engines.gymnasium import EnvironmentFault, GymnasiumEngine

RESETS, NOISES = [11, 12, 13, 14], [21, 22, 23, 24]
ENDS = EnvironmentTask(id="PointMass-v0", make={"wall": 0.6})
"""Some of its episodes end by themselves, at different steps; the others by the time limit."""


@pytest.fixture
def policy(tmp_path: Path) -> MlpPolicy:
    return acting(fresh(tmp_path, size=NewPolicy(hidden=[16], log_std=0.5)))


def play(policy: MlpPolicy, task: EnvironmentTask = TASK, **seeds: Any) -> Episodes:
    engine = GymnasiumEngine(make_environment)
    return engine.play(policy, task, seeds.get("resets", RESETS), seeds.get("noises", NOISES))


def by_hand(policy: MlpPolicy, task: EnvironmentTask, reset: int, noise: int) -> list[Any]:
    """One episode as the environment has it alone: (observation, action, reward) and the end."""
    env = make_environment(task)
    seen, _ = env.reset(seed=reset)
    rows: list[Any] = []
    ended = cut = False
    while not (ended or cut):
        obs = np.array([seen], dtype=np.float32)
        z = normals(np.array([noise], dtype=np.uint64), len(rows), 1)
        action, _ = policy.drawn(policy.mean(obs), z)
        seen, reward, ended, cut, _ = env.step(policy.set_points(action)[0])
        rows.append((obs[0], action[0], reward))
    env.close()
    return [*rows, (seen, ended)]


def test_every_episode_is_what_the_environment_alone_gives(policy: MlpPolicy) -> None:
    episodes = play(policy, ENDS)
    assert 0 < episodes.terminated.sum() < 4 and len(set(episodes.lengths.tolist())) > 2
    for i, part in enumerate(episodes.parts()):
        *rows, (last, ended) = by_hand(policy, ENDS, RESETS[i], NOISES[i])
        assert len(rows) == episodes.lengths[i] and ended == episodes.terminated[i]
        assert np.allclose(episodes.obs[part], [obs for obs, _, _ in rows], atol=1e-5)
        assert np.allclose(episodes.actions[part], [a for _, a, _ in rows], atol=1e-5)
        assert np.allclose(episodes.rewards[part], [r for _, _, r in rows], atol=1e-5)
        assert np.allclose(episodes.last_obs[i], last, atol=1e-5)
        assert (episodes.lengths[i] == STEPS) == episodes.truncated[i]


def test_a_group_comes_out_again_to_the_last_bit_whatever_was_played_before(
    policy: MlpPolicy,
) -> None:
    first = dump_episodes(play(policy, ENDS))
    engine = GymnasiumEngine(make_environment)
    engine.play(policy, ENDS, [5] * 6, [6] * 6)
    engine.play(policy, TASK, [7], [8])
    assert dump_episodes(engine.play(policy, ENDS, RESETS, NOISES)) == first
    assert dump_episodes(play(policy, ENDS, noises=[1, *NOISES[1:]])) != first
    assert dump_episodes(play(policy, ENDS, resets=[1, *RESETS[1:]])) != first


def test_reacher_comes_out_again_to_the_last_bit(tmp_path: Path) -> None:
    task = EnvironmentTask(id="Reacher-v5")
    reacher = acting(fresh(tmp_path, task))
    engine = GymnasiumEngine(make_environment)
    first = engine.play(reacher, task, [1, 2, 3], [4, 5, 6])
    assert first.lengths.tolist() == [50] * 3 and first.truncated.all()
    engine.play(reacher, task, [9], [9])
    again = engine.play(reacher, task, [1, 2, 3], [4, 5, 6])
    assert dump_episodes(again) == dump_episodes(first)
    assert dump_episodes(play(reacher, task, resets=[1, 2, 3], noises=[4, 5, 6])) == dump_episodes(
        first
    )


def test_logprobs_are_of_what_was_drawn_before_it_was_clipped(policy: MlpPolicy) -> None:
    episodes = play(policy)
    mean, std = policy.mean(episodes.obs), np.exp(policy.log_std)
    density = np.exp(-0.5 * ((episodes.actions - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    assert np.allclose(episodes.logprobs, np.log(density).sum(-1), atol=1e-4)
    assert (np.abs(episodes.actions) > 1).any()
    points = policy.set_points(episodes.actions)
    assert points.min() == -0.5 and points.max() == 1.5
    assert np.allclose(policy.set_points(np.zeros((1, 1), np.float32)), 0.5)


def test_noise_is_standard_normal_and_orders_are_orders() -> None:
    noise = np.stack([normals(np.arange(2000, dtype=np.uint64), step, 3) for step in range(10)])
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs(np.corrcoef(noise.reshape(-1, 3).T)[0, 1]) < 0.02
    assert (
        normals(np.array([7], np.uint64), 4, 3) == normals(np.arange(9, dtype=np.uint64), 4, 3)[7]
    ).all()
    assert sorted(permutation(3, 50).tolist()) == list(range(50))
    assert permutation(3, 50).tolist() != permutation(4, 50).tolist()


def test_episodes_survive_their_object(policy: MlpPolicy) -> None:
    episodes = play(policy, ENDS)
    loaded = load_episodes(dump_episodes(episodes))
    assert loaded.returns == episodes.returns
    summary = loaded.summary(ENDS.text)
    assert summary.task == 'PointMass-v0 {"wall": 0.6}'
    assert summary.terminated == episodes.terminated.sum()
    both = joined([episodes, loaded])
    assert both.returns == episodes.returns * 2 and len(both.obs) == 2 * len(episodes.obs)


def broken(episodes: Episodes, **changes: Any) -> bytes:
    return dump_episodes(Episodes(**{**vars(episodes), **changes}))


def test_what_are_no_episodes_is_refused(policy: MlpPolicy) -> None:
    episodes = play(policy)
    nan = episodes.rewards.copy()
    nan[3] = np.nan
    for data, why in (
        (b"nothing", "no episodes"),
        (broken(episodes, rewards=nan), "rewards is not finite"),
        (broken(episodes, obs=episodes.obs[1:]), "obs is float32"),
        (broken(episodes, lengths=episodes.lengths + 1), "4 episodes with 52 of 48 steps"),
        (broken(episodes, actions=episodes.actions.astype(np.float64)), "actions is float64"),
        (broken(episodes, last_obs=episodes.last_obs[:, :1]), "of another shape"),
    ):
        with pytest.raises(BadEpisodes, match=why):
            load_episodes(data)


def test_an_environment_that_fails_is_named_and_made_anew(policy: MlpPolicy) -> None:
    engine = GymnasiumEngine(make_environment)
    fails = EnvironmentTask(id="PointMass-v0", make={"fails_at": 0.5})
    with pytest.raises(EnvironmentFault, match="the point has left the line"):
        engine.play(policy, fails, RESETS, NOISES)
    assert engine.play(policy, TASK, RESETS, NOISES).returns == play(policy).returns


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ({"id": "NoSuchThing-v0"}, "NoSuchThing"),
        ({"id": "Reacher-v5", "make": {"wheels": 4}}, "wheels"),
        ({"id": "some_module:Thing-v0"}, "RALO_ALLOW_LOCAL_CODE"),
        ({"id": "CartPole-v1"}, "action space is Discrete"),
        ({"id": "PointMass-v0", "make": {"max_episode_steps": -1}}, "no time limit"),
    ],
)
def test_where_no_policy_can_act_is_refused(tmp_path: Path, task: Any, why: str) -> None:
    with pytest.raises(EnvironmentUnavailable, match=why):
        policy_folder(SIZE, [EnvironmentTask(**task)], tmp_path)


def test_tasks_of_other_spaces_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnavailable, match="one policy cannot act in both"):
        policy_folder(SIZE, [TASK, EnvironmentTask(id="Reacher-v5")], tmp_path)


def test_a_policy_says_what_its_numbers_are(tmp_path: Path) -> None:
    config = describe(TASK, make_environment(TASK), SIZE)
    assert config.observation == ["x_m", "v_mps"] and config.action == ["action_0"]
    assert (config.low, config.high, config.hidden) == ([-0.5], [1.5], [16])
    first, again = tmp_path / "a", tmp_path / "b"
    policy_folder(SIZE, [TASK, ENDS], first)
    policy_folder(SIZE, [TASK], again)
    for name in ("config.json", "model.safetensors"):
        assert (first / name).read_bytes() == (again / name).read_bytes()


def test_tensors_of_another_policy_are_refused(policy: MlpPolicy, tmp_path: Path) -> None:
    torch_policy = fresh(tmp_path)
    tensors = {n: t.numpy().copy() for n, t in torch_policy.state_dict().items()}
    for name, change, why in (
        ("log_std", np.zeros(2, np.float32), "log_std is float32"),
        ("obs_var", np.full(2, -1, np.float32), "obs_var is negative"),
        ("actor.0.bias", np.full(16, np.nan, np.float32), "actor.0.bias is not finite"),
    ):
        with pytest.raises(BadPolicy, match=why):
            MlpPolicy(torch_policy.config, {**tensors, name: change})
    del tensors["critic.0.bias"]
    MlpPolicy(torch_policy.config, tensors)
