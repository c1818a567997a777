"""The books of uploads: what each was made of, and what became of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from consumers.audit.books import Books, Coverage
from consumers.audit.objects import Named, ObjectChecker
from consumers.audit.positions import code, code_of, decode, text
from consumers.audit.samples import GroupEntry, SampleBook
from schemas.base import Sources
from schemas.ids import digest
from schemas.learning import Dropped, GradientUpload, GroupUse
from schemas.records import Partition, Record
from schemas.tensors import Spilled
from schemas.topics import GRADIENT_CHUNKS, SAMPLES
from streams.learning.spill import BadSpill, moved_fields

TOPIC = GRADIENT_CHUNKS.name


@dataclass(slots=True)
class UploadEntry:
    """One upload; `fate` is applied, refused, dead, lost or open, and "" until it is known."""

    position: int
    upload_id: str
    policy: str
    kind: str
    mission: str
    base: int
    weight: float
    sha256: str
    source: Sources
    chunks: list[Named]
    spilled: Spilled | None
    groups: list[int] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)
    rollouts: int = 0
    fate: str = ""
    applied_in: int | None = None

    @property
    def at(self) -> str:
        """Where its record lies."""
        return text(TOPIC, self.position)

    @property
    def settled(self) -> bool:
        """Whether a version or a refusal accounts for its source."""
        return self.fate in ("applied", "refused")

    def reduce_to(self, source: Sources) -> None:
        """Account for this part of the source alone: an overlap repeats the rest."""
        self.source = source
        self.groups = [position for position in self.groups if _inside(source, position)]
        self.dropped = [(p, reason) for p, reason in self.dropped if _inside(source, p)]


class UploadBook:
    """All uploads of the log, by position."""

    def __init__(self, books: Books, samples: SampleBook, objects: ObjectChecker) -> None:
        self._books, self._samples, self._objects = books, samples, objects
        self.entries: dict[int, UploadEntry] = {}
        self.coverage = Coverage(books, "uploads", SAMPLES.name)

    def observe(self, record: Record, upload: GradientUpload) -> None:
        """Take in one upload."""
        entry = UploadEntry(
            position=code(record.partition.number, record.offset),
            upload_id=upload.upload_id,
            policy=upload.policy,
            kind=upload.kind,
            mission=upload.mission_id,
            base=upload.base_version,
            weight=upload.weight,
            sha256=digest(record.value or b""),
            source=upload.source,
            chunks=self._books.refs.named(upload.chunks),
            spilled=upload.spilled,
            rollouts=sum(group.rollouts for group in upload.groups),
        )
        entry.groups = [self._listed(use, upload, record.at) for use in upload.groups]
        entry.dropped = [(self._listed(d, upload, record.at), d.reason) for d in upload.dropped]
        self.entries[entry.position] = entry

    def _listed(self, use: GroupUse | Dropped, upload: GradientUpload, at: str) -> int:
        """The position of a listed group, judged against the record there."""
        position = code_of(use.at, SAMPLES.name)
        group = None if position is None else self._samples.entries.get(position)
        if group is not None:
            same = group.policy == upload.policy and _same(use, group)
        else:
            same = position is not None and self._has_no_group(use, position)
        where = f"{at}: {use.group_id or 'a dead letter'} at {use.at}"
        self._books.findings.judge("upload-of-groups", same, where)
        return -1 if position is None else position

    def _has_no_group(self, use: GroupUse | Dropped, position: int) -> bool:
        """Whether it is right that there is no group: a dead letter, or deleted by retention."""
        number, offset = decode(position)
        if self._books.bounds.was_deleted(Partition(SAMPLES.name, number), offset):
            return True
        return isinstance(use, Dropped) and self._books.dead.has(SAMPLES.name, position)

    def finish(self) -> None:
        """With every upload's fate known: cover its source, and settle its groups."""
        moving = [entry for entry in self.entries.values() if entry.settled]
        waiting = [e for e in self.entries.values() if e.fate in ("open", "lost")]
        for entry in moving:
            self.coverage.add(entry.policy, entry.source, entry.at)
            self._settle(entry)
        for entry in waiting:
            self.coverage.add(entry.policy, entry.source, entry.at, judged=False)
            self._keep_open(entry)

    def name_objects(self, entry: UploadEntry, needed: bool) -> None:
        """Say whether its chunks must be in the store, and their list where that is an object."""
        refs, chunks = self._books.refs, entry.chunks
        if entry.spilled is not None:
            chunks = [*chunks, *refs.named([entry.spilled])]
            chunks += self._listed_chunks(entry, entry.spilled) if needed else []
        if needed:
            refs.need(chunks, entry.at)
        else:
            refs.expire(chunks)

    def _listed_chunks(self, entry: UploadEntry, spilled: Spilled) -> list[Named]:
        data = self._objects.read(spilled)
        if data is None:
            return []  # The list itself is needed, and judged with all others.
        try:
            fields = moved_fields(GradientUpload, spilled, data)
        except BadSpill as error:
            self._books.findings.judge("reference", False, f"{entry.at}: {error}")
            return []
        return self._books.refs.named(fields.get("chunks", []))

    def _settle(self, entry: UploadEntry) -> None:
        fate = "learnt" if entry.fate == "applied" else "refused"
        for position, group in self._groups(entry.groups):
            self._settle_group(entry, position, group, fate)
        for (position, group), reason in zip(
            self._groups(p for p, _ in entry.dropped), (r for _, r in entry.dropped), strict=True
        ):
            if group is not None:
                self._books.findings.dropped[reason] += 1
            self._settle_group(entry, position, group, "dropped")

    def _settle_group(
        self, entry: UploadEntry, position: int, group: GroupEntry | None, fate: str
    ) -> None:
        if group is None:
            return
        judge, where = self._books.findings.judge, f"{entry.at}: {text(SAMPLES.name, position)}"
        again = {group.fate, fate} == {"learnt"}
        judge("group-learnt-once", not again, f"{where} is in another applied upload")
        both = {group.fate, fate} == {"learnt", "dropped"}
        judge("group-settled-once", not both, f"{where} is learnt from and dropped")
        if not again:
            inside = _inside(entry.source, position)
            judge("upload-of-groups", inside, f"{where} is outside its source")
        ranks = ("", "refused", "dropped", "learnt")
        group.fate = max(group.fate, fate, key=ranks.index)

    def _keep_open(self, entry: UploadEntry) -> None:
        listed = [*entry.groups, *(position for position, _ in entry.dropped)]
        for _, group in self._groups(listed):
            if group is not None:
                group.fate = group.fate or "open"

    def _groups(self, positions: Iterable[int]) -> Iterable[tuple[int, GroupEntry | None]]:
        return ((position, self._samples.entries.get(position)) for position in positions)


def _same(use: GroupUse | Dropped, group: GroupEntry) -> bool:
    if isinstance(use, Dropped):
        # A dead letter is listed without the id of its group.
        return use.group_id in ("", group.group_id)
    same_version = group.version in (None, use.version)
    same_rollouts = group.rollouts in (None, use.rollouts)
    return use.group_id == group.group_id and same_version and same_rollouts


def _inside(source: Sources, position: int) -> bool:
    number, offset = decode(position)
    start, stop = source.get(str(Partition(SAMPLES.name, number)), (0, 0))
    return start <= offset < stop
