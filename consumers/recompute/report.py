"""What a proof of a chain of versions found, for people and for scripts."""

from collections import Counter
from typing import Literal

from pydantic import BaseModel, computed_field

Verdict = Literal["equal", "wrong", "expired", "elsewhere"]
"""Of `elsewhere` this machine would round otherwise; what has `expired` was swept."""
What = Literal["record", "object", "books", "step", "gradient", "sampling"]


class Finding(BaseModel):
    """One thing that is not what the log says: where it lies, and in what it differs.

    `at` is a place of the log, or the key of an object; `version` the one that it came to light
    with.
    """

    what: What
    at: str
    version: int | None
    why: str


class VersionProof(BaseModel):
    """What was found of one version."""

    version: int
    kind: str
    at: str
    verdict: Verdict
    gradients: int = 0
    """Gradients made again of their samples, and equal."""
    samples: int = 0
    """Groups sampled again, and equal; of this version, whatever they were used for."""
    taken: int = 0
    """Gradients taken as they are stored, for their trainer does not call itself deterministic."""
    sha256: dict[str, str] = {}
    """Of each shard, as it came out here."""
    why: list[str] = []

    @computed_field  # type: ignore[prop-decorator]
    @property
    def equal(self) -> bool:
        """Whether all of it came out as the log says, to the last bit."""
        return self.verdict == "equal"


class GroupProof(BaseModel):
    """What was found of one group of samples."""

    at: str
    group_id: str
    version: int
    batch_id: str | None
    rollouts: int
    verdict: Verdict
    why: list[str] = []

    @computed_field  # type: ignore[prop-decorator]
    @property
    def equal(self) -> bool:
        """Whether it came out as the log says, to the last bit."""
        return self.verdict == "equal"


class ChainReport(BaseModel):
    """What was found of a policy's versions; `full`, `sampling` say which proofs were made."""

    policy: str
    full: bool
    sampling: bool = False
    versions: list[VersionProof] = []
    findings: list[Finding] = []
    records: int = 0
    objects: int = 0
    """Stored objects whose hash was compared."""
    seconds: float = 0.0

    def count(self, verdict: Verdict) -> int:
        """How many versions have this verdict."""
        return Counter(proof.verdict for proof in self.versions)[verdict]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def equal(self) -> int:
        """Versions that came out as the log says, to the last bit."""
        return self.count("equal")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def wrong(self) -> int:
        """Versions that did not."""
        return self.count("wrong")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def expired(self) -> int:
        """Versions that cannot be made again, for what they were made of was swept."""
        return self.count("expired")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def elsewhere(self) -> int:
        """Versions that can be made again on another kind of machine only."""
        return self.count("elsewhere")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether all that can be made again is equal, here, and nothing else is wrong."""
        return not self.findings and not self.wrong and not self.elsewhere
