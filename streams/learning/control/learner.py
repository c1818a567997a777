"""What makes a delta of episodes and weights: the trainer learns with it, a proof repeats it."""

from collections.abc import Generator, Sequence
from typing import Any

import torch

from schemas.effects import BadObject, Effect, Get
from schemas.learning import SampleGroup, WeightVersion
from schemas.missions import Mission, Training
from schemas.policies import PolicyConfig
from streams.learning.control.episodes import BadEpisodes, Episodes, load_episodes
from streams.learning.control.model import ControlModel
from streams.learning.control.torch_mlp import TorchPolicy
from streams.learning.deltas import upload_delta
from streams.learning.gradients import Gradient
from streams.learning.learner import Learner


class EpisodeLearner(Learner):
    """The control policy in memory, the episodes fetched for it, and the deltas made with them.

    It computes on the CPU whatever the mission says: such a policy is small.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held = ControlModel()
        self._policy: TorchPolicy | None = None
        self._episodes: dict[str, Episodes] = {}

    @property
    def device(self) -> str:
        """The CPU."""
        return "cpu"

    def follow(self, version: WeightVersion, training: Training) -> Generator[Effect, Any, None]:
        """Hold the weights of this version."""
        changed = yield from self._held.follow(version)
        config = self._config()
        if self._policy is None or self._policy.config != config:
            self._policy, changed = TorchPolicy(config), True
        if changed:
            tensors = self._held.tensors
            self._policy.take({name: torch.from_numpy(t) for name, t in tensors.items()})
        self._episodes.clear()

    def complete(self, group: SampleGroup) -> Generator[Effect, Any, tuple[SampleGroup, str]]:
        """The group, its episodes fetched, and why the policy cannot learn from it, or ""."""
        if group.episodes is None or group.episodes_ref is None:
            return group, "it has no episodes: a control policy learns from these"
        try:
            episodes = load_episodes((yield Get(group.episodes_ref)))
        except (BadObject, BadEpisodes) as error:
            return group, str(error)
        config = self._config()
        shapes = (episodes.obs.shape[1:], episodes.actions.shape[1:])
        needed = ((len(config.observation),), (len(config.action),))
        if shapes != needed:
            return group, f"observations and actions of shape {shapes}, the policy has {needed}"
        if len(episodes.lengths) != group.size:
            return group, f"{len(episodes.lengths)} episodes, the event says {group.size}"
        self._episodes[group.group_id] = episodes
        return group, ""

    def gradient(
        self,
        mission: Mission,
        version: WeightVersion,
        groups: Sequence[SampleGroup],
        base: WeightVersion | None,
    ) -> Generator[Effect, Any, Gradient]:
        """The delta of complete groups at the version that is held.

        Raises `LayoutError`, `GradientError`.
        """
        layout = yield from self._layout_of(version)
        assert self._policy is not None
        played = [(group, self._episodes[group.group_id]) for group in groups]
        return upload_delta(self._policy, layout, mission, version, played)

    def _config(self) -> PolicyConfig:
        assert self._held.config is not None
        return self._held.config
