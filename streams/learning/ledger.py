"""What the log says of a policy: its head, its versions, what was read and what is expired.

Built from the policy's own events alone, so a process started from nothing has the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from schemas.ids import digest
from schemas.learning import GradientUpload, Totals, UploadsRefused, VersionsExpired, WeightVersion
from schemas.records import Partition, Record
from streams.learning.admission import Reason, advanced, counted, uncounted


@dataclass(frozen=True)
class Ledger:
    """Where an aggregator stands: the head and what of the log is accounted for."""

    head: WeightVersion | None = None
    head_sha256: str = ""
    marks: dict[str, int] = field(default_factory=dict)
    resume: dict[str, int] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)

    def after(self, event: WeightVersion | UploadsRefused, value: bytes) -> "Ledger":
        """As this event leaves it, given the bytes of its record (of which it may be the whole)."""
        head, sha256 = self.head, self.head_sha256
        if isinstance(event, WeightVersion):
            head, sha256 = event, digest(value)
        return Ledger(head, sha256, event.marks, event.resume, event.totals)

    def past(self, record: Record) -> "Ledger":
        """With one more record read."""
        return replace(self, resume={**self.resume, str(record.partition): record.offset + 1})

    def with_upload(self, upload: GradientUpload, refused: Reason | None) -> "Ledger":
        """With one more upload accounted for."""
        return replace(
            self,
            marks=advanced(self.marks, upload.source),
            totals=counted(self.totals, upload, refused),
        )

    def without(self, uploads: Iterable[GradientUpload]) -> "Ledger":
        """With uploads that had joined a step refused; what they cover stays covered."""
        totals = self.totals
        for upload in uploads:
            totals = uncounted(totals, upload)
        return replace(self, totals=totals)

    def has_read(self, partition: Partition, offset: int) -> bool:
        """Whether this record is accounted for."""
        return offset < self.resume.get(str(partition), 0)

    def is_behind(self, other: "Ledger") -> bool:
        """Whether the other is further along: every event but version 0 reads on."""
        if self.head is None or other.head is None:
            return other.head is not None
        mine = (self.head.version, sum(self.resume.values()))
        return mine < (other.head.version, sum(other.resume.values()))


class Versions:
    """The versions of a policy whose objects are kept, with the hash of each one's record."""

    def __init__(self) -> None:
        self._events: dict[int, WeightVersion] = {}
        self._sha256: dict[int, str] = {}
        self.expired: set[int] = set()
        self.manifests: set[str] = set()
        """Objects with fields of the events: kept for ever, as these are."""

    def add(self, event: WeightVersion, value: bytes) -> None:
        """Know one more version, with the bytes of its record."""
        self._events[event.version] = event
        self._sha256[event.version] = digest(value)
        if event.spilled is not None:
            self.manifests.add(event.spilled.key)

    def expire(self, event: VersionsExpired) -> None:
        """Forget versions whose objects are swept."""
        self.expired.update(event.versions)
        for version in event.versions:
            self._events.pop(version, None)
            self._sha256.pop(version, None)

    def get(self, version: int) -> WeightVersion | None:
        """The version, unless it is unknown or expired."""
        return self._events.get(version)

    def sha256(self, version: int) -> str:
        """The hash of the version's record; raises KeyError where it is unknown or expired."""
        return self._sha256[version]

    def events(self) -> list[WeightVersion]:
        """All that are kept, oldest first."""
        return [self._events[version] for version in sorted(self._events)]
