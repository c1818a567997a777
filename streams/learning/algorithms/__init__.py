"""The registry of learning algorithms: by decorator here, by entry point from other packages.

Public for plugins: docs/extending.md shows one. Importing it, or naming and checking an algorithm,
never imports torch.
"""

from streams.learning.algorithms.base import Advantages, Algorithm, Settings
from streams.learning.algorithms.code import code_sha256
from streams.learning.algorithms.registry import UnknownAlgorithm, algorithm, names

__all__ = [
    "Advantages",
    "Algorithm",
    "Settings",
    "UnknownAlgorithm",
    "algorithm",
    "code_sha256",
    "names",
]
