"""The registry of learning algorithms: by decorator here, by entry point from other packages.

Public for plugins. Importing it, or naming and checking an algorithm, never imports torch.
"""

from streams.learning.algorithms.code import code_sha256
from streams.learning.algorithms.registry import UnknownAlgorithm, algorithm, names

__all__ = ["UnknownAlgorithm", "algorithm", "code_sha256", "names"]
