"""The registry of learning algorithms: by decorator here, by entry point from other packages.

Public for plugins: docs/extending.md shows one. Importing it, or naming and checking an algorithm,
never imports torch.
"""

from streams.learning.algorithms.base import Advantages, Algorithm, Settings
from streams.learning.algorithms.code import code_sha256
from streams.learning.algorithms.episodes import EpisodeAlgorithm, Inner, Learnt, TaskEpisodes
from streams.learning.algorithms.registry import (
    UnknownAlgorithm,
    WrongKind,
    algorithm,
    algorithm_of,
    episode_algorithm,
    names,
    token_algorithm,
)

__all__ = [
    "Advantages",
    "Algorithm",
    "EpisodeAlgorithm",
    "Inner",
    "Learnt",
    "Settings",
    "TaskEpisodes",
    "UnknownAlgorithm",
    "WrongKind",
    "algorithm",
    "algorithm_of",
    "code_sha256",
    "episode_algorithm",
    "names",
    "token_algorithm",
]
