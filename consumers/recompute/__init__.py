"""The proofs: what the log says was made of something is made of it again, to the last bit.

The step proof makes a version of its parent and its gradients, the full proof a gradient of its
samples; both with the very code that made them, so equal hashes say that log and store hold all
that went into it.
"""

from consumers.recompute.evidence import CannotRecompute, NotReproduced
from consumers.recompute.upload import recompute_upload
from consumers.recompute.version import recompute_version

__all__ = ["CannotRecompute", "NotReproduced", "recompute_upload", "recompute_version"]
