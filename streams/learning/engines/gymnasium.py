"""The rollout engine for environments: the episodes of a group side by side, one step at a time.

A slot plays one episode and rests, so nothing has to be masked at an automatic reset, and what an
episode is depends on the policy, its task and its own seeds alone. Rows that rest are still fed
through the policy: a product of matrices may round by their number of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schemas.environments import EnvironmentTask
from streams.learning.control.environments import MakeEnvironment
from streams.learning.control.episodes import Episodes, Floats
from streams.learning.control.mlp import MlpPolicy
from streams.learning.engines.counters import normals

_MASK = (1 << 32) - 1


class EnvironmentFault(RuntimeError):
    """An environment failed, or answered what is no number."""


@dataclass
class _Steps:
    """What was recorded so far: one row a slot in each list's arrays."""

    obs: list[Floats] = field(default_factory=list)
    actions: list[Floats] = field(default_factory=list)
    logprobs: list[Floats] = field(default_factory=list)
    rewards: list[Floats] = field(default_factory=list)


class GymnasiumEngine:
    """Plays episodes; keeps the environments that it has made, for making one takes long."""

    def __init__(self, make: MakeEnvironment) -> None:
        self._make = make
        self._pools: dict[str, list[Any]] = {}

    def play(
        self,
        policy: MlpPolicy,
        task: EnvironmentTask,
        resets: Sequence[int],
        noises: Sequence[int],
    ) -> Episodes:
        """An episode for each pair of seeds: of its reset, and of the noise on its actions.

        Raises `EnvironmentFault`, `EnvironmentUnavailable`.
        """
        slots = self._slots(task, len(resets))
        try:
            return _play(policy, slots, resets, noises)
        except Exception as error:  # an environment is anyone's code
            # What state they are in, nobody knows.
            self._pools.pop(task.text, None)
            raise EnvironmentFault(f"{task.text}: {type(error).__name__}: {error}") from error

    def _slots(self, task: EnvironmentTask, count: int) -> list[Any]:
        pool = self._pools.setdefault(task.text, [])
        while len(pool) < count:
            pool.append(self._make(task))
        return pool[:count]


def _play(
    policy: MlpPolicy, slots: list[Any], resets: Sequence[int], noises: Sequence[int]
) -> Episodes:
    seeds = np.array(noises, dtype=np.uint64)
    starts = [slot.reset(seed=seed & _MASK)[0] for slot, seed in zip(slots, resets, strict=True)]
    obs = _finite(np.array(starts, dtype=np.float32), "an observation")
    steps, last = _Steps(), obs.copy()
    lengths = np.zeros(len(slots), dtype=np.int64)
    terminated = np.zeros(len(slots), dtype=np.bool_)
    live = list(range(len(slots)))
    while live:
        noise = normals(seeds, len(steps.obs), len(policy.log_std))
        actions, logprobs = policy.drawn(policy.mean(obs), noise)
        set_points = policy.set_points(actions)
        rewards, after, running = np.zeros(len(slots), dtype=np.float32), obs.copy(), []
        for i in live:
            seen, reward, ended, cut, _ = slots[i].step(set_points[i])
            after[i], rewards[i] = seen, reward
            lengths[i] += 1
            if ended or cut:
                terminated[i], last[i] = ended, seen
            else:
                running.append(i)
        steps.obs.append(obs)
        steps.actions.append(actions)
        steps.logprobs.append(logprobs)
        steps.rewards.append(_finite(rewards, "a reward"))
        obs, live = _finite(after, "an observation"), running
    return _episodes(steps, lengths, terminated, last)


def _finite(values: Floats, what: str) -> Floats:
    if not np.isfinite(values).all():
        raise ValueError(f"{what} is not finite")
    return values


def _episodes(steps: _Steps, lengths: Any, terminated: Any, last: Floats) -> Episodes:
    """The steps of each slot up to its end, one slot after another."""

    def cut(rows: list[Floats]) -> Floats:
        stacked = np.stack(rows)
        return np.concatenate([stacked[: lengths[i], i] for i in range(len(lengths))])

    return Episodes(
        obs=cut(steps.obs),
        actions=cut(steps.actions),
        logprobs=cut(steps.logprobs),
        rewards=cut(steps.rewards),
        lengths=lengths,
        terminated=terminated,
        last_obs=last,
    )
