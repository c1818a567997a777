"""PPO and its advantages against references written out by hand, and that it really learns."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from episode_world import TASK, acting, episode_mission, fresh
from pydantic import ValidationError

from schemas.ids import derived_seed
from streams.learning.algorithms import WrongKind, algorithm, algorithm_of, names
from streams.learning.algorithms.episodes import Inner, TaskEpisodes
from streams.learning.algorithms.ppo import Ppo, StepBatch, gae, log_density
from streams.learning.control.environments import make_environment
from streams.learning.control.episodes import Episodes
from streams.learning.control.torch_mlp import TorchPolicy
from streams.learning.engines.gymnasium import GymnasiumEngine

INNER = Inner(3e-3, (0.9, 0.999), 1e-5, 0.0, 0.5, seed=1)


def ppo(**settings: Any) -> Ppo:
    made = algorithm("ppo", settings)
    assert isinstance(made, Ppo)
    return made


def play(policy: TorchPolicy, count: int = 8, first: int = 0) -> Episodes:
    engine = GymnasiumEngine(make_environment)
    seeds = range(first, first + count)
    noises = [derived_seed("noise", i) for i in seeds]
    return engine.play(acting(policy), TASK, list(seeds), noises)


def naive_gae(
    rewards: list[float], values: list[float], last: float, gamma: float, lam: float
) -> list[float]:
    """Eq. 14 and 16 as sums: the exponentially weighted mean of all k-step advantages."""
    following = [*values[1:], last]
    deltas = [r + gamma * v2 - v for r, v, v2 in zip(rewards, values, following, strict=True)]
    return [
        sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
        for t in range(len(deltas))
    ]


def test_gae_of_three_steps_by_hand() -> None:
    rewards, values = np.array([1, 2, 3], np.float32), np.array([0.5, 1, 2], np.float32)
    # d = [1 + .5·1 - .5, 2 + .5·2 - 1, 3 + .5·4 - 2] = [1, 2, 3]; gamma·lam = .25
    expected = [1 + 0.25 * (2 + 0.25 * 3), 2 + 0.25 * 3, 3]
    assert gae(rewards, values, 4.0, 0.5, 0.5).tolist() == pytest.approx(expected)
    # By itself it ended: nothing follows, d_3 = 3 - 2 = 1.
    expected = [1 + 0.25 * (2 + 0.25 * 1), 2 + 0.25 * 1, 1]
    assert gae(rewards, values, 0.0, 0.5, 0.5).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0)])
def test_gae_is_the_sum_of_the_paper(gamma: float, lam: float) -> None:
    rng = np.random.default_rng(3)
    rewards, values = rng.normal(size=(2, 30)).astype(np.float32)
    expected = naive_gae(rewards.tolist(), values.tolist(), 0.7, gamma, lam)
    assert gae(rewards, values, 0.7, gamma, lam).tolist() == pytest.approx(expected)


def test_what_follows_the_time_limit_counts_and_what_follows_an_end_does_not(
    tmp_path: Path,
) -> None:
    policy = fresh(tmp_path)
    cut = play(policy, 4)
    assert cut.truncated.all()
    ended = replace(cut, terminated=np.ones(4, np.bool_))
    learner = ppo(normalise_advantages=False, gamma=0.9, gae_lambda=0.8)
    both = [learner.judged(policy, one).advantages.numpy() for one in (cut, ended)]
    with torch.no_grad():
        last = policy.value(policy.normalised(torch.from_numpy(cut.last_obs))).numpy()
        values = policy.value(policy.normalised(torch.from_numpy(cut.obs))).numpy()
    for i, part in enumerate(cut.parts()):
        for advantages, after in zip(both, (float(last[i]), 0.0), strict=True):
            rewards = cut.rewards[part].tolist()
            expected = naive_gae(rewards, values[part].tolist(), after, 0.9, 0.8)
            assert advantages[part].tolist() == pytest.approx(expected, abs=1e-4)
    assert not np.allclose(*both)


def test_advantages_of_one_episode_do_not_leak_into_another(tmp_path: Path) -> None:
    policy = fresh(tmp_path)
    episodes = play(policy, 4)
    changed = episodes.rewards.copy()
    changed[list(episodes.parts())[2]] += 100
    learner = ppo(normalise_advantages=False)
    before = learner.judged(policy, episodes).advantages
    after = learner.judged(policy, replace(episodes, rewards=changed)).advantages
    same = [bool(torch.equal(before[part], after[part])) for part in episodes.parts()]
    assert same == [True, True, False, True]


def batch(ratio: list[float], advantages: list[float], policy: TorchPolicy) -> StepBatch:
    """Rows whose probability under the policy is `ratio` times what it was."""
    rows = len(ratio)
    obs, actions = torch.zeros(rows, 2), torch.full((rows, 1), 0.3)
    with torch.no_grad():
        new = log_density(actions, policy.mean(obs), policy.log_std)
        values = policy.value(obs)
    mu = new - torch.tensor(ratio).log()
    return StepBatch(obs, actions, mu, torch.tensor(advantages), values + 1.0, values - 0.5)


def surrogate_gradient(one: StepBatch, policy: TorchPolicy) -> float:
    policy.zero_grad()
    loss, _ = ppo(value_coefficient=0.0).loss(policy, one)
    loss.backward()
    gradient = policy.actor[-1].bias.grad
    assert gradient is not None
    return float(gradient)


def test_the_clip_stops_what_has_gone_far_enough_and_nothing_else(tmp_path: Path) -> None:
    policy = fresh(tmp_path)
    # (ratio, advantage): whether a gradient is left: arXiv 1707.06347, Figure 1.
    cases = [
        (1.0, 1.0, True),
        (1.19, 1.0, True),
        (1.21, 1.0, False),
        (0.7, 1.0, True),
        (0.81, -1.0, True),
        (0.79, -1.0, False),
        (1.5, -1.0, True),
    ]
    for ratio, advantage, left in cases:
        found = surrogate_gradient(batch([ratio], [advantage], policy), policy)
        assert (found != 0) == left, (ratio, advantage)


def test_the_loss_is_the_papers(tmp_path: Path) -> None:
    policy = fresh(tmp_path)
    one = batch([1.0, 1.5, 0.5, 1.1], [1.0, 2.0, -1.0, -3.0], policy)
    # min(r·A, clip(r)·A) by hand; V is 1 below its target everywhere.
    surrogate = (1.0 + 1.2 * 2 + 0.8 * -1 + 1.1 * -3) / 4
    entropy = float(policy.log_std.detach()) + 0.5 * math.log(2 * math.pi * math.e)
    loss, stats = ppo(entropy=0.1, value_coefficient=0.7).loss(policy, one)
    assert float(loss.detach()) == pytest.approx(-surrogate + 0.7 * 0.5 - 0.1 * entropy, rel=1e-4)
    assert float(stats["clip_fraction"]) == 0.5
    # Clipped to 0.2 from where it was, 0.5 below: V' = V - 0.3, its error 1.3 instead of 1.
    clipped, _ = ppo(value_coefficient=1.0, value_clip=0.2).loss(policy, one)
    plain, _ = ppo(value_coefficient=1.0).loss(policy, one)
    assert float((clipped - plain).detach()) == pytest.approx(0.5 * (1.3**2 - 1), rel=1e-4)


def test_log_density_is_the_gaussians() -> None:
    actions, mean = torch.randn(50, 3), torch.randn(50, 3)
    log_std = torch.tensor([-0.5, 0.1, 0.7])
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions).sum(-1)
    assert torch.allclose(log_density(actions, mean, log_std), expected, atol=1e-5)


def test_statistics_of_observations_are_those_of_all_that_was_seen(tmp_path: Path) -> None:
    policy = fresh(tmp_path)
    parts = [torch.randn(n, 2) * 3 + 5 for n in (40, 70, 10)]
    for part in parts:
        policy.observe(part, share=1.0)
    whole = torch.cat(parts)
    assert torch.allclose(policy.obs_mean, whole.mean(0), atol=1e-4)
    assert torch.allclose(policy.obs_var, whole.var(0, correction=0), rtol=1e-4)
    assert float(policy.obs_count) == 120


def test_stale_deltas_of_statistics_never_make_a_variance_negative(tmp_path: Path) -> None:
    from streams.learning.deltas import normaliser_share

    for behind in (1, 2, 4):
        versions = [torch.tensor([1.0, 1.0])]
        base = fresh(tmp_path)
        for number in range(40):
            base.obs_var.copy_(versions[max(0, number - behind)])
            before = base.obs_var.clone()
            base.observe(torch.zeros(100, 2), normaliser_share(behind))
            versions.append(versions[-1] + (base.obs_var - before))
        assert all(bool((one > 0).all()) for one in versions), behind
        assert float(versions[-1].max()) < 0.5


def learnt(policy: TorchPolicy, inner: Inner, **settings: Any) -> dict[str, torch.Tensor]:
    ppo(**settings).learn(policy, [TaskEpisodes("t", play(policy))], inner)
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def test_equal_inputs_give_equal_bits_and_the_seed_orders_the_minibatches(tmp_path: Path) -> None:
    settings = {"epochs": 2, "minibatch": 16}
    first, again = (learnt(fresh(tmp_path), INNER, **settings) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = learnt(fresh(tmp_path), replace(INNER, seed=2), **settings)
    assert not torch.equal(first["actor.0.weight"], other["actor.0.weight"])


def test_every_step_is_in_one_minibatch_of_an_epoch() -> None:
    parts = list(ppo(epochs=3, minibatch=16)._minibatches(50, seed=4))
    assert [len(part) for part in parts] == [16, 16, 16, 2] * 3
    epochs = [np.concatenate(parts[i : i + 4]) for i in (0, 4, 8)]
    assert all(sorted(epoch.tolist()) == list(range(50)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


@pytest.mark.slow
def test_it_learns_where_to_go(tmp_path: Path) -> None:
    policy, learner = fresh(tmp_path), ppo(epochs=8, minibatch=48)
    before = np.mean(play(policy, 32, first=1000).returns)
    for turn in range(15):
        batch = [TaskEpisodes("t", play(policy, 16, first=16 * turn))]
        learner.learn(policy, batch, replace(INNER, seed=turn))
    after = np.mean(play(policy, 32, first=1000).returns)
    assert before < -11 and after > -4, (before, after)


def test_what_it_learns_from_must_fit_the_source() -> None:
    assert {"ppo", "reptile"} <= set(names())
    assert algorithm_of(episode_mission()).name == "ppo"
    with pytest.raises(WrongKind, match=r"grpo learns from tokens.*take ppo or reptile"):
        algorithm_of(episode_mission(algorithm={"name": "grpo", "settings": {}}))
    with pytest.raises(ValidationError, match="clip_low"):
        ppo(clip_low=0.2)
