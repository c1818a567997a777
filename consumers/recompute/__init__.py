"""The proofs: what the log says was made of something is made of it again, to the last bit.

The step proof makes a version of its parent and its gradients, the full proof a gradient of its
samples, the sampling proof samples of their problems and a version; all with the very code that
made them, so equal hashes say that log and store hold all that went into it.
"""

from consumers.recompute.chain import verify_chain
from consumers.recompute.evidence import (
    CannotRecompute,
    Expired,
    NotReproduced,
    OtherEnvironment,
)
from consumers.recompute.report import ChainReport, Finding, GroupProof, VersionProof
from consumers.recompute.upload import recompute_upload
from consumers.recompute.version import recompute_version

__all__ = [
    "CannotRecompute",
    "ChainReport",
    "Expired",
    "Finding",
    "GroupProof",
    "NotReproduced",
    "OtherEnvironment",
    "VersionProof",
    "recompute_upload",
    "recompute_version",
    "verify_chain",
]
