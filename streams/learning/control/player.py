"""Plays the problems of control missions: groups of episodes for the sampler, scores for held-out.

What a group holds follows from its problem, the version and the mission's seed alone.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from schemas.effects import Effect, Put
from schemas.environments import EnvironmentArgs, EnvironmentTask
from schemas.ids import derived_seed, digest
from schemas.learning import Problem, SampleGroup, WeightVersion
from schemas.missions import Mission
from streams.learning.control.environments import MakeEnvironment
from streams.learning.control.episodes import Episodes, dump_episodes
from streams.learning.control.mlp import MlpPolicy
from streams.learning.control.model import ControlModel
from streams.learning.engines.gymnasium import GymnasiumEngine
from streams.learning.keys import episodes_key

EVALUATED = 64
"""Held-out problems that are played for an evaluation, one episode each: the first of them."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The episodes of held-out problems: how many were solved, and their mean return."""

    solved: int
    total: int
    reward: float


def task_of(problem: Problem) -> tuple[EnvironmentTask, int]:
    """The task of a problem and the seed of its resets; raises ValueError."""
    try:
        task = EnvironmentTask.model_validate(problem.metadata.get("environment"))
        return task, int(str(problem.metadata["seed"]))
    except (ValidationError, KeyError) as error:
        raise ValueError(f"problem {problem.problem_id} is of no environment: {error}") from error


class Player:
    """A policy in memory and the environments that it acts in."""

    def __init__(self, make: MakeEnvironment) -> None:
        self._model = ControlModel()
        self._engine = GymnasiumEngine(make)
        self._policy: MlpPolicy | None = None

    def follow(self, version: WeightVersion) -> Generator[Effect, Any, None]:
        """Hold the weights of this version; raises `BadPolicy`."""
        changed = yield from self._model.follow(version)
        if changed or self._policy is None:
            assert self._model.config is not None
            self._policy = MlpPolicy(self._model.config, self._model.tensors)

    def episodes(self, problem: Problem, mission: Mission, use: int) -> tuple[str, Episodes]:
        """The episodes of a use of a problem, and its task.

        Each has a reset of its own, of the problem's seed and its index. Raises `EnvironmentFault`,
        ValueError.
        """
        assert self._policy is not None
        task, seed = task_of(problem)
        width = range(mission.rollout.group_size)
        resets = [derived_seed("reset", task.text, seed, i) for i in width]
        noises = [derived_seed("sample", mission.seed, problem.problem_id, use, i) for i in width]
        return task.text, self._engine.play(self._policy, task, resets, noises)

    def evaluate(self, problems: Sequence[Problem], mission: Mission) -> Scored:
        """One episode of each of the first problems, as it acts: with noise, the same every time.

        Solved is a return of `problems.args.success_return` at least, without it the target's
        reward; where there is neither, nothing counts as solved. A problem whose environment fails
        raises `EnvironmentFault`.
        """
        assert self._policy is not None
        returns = []
        for problem in problems[:EVALUATED]:
            task, seed = task_of(problem)
            reset = derived_seed("reset", task.text, seed, 0)
            noise = derived_seed("evaluate", problem.problem_id)
            returns += self._engine.play(self._policy, task, [reset], [noise]).returns
        enough = solved_from(mission)
        solved = sum(value >= enough for value in returns) if enough is not None else 0
        return Scored(solved, len(returns), sum(returns) / max(len(returns), 1))


def solved_from(mission: Mission) -> float | None:
    """The return from which an episode counts as solved, or None."""
    args = EnvironmentArgs.model_validate(mission.problems.args)
    if args.success_return is not None:
        return args.success_return
    return mission.target.reward if mission.target else None


def with_episodes(
    group: SampleGroup, task: str, episodes: Episodes
) -> Generator[Effect, Any, SampleGroup]:
    """The group with its episodes in an object and their summary."""
    data = dump_episodes(episodes)
    ref = yield Put(episodes_key(group.policy, group.group_id, digest(data)), data)
    summary = episodes.summary(task)
    return group.model_copy(update={"origin": "episode", "episodes": summary, "episodes_ref": ref})
