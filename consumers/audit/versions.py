"""The books of weight versions: gap-free, each continuing its parent, with totals that add up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from consumers.audit.books import Books
from consumers.audit.missions import MissionBook
from consumers.audit.objects import Named
from consumers.audit.positions import code_of, decode, partition_of
from consumers.audit.uploads import TOPIC as UPLOADS
from consumers.audit.uploads import UploadBook, UploadEntry
from schemas.base import Event, Sources
from schemas.ids import digest
from schemas.learning import (
    AppliedUpload,
    RefusedUpload,
    Totals,
    UploadsRefused,
    VersionsExpired,
    WeightVersion,
)
from schemas.records import Partition, Record

_RULES = {"gradient": "adamw", "delta": "delta"}
"""By which rule a step takes the uploads of a kind."""


@dataclass(slots=True)
class VersionEntry:
    """One version: its record's hash, its chain of parents, its objects."""

    at: str
    sha256: str
    lineage: tuple[int, ...]
    objects: list[Named]


@dataclass
class PolicyEntry:
    """One policy, as its newest event leaves it."""

    versions: dict[int, VersionEntry] = field(default_factory=dict)
    expired: set[int] = field(default_factory=set)
    newest: int = -1
    totals: Totals = field(default_factory=Totals)
    marks: dict[str, int] = field(default_factory=dict)
    resume: dict[str, int] = field(default_factory=dict)
    applied: dict[str, int] = field(default_factory=dict)
    """Upload ids that were applied, and where the upload lies."""

    def has_read(self, position: int) -> bool:
        """Whether this position of `gradient-chunks` is below the resume mark."""
        number, offset = decode(position)
        return offset < self.resume.get(str(Partition(UPLOADS, number)), 0)


class VersionBook:
    """All policies of the log, by name."""

    def __init__(self, books: Books, missions: MissionBook, uploads: UploadBook) -> None:
        self._books, self._missions, self._uploads = books, missions, uploads
        self.policies: dict[str, PolicyEntry] = {}

    def observe(self, record: Record, event: Event) -> None:
        """Take in one event of `weight-versions`, in log order."""
        match event:
            case WeightVersion():
                policy = self.policies.setdefault(event.policy, PolicyEntry())
                self._version(policy, record, event)
                self._account(policy, record, event, event.uploads)
            case UploadsRefused():
                policy = self.policies.setdefault(event.policy, PolicyEntry())
                self._named(policy, event.head, record.at)
                self._account(policy, record, event, ())
            case VersionsExpired():
                policy = self.policies.setdefault(event.policy, PolicyEntry())
                for version in event.versions:
                    self._named(policy, version, record.at)
                policy.expired.update(event.versions)

    def _named(self, policy: PolicyEntry, version: int, at: str) -> None:
        exists = version in policy.versions
        where = f"{at}: version {version}"
        self._books.findings.judge("version-named", exists, where)

    # -- the chain --------------------------------------------------------------------------

    def _version(self, policy: PolicyEntry, record: Record, event: WeightVersion) -> None:
        judge, at, number = self._books.findings.judge, record.at, event.version
        place = f"{at}: version {number}"
        next_ = policy.newest + 1
        judge("version-sequence", number == next_, f"{place}, {next_} was due")
        previous = number - 1 if number else None
        judge("version-previous", event.previous == previous, f"{place}: {event.previous}")
        judge("version-parent", self._continues(policy, event), f"{place}: {event.parent}")
        lineage = self._lineage(policy, event)
        reach = self._staleness_max(event.mission_id) + 1
        right = lineage[: len(event.lineage)] == tuple(event.lineage)
        long = len(event.lineage) >= min(reach, len(lineage))
        judge("version-lineage", right and long, f"{place}: {event.lineage[:8]}")
        refs = [*event.files.values(), *event.shards.values(), *event.optimizer.values()]
        entry = VersionEntry(at, digest(record.value or b""), lineage, self._books.refs.named(refs))
        policy.versions.setdefault(number, entry)
        policy.newest = max(policy.newest, number)
        self._books.findings.counts["versions"] += 1

    def _continues(self, policy: PolicyEntry, event: WeightVersion) -> bool:
        if event.parent is None:
            return event.version == 0 and event.kind == "base" and event.parent_sha256 is None
        if event.kind == "base" or (event.kind == "step" and event.parent != event.previous):
            return False
        parent = policy.versions.get(event.parent)
        if parent is None:
            # A version that is missing is a breach of the sequence, named there.
            return event.parent < event.version
        return parent.sha256 == event.parent_sha256

    def _lineage(self, policy: PolicyEntry, event: WeightVersion) -> tuple[int, ...]:
        """The chain that follows from the parent's; the event's own where the parent is missing."""
        if event.parent is None:
            return ()
        parent = policy.versions.get(event.parent)
        if parent is None:
            return tuple(event.lineage)
        kept = max(len(event.lineage), self._staleness_max(event.mission_id) + 1)
        return (event.parent, *parent.lineage)[:kept]

    def _staleness_max(self, mission_id: str) -> int:
        mission = self._missions.entries.get(mission_id)
        return mission.staleness_max if mission else 0

    # -- what was settled -------------------------------------------------------------------

    def _account(
        self,
        policy: PolicyEntry,
        record: Record,
        event: WeightVersion | UploadsRefused,
        applied: Sequence[AppliedUpload],
    ) -> None:
        marks, known = dict(policy.marks), list[UploadEntry]()
        named: list[AppliedUpload | RefusedUpload] = [*applied, *event.refused]
        for one in sorted(named, key=lambda one: code_of(one.at, UPLOADS) or 0):
            upload = (
                self._apply(policy, record, event, one)
                if isinstance(one, AppliedUpload)
                else self._refuse(record, one, marks)
            )
            if upload is not None:
                known.append(upload)
                marks = _advanced(marks, upload.source)
        if len(known) == len(named):
            self._add_up(policy, record.at, event, known, marks)
        self._judge_resume(policy, record.at, event.resume, [u.position for u in known])
        policy.totals, policy.marks = event.totals, dict(event.marks)
        policy.resume = {**policy.resume, **event.resume}

    def _apply(
        self,
        policy: PolicyEntry,
        record: Record,
        event: WeightVersion | UploadsRefused,
        applied: AppliedUpload,
    ) -> UploadEntry | None:
        upload = self._find(record.at, applied, event.policy)
        if upload is None or not isinstance(event, WeightVersion):
            return None
        names = applied.record_sha256, applied.base_version, applied.weight
        same = names == (upload.sha256, upload.base, upload.weight)
        where = f"{record.at}: {applied.upload_id} at {applied.at}"
        judge = self._books.findings.judge
        judge("settled-upload", same and _counts(applied, upload), where)
        first = policy.applied.setdefault(upload.upload_id, upload.position)
        once = first == upload.position and upload.fate != "applied"
        judge("upload-once", once, f"{where} was applied before")
        judge("upload-settled-once", upload.fate != "refused", f"{where} was refused")
        reach = self._staleness_max(upload.mission) + 1
        admissible = upload.base in event.lineage[:reach]
        judge("upload-admissible", admissible, f"{where}: its base is {upload.base}")
        rule = event.step.rule if event.step else "adamw"
        fits = _RULES.get(upload.kind) == rule
        judge("upload-kind", fits, f"{where} is a {upload.kind}, the step is by {rule}")
        upload.fate, upload.applied_in = "applied", event.version
        return upload

    def _refuse(
        self, record: Record, refused: RefusedUpload, marks: Mapping[str, int]
    ) -> UploadEntry | None:
        upload = self._find(record.at, refused, None)
        if upload is None:
            return None
        if refused.reason == "overlap" and not upload.fate:
            upload.reduce_to(_beyond(marks, upload.source))
        where = f"{record.at}: {refused.upload_id} at {refused.at}"
        judge = self._books.findings.judge
        judge("settled-upload", _counts(refused, upload), where)
        judge("upload-settled-once", not upload.fate, f"{where} was {upload.fate}")
        self._books.findings.refused[refused.reason] += 1
        if not upload.fate:
            upload.fate = "refused"
        return upload

    def _find(
        self, at: str, settled: AppliedUpload | RefusedUpload, policy: str | None
    ) -> UploadEntry | None:
        """The upload at the position that a version names; None where it is another or none."""
        position = code_of(settled.at, UPLOADS)
        upload = None if position is None else self._uploads.entries.get(position)
        right = (
            upload is not None
            and upload.upload_id == settled.upload_id
            and policy in (None, upload.policy)
        )
        deleted = position is not None and upload is None and self._was_deleted(position)
        where = f"{at}: {settled.upload_id} is not at {settled.at}"
        self._books.findings.judge("settled-upload", right or deleted, where)
        return upload if right else None

    def _was_deleted(self, position: int) -> bool:
        number, offset = decode(position)
        return self._books.bounds.was_deleted(Partition(UPLOADS, number), offset)

    # -- sums -------------------------------------------------------------------------------

    def _add_up(
        self,
        policy: PolicyEntry,
        at: str,
        event: WeightVersion | UploadsRefused,
        settled: Sequence[UploadEntry],
        marks: Mapping[str, int],
    ) -> None:
        totals = _summed(policy.totals, settled)
        judge = self._books.findings.judge
        judge("version-totals", event.totals == totals, f"{at}: {event.totals}, not {totals}")
        judge("version-marks", dict(event.marks) == marks, f"{at}: {event.marks}, not {marks}")

    def _judge_resume(
        self, policy: PolicyEntry, at: str, resume: Mapping[str, int], settled: Sequence[int]
    ) -> None:
        back = [n for n, offset in policy.resume.items() if resume.get(n, 0) < offset]
        behind = [
            f"{UPLOADS}-{number}"
            for number, offset in map(decode, settled)
            if resume.get(f"{UPLOADS}-{number}", 0) <= offset
        ]
        ahead = [n for n, offset in resume.items() if not self._is_in_log(n, offset)]
        wrong = sorted({*back, *behind, *ahead})
        self._books.findings.judge("version-resume", not wrong, f"{at}: {', '.join(wrong)}")

    def _is_in_log(self, name: str, offset: int) -> bool:
        partition, bounds = partition_of(name), self._books.bounds
        if partition is None or partition.topic != UPLOADS:
            return False
        return offset <= bounds.read_to(partition) or offset <= bounds.log(partition)[1]

    # -- the end ----------------------------------------------------------------------------

    def settle_uploads(self) -> None:
        """Say of every upload that no version names whether it is dead, lost or open."""
        for upload in self._uploads.entries.values():
            if not upload.fate:
                upload.fate = self._fate(upload)
            self._books.findings.counts[f"uploads_{upload.fate}"] += 1
        self._books.findings.counts["uploads"] = len(self._uploads.entries)

    def _fate(self, upload: UploadEntry) -> str:
        if self._books.dead.has(UPLOADS, upload.position):
            return "dead"
        policy = self.policies.get(upload.policy)
        lost = policy is not None and policy.has_read(upload.position)
        where = f"{upload.at}: {upload.upload_id} was read, and neither applied nor refused"
        self._books.findings.judge("upload-lost", not lost, where)
        return "lost" if lost else "open"

    def name_objects(self) -> None:
        """Say which objects of versions and uploads must be in the store."""
        refs = self._books.refs
        for policy in self.policies.values():
            for number, version in policy.versions.items():
                if number in policy.expired:
                    refs.expire(version.objects)
                else:
                    refs.need(version.objects, version.at)
            self._books.findings.counts["versions_expired"] += len(policy.expired)
        for upload in self._uploads.entries.values():
            self._uploads.name_objects(upload, self._keeps_chunks(upload))

    def _keeps_chunks(self, upload: UploadEntry) -> bool:
        """Whether the chunks are needed: for the proof of a kept version, or for a step to come."""
        policy = self.policies.get(upload.policy)
        if upload.fate == "applied":
            return policy is not None and upload.applied_in not in policy.expired
        return upload.fate == "open" and (policy is None or self._may_be_used(policy, upload))

    def _may_be_used(self, policy: PolicyEntry, upload: UploadEntry) -> bool:
        head = policy.versions.get(policy.newest)
        chain = (policy.newest, *head.lineage) if head else ()
        reach = self._staleness_max(upload.mission) + 1
        return upload.base > policy.newest or upload.base in chain[:reach]


def _counts(settled: AppliedUpload | RefusedUpload, upload: UploadEntry) -> bool:
    return (settled.groups, settled.dropped) == (len(upload.groups), len(upload.dropped))


def _summed(totals: Totals, settled: Sequence[UploadEntry]) -> Totals:
    used = [upload for upload in settled if upload.fate == "applied"]
    unused = [upload for upload in settled if upload.fate != "applied"]
    return Totals(
        groups=totals.groups + sum(len(u.groups) + len(u.dropped) for u in settled),
        samples=totals.samples + sum(u.rollouts for u in used),
        uploads=totals.uploads + len(used),
        dropped=totals.dropped + sum(len(u.dropped) for u in settled),
        refused=totals.refused + sum(len(u.groups) for u in unused),
    )


def _advanced(marks: Mapping[str, int], source: Sources) -> dict[str, int]:
    moved = dict(marks)
    for name, (start, stop) in source.items():
        if start < stop:
            moved[name] = max(moved.get(name, 0), stop)
    return moved


def _beyond(marks: Mapping[str, int], source: Sources) -> Sources:
    """The part of a source that lies behind the marks."""
    ranges = {
        name: (max(start, marks.get(name, 0)), stop) for name, (start, stop) in source.items()
    }
    return {name: (start, stop) for name, (start, stop) in ranges.items() if start < stop}
