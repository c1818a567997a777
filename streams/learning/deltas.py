"""From groups of episodes to one delta: local steps from the base version, less that version."""

from collections.abc import Sequence
from math import isfinite
from statistics import fmean

import torch

from schemas.ids import derived_seed
from schemas.learning import LocalSteps, SampleGroup, WeightVersion
from schemas.missions import Mission
from streams.learning.algorithms import episode_algorithm
from streams.learning.algorithms.episodes import Inner, TaskEpisodes
from streams.learning.control.episodes import Episodes
from streams.learning.control.torch_mlp import TorchPolicy
from streams.learning.gradients import Gradient, GradientError
from streams.learning.layout import FlatLayout
from streams.learning.manifests import mission_steps
from streams.learning.optimizer import learning_rate

Played = tuple[SampleGroup, Episodes]


def upload_delta(
    policy: TorchPolicy,
    layout: FlatLayout,
    mission: Mission,
    base: WeightVersion,
    groups: Sequence[Played],
) -> Gradient:
    """What the mission's algorithm makes of the base version on these groups, less the base.

    The policy holds the base before and after. Its weight among others are its environment steps.
    Equal inputs, threads and torch build give equal bits; raises `GradientError`.
    """
    inner = inner_of(mission, base, [group.group_id for group, _ in groups])
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    batch = [TaskEpisodes(_task(group), episodes) for group, episodes in groups]
    try:
        learnt = episode_algorithm(mission).learn(policy, batch, inner)
        vector = _difference(policy, before, layout)
    finally:
        policy.take(before)
    stats = learnt.stats | _described(groups)
    _check_finite(vector, stats)
    steps = sum(len(episodes.rewards) for _, episodes in groups)
    local = LocalSteps(
        steps=learnt.steps,
        epochs=learnt.epochs,
        minibatch=learnt.minibatch,
        seed=inner.seed,
        learning_rate=inner.learning_rate,
    )
    return Gradient(vector, float(steps), [], stats, local)


def inner_of(mission: Mission, base: WeightVersion, group_ids: Sequence[str]) -> Inner:
    """The inner optimizer: of the mission's settings, at the rate of its next step."""
    training = mission.training
    turn = mission_steps(base, mission.mission_id)[mission.mission_id]
    return Inner(
        learning_rate=learning_rate(turn, training),
        betas=training.betas,
        eps=training.eps,
        weight_decay=training.weight_decay,
        clip_norm=training.clip_norm,
        # 53 bits: any reader of JSON has the same number.
        seed=derived_seed("local", mission.seed, *group_ids) >> 11,
        normaliser_share=normaliser_share(training.staleness_max),
    )


def normaliser_share(staleness_max: int) -> float:
    """How far one upload may move the statistics, so that stale ones cannot make them swing.

    v_{n+1} = v_n + a (b - v_{n-s}) does not oscillate for a ≤ s^s / (s+1)^(s+1), which is never
    below 1 / 4s.
    """
    return 1.0 if staleness_max == 0 else 1 / (4 * staleness_max)


def _task(group: SampleGroup) -> str:
    return group.episodes.task if group.episodes else ""


def _difference(
    policy: TorchPolicy, before: dict[str, torch.Tensor], layout: FlatLayout
) -> torch.Tensor:
    """The flat difference in the layout's order; raises `GradientError` for another policy's."""
    after = policy.state_dict()
    vector = torch.zeros(layout.total)
    for slot in layout.slots:
        if slot.name not in after or tuple(after[slot.name].shape) != slot.shape:
            raise GradientError(f"{slot.shard}: the policy has no tensor {slot.name} {slot.shape}")
        part = after[slot.name] - before[slot.name]
        vector[slot.start : slot.stop] = part.reshape(-1)
    return vector


def _described(groups: Sequence[Played]) -> dict[str, float]:
    returns = [value for _, episodes in groups for value in episodes.returns]
    lengths = [int(length) for _, episodes in groups for length in episodes.lengths]
    return {"reward_mean": fmean(returns), "length_mean": fmean(lengths)}


def _check_finite(vector: torch.Tensor, stats: dict[str, float]) -> None:
    bad = sorted(name for name, value in stats.items() if not isfinite(value))
    if bad or not bool(vector.isfinite().all()):
        raise GradientError(f"the delta is not finite ({', '.join(bad) or 'in the steps'})")
