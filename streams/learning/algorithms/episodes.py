"""What an algorithm on episodes is: local optimizer steps on a batch; no I/O, no clock.

It changes a policy that it is handed; what came of the steps travels as a difference of weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from schemas.base import Strict
from streams.learning.algorithms.base import Registered

if TYPE_CHECKING:
    from streams.learning.control.episodes import Episodes
    from streams.learning.control.torch_mlp import TorchPolicy


@dataclass(frozen=True, slots=True)
class TaskEpisodes:
    """The episodes of one group, and which task they are of."""

    task: str
    episodes: "Episodes"


@dataclass(frozen=True, slots=True)
class Inner:
    """The inner optimizer, AdamW, new for each upload; and the seed of what is random.

    `normaliser_share` bounds how far one upload moves the statistics of observations.
    """

    learning_rate: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_norm: float
    seed: int
    normaliser_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Learnt:
    """What local steps did: how many there were, of what size, and statistics for people."""

    steps: int
    epochs: int
    minibatch: int
    stats: dict[str, float]


class EpisodeAlgorithm(Registered):
    """Base of those that learn from episodes; a subclass registers with `@algorithm(name)`."""

    learns_from: ClassVar[Literal["tokens", "episodes"]] = "episodes"
    settings_class: ClassVar[type[Strict]]

    def learn(self, policy: "TorchPolicy", batch: Sequence[TaskEpisodes], inner: Inner) -> Learnt:
        """Change the policy by local steps on a batch, in its order; equal inputs, equal bits."""
        raise NotImplementedError
