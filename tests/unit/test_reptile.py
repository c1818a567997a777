"""Reptile: its step by hand, and that a few steps from where it leads learn tasks never seen."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from episode_world import acting, fresh

from producers.problems.environments import resets, tasks_of
from schemas.environments import EnvironmentTask
from schemas.ids import derived_seed
from schemas.missions import NewPolicy, ProblemSource
from streams.learning.algorithms import algorithm
from streams.learning.algorithms.episodes import EpisodeAlgorithm, Inner, TaskEpisodes
from streams.learning.control.environments import make_environment
from streams.learning.control.torch_mlp import TorchPolicy
from streams.learning.engines.counters import keyed
from streams.learning.engines.gymnasium import GymnasiumEngine

SETTINGS = {"epochs": 6, "minibatch": 48, "gamma": 0.9}
INNER = Inner(3e-3, (0.9, 0.999), 1e-5, 0.0, 0.5, seed=1)
EPISODES = 12
ENGINE = GymnasiumEngine(make_environment)


def made(name: str) -> EpisodeAlgorithm:
    found = algorithm(name, SETTINGS)
    assert isinstance(found, EpisodeAlgorithm)
    return found


def family(seed: int, count: int, **bounds: tuple[float, float]) -> list[EnvironmentTask]:
    args = {"family": {name: list(pair) for name, pair in bounds.items()}, "family_size": count}
    source = ProblemSource(source="gymnasium", name="PointMass-v0", args=args, seed=seed)
    return tasks_of(source)


def played(policy: TorchPolicy, task: EnvironmentTask, *key: object) -> TaskEpisodes:
    seeds = [derived_seed("play", task.text, *key, i) for i in range(EPISODES)]
    return TaskEpisodes(task.text, ENGINE.play(acting(policy), task, seeds, seeds))


def state(policy: TorchPolicy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def test_it_goes_to_the_mean_of_what_the_inner_loops_make_of_the_start(tmp_path: Path) -> None:
    policy = fresh(tmp_path)
    start = state(policy)
    batch = [played(policy, task) for task in family(0, 3, goal=(1, 2))]
    ends = []
    for number, one in enumerate(batch):
        policy.take(start)
        made("ppo").learn(policy, [one], replace(INNER, seed=keyed(INNER.seed, number)))
        ends.append(state(policy))
    policy.take(start)
    learnt = made("reptile").learn(policy, batch, INNER)
    assert learnt.stats["tasks"] == 3 and learnt.steps == 3 * 3 * 6
    for name, tensor in policy.state_dict().items():
        expected = torch.stack([end[name] for end in ends]).mean(0)
        assert torch.allclose(tensor, expected, atol=1e-6), name


def test_groups_of_one_task_are_one_inner_loop(tmp_path: Path) -> None:
    policy = fresh(tmp_path)
    start, (task,) = state(policy), family(0, 1, goal=(1, 2))
    batch = [played(policy, task, number) for number in range(2)]
    inner = replace(INNER, seed=keyed(INNER.seed, 0))
    made("ppo").learn(policy, batch, inner)
    together = state(policy)
    policy.take(start)
    made("reptile").learn(policy, batch, INNER)
    assert all(torch.equal(together[name], t) for name, t in policy.state_dict().items())


def test_a_family_is_drawn_by_its_seed_and_its_problems_take_the_tasks_in_turn() -> None:
    tasks = family(3, 5, goal=(-1, 2), wall=(4, 5))
    assert len({task.text for task in tasks}) == 5
    assert all(-1 <= task.make["goal"] <= 2 and 4 <= task.make["wall"] <= 5 for task in tasks)
    assert tasks == family(3, 5, goal=(-1, 2), wall=(4, 5)) != family(4, 5, goal=(-1, 2))
    args = {"family": {"goal": [1, 2]}, "family_size": 2}
    source = ProblemSource(source="gymnasium", name="PointMass-v0", args=args, size=5)
    texts, metadata = zip(*resets(source), strict=True)
    assert len(set(texts)) == 5
    found = [EnvironmentTask.model_validate(one["environment"]) for one in metadata]
    assert found == [*tasks_of(source), *tasks_of(source), tasks_of(source)[0]]
    assert len({one["seed"] for one in metadata}) == 5


# -- adaptation to tasks that were never seen -----------------------------------------------

GOALS, OUTER_RATE, TURNS, TASKS_A_TURN = (1.0, 3.0), 0.9, 16, 3
"""All goals are on one side, so there is something to know before a task is known."""


def meta_trained(policy: TorchPolicy, seed: int) -> dict[str, torch.Tensor]:
    """The outer loop of Algorithm 2 over 24 tasks."""
    tasks, learner = family(seed, 24, goal=GOALS), made("reptile")
    for turn in range(TURNS):
        before = state(policy)
        own = [tasks[(TASKS_A_TURN * turn + i) % len(tasks)] for i in range(TASKS_A_TURN)]
        batch = [played(policy, task, seed, turn) for task in own]
        learner.learn(policy, batch, replace(INNER, seed=derived_seed(seed, turn)))
        after = state(policy)
        policy.take({n: before[n] + OUTER_RATE * (after[n] - before[n]) for n in before})
    return state(policy)


def trained_on_one(policy: TorchPolicy, seed: int) -> dict[str, torch.Tensor]:
    """As many inner loops on as many episodes, all on the first of the tasks."""
    task = family(seed, 24, goal=GOALS)[0]
    for turn in range(TURNS * TASKS_A_TURN):
        own = [played(policy, task, seed, turn)]
        made("ppo").learn(policy, own, replace(INNER, seed=derived_seed(seed, turn)))
    return state(policy)


def adapted(start: dict[str, torch.Tensor], policy: TorchPolicy, seed: int) -> Iterator[float]:
    """The mean return on each of eight unseen tasks after two inner loops on it."""
    for task in family(1000 + seed, 8, goal=GOALS):
        policy.take(start)
        for turn in range(2):
            own = [played(policy, task, "adapt", seed, turn)]
            made("ppo").learn(policy, own, replace(INNER, seed=derived_seed(seed, turn)))
        yield fmean(played(policy, task, "test", seed).episodes.returns)


@pytest.mark.slow
def test_a_few_steps_from_the_meta_initialisation_learn_unseen_tasks(tmp_path: Path) -> None:
    """Paired by unseen task, eight under each of two seeds: the mean gain, in standard errors."""
    gains: dict[str, list[float]] = {"from scratch": [], "from one task": []}
    for seed in range(2):
        policy = fresh(tmp_path, size=NewPolicy(hidden=[16], seed=seed))
        scratch = state(policy)
        meta = list(adapted(meta_trained(policy, seed), policy, seed))
        policy.take(scratch)
        starts = {"from one task": trained_on_one(policy, seed), "from scratch": scratch}
        for name, start in starts.items():
            others = adapted(start, policy, seed)
            gains[name] += [mine - theirs for mine, theirs in zip(meta, others, strict=True)]
    for name, found in gains.items():
        error = stdev(found) / len(found) ** 0.5
        print(f"{name}: {fmean(found):.2f} +- {error:.2f} over {len(found)} tasks")
        assert fmean(found) > 3 * error, (name, found)
