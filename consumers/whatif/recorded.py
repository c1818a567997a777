"""What a policy learnt from, in the order in which it did: all that a what-if feeds again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from consumers.audit.store import StoreChecker
from consumers.read import complete, read
from consumers.whatif.errors import BadWhatIf
from infra.log import Log
from infra.store import ObjectStore
from schemas.ids import digest
from schemas.learning import (
    Evaluation,
    GradientUpload,
    RefusedUpload,
    SampleGroup,
    UploadsRefused,
    WeightVersion,
)
from schemas.missions import Mission, MissionReport
from schemas.records import Record, parse_at
from schemas.tensors import ObjectRef
from schemas.topics import (
    EVALUATIONS,
    GRADIENT_CHUNKS,
    MISSIONS,
    SAMPLES,
    WEIGHT_VERSIONS,
    decode,
)

Report = Callable[[str], None]


@dataclass
class Course:
    """One mission of the policy: its records, and the first and last entry that are of it."""

    mission: Record
    prepared: Record | None = None
    drained: Record | None = None
    first: int = -1
    last: int = -1


@dataclass(frozen=True)
class Entry:
    """One record of `gradient-chunks`, and the places of the samples to feed for it.

    By partition and offset, as the trainer takes a batch. `left_out`: those of an upload that was
    refused because another had named them.
    """

    record: Record
    samples: tuple[str, ...] = ()
    left_out: int = 0


@dataclass(frozen=True)
class History:
    """What came of a policy's uploads, in the log that they are in; manifests are complete."""

    uploads: Sequence[Record]
    versions: Sequence[WeightVersion]
    refused: Sequence[RefusedUpload]
    evaluations: Sequence[Evaluation]

    def head_after(self, entry: Record) -> int:
        """The newest version once this record of `gradient-chunks` was worked on."""
        name, reached = str(entry.partition), entry.offset + 1
        return max(v.version for v in self.versions if v.resume.get(name, 0) <= reached)


@dataclass(frozen=True)
class Recorded:
    """A policy's log from its first event to the last of one mission's."""

    mission: Mission
    courses: Mapping[str, Course]
    entries: Sequence[Entry]
    samples: Mapping[str, Record]
    history: History
    refs: Sequence[ObjectRef] = field(repr=False)


def gather(
    log: Log, store: ObjectStore, mission_id: str, report: Report = lambda line: None
) -> Recorded:
    """Read all that a what-if of this mission needs, and check that it is all there.

    Raises `BadWhatIf` where something is not: a record that retention took, or a missing object.
    """
    courses, mission = _courses(log, mission_id)
    history = history_of(log, store, mission.policy)
    entries = _entries(history, courses, mission_id)
    wanted = {place for entry in entries for place in entry.samples}
    report(f"reading {len(wanted):,} recorded sample groups")
    samples = {r.at: r for r in read(SAMPLES.name, log=log, raw=True) if r.at in wanted}
    refs = [*_prepared_refs(courses.values()), *_sample_refs(entries, samples)]
    report(f"checking {len(refs):,} objects that they name")
    _must_be_there(store, refs)
    return Recorded(mission, courses, entries, samples, history, refs)


def history_of(log: Log, store: ObjectStore, policy: str) -> History:
    """What the log has of a policy's uploads and versions."""
    uploads = list(read(GRADIENT_CHUNKS.name, log=log, policy=policy))
    versions, refused = list[WeightVersion](), list[RefusedUpload]()
    for record in read(WEIGHT_VERSIONS.name, log=log, policy=policy):
        if isinstance(record.event, WeightVersion):
            versions.append(complete(record.event, store))
            refused += versions[-1].refused
        elif isinstance(record.event, UploadsRefused):
            refused += record.event.refused
    found = (record.event for record in read(EVALUATIONS.name, log=log, policy=policy))
    return History(uploads, versions, refused, [e for e in found if isinstance(e, Evaluation)])


def _courses(log: Log, mission_id: str) -> tuple[dict[str, Course], Mission]:
    """The missions of the policy of this one, in the order of the log."""
    records = list(read(MISSIONS.name, log=log))
    missions = [r for r in records if isinstance(r.event, Mission)]
    wanted = next((m for m in map(_mission, missions) if m.mission_id == mission_id), None)
    if wanted is None:
        known = ", ".join(dict.fromkeys(_mission(r).mission_id for r in missions)) or "none"
        raise BadWhatIf(f"no learning mission {mission_id!r} in the log; there are: {known}")
    courses: dict[str, Course] = {}
    for record in missions:
        if _mission(record).policy == wanted.policy:
            courses.setdefault(_mission(record).mission_id, Course(record))
    for record in records:
        report = record.event
        if isinstance(report, MissionReport) and report.mission_id in courses:
            _note(courses[report.mission_id], report.stage, record)
    return courses, wanted


def _mission(record: Record) -> Mission:
    assert isinstance(record.event, Mission)
    return record.event


def _note(course: Course, stage: str, record: Record) -> None:
    if stage == "prepared":
        course.prepared = course.prepared or record
    elif stage == "drained":
        course.drained = course.drained or record


def _entries(history: History, courses: dict[str, Course], mission_id: str) -> list[Entry]:
    """The uploads, closes and rollbacks up to the mission's last; courses learn where theirs are.

    Each sample is in one entry: the first that names it.
    """
    for index, record in enumerate(history.uploads):
        course = courses.get(getattr(record.event, "mission_id", ""))
        if course:
            course.first = index if course.first < 0 else course.first
            course.last = index
    end = courses[mission_id].last + 1
    if not end or not history.versions:
        raise BadWhatIf(f"mission {mission_id}: the log has no gradient of it yet")
    overlaps = {one.at for one in history.refused if one.reason == "overlap"}
    seen: set[str] = set()
    return [_entry(record, overlaps, seen) for record in history.uploads[:end]]


def _entry(record: Record, overlaps: set[str], seen: set[str]) -> Entry:
    upload = record.event
    if not isinstance(upload, GradientUpload):
        return Entry(record)
    # A dead letter is listed without the id of its group: there is nothing to learn from it.
    named = [one.at for one in upload.groups] + [d.at for d in upload.dropped if d.group_id]
    if record.at in overlaps:
        return Entry(record, left_out=len(named))
    fresh = sorted((at for at in named if at not in seen), key=_place)
    seen.update(fresh)
    return Entry(record, tuple(fresh))


def _place(at: str) -> tuple[int, int]:
    partition, offset = parse_at(at)
    return partition.number, offset


def _prepared_refs(courses: Iterable[Course]) -> Iterator[ObjectRef]:
    for course in courses:
        report = course.prepared.event if course.prepared and course.first >= 0 else None
        if isinstance(report, MissionReport):
            yield from (*report.base_files.values(), *report.base_shards.values())
            yield from [report.heldout] if report.heldout else []


def _sample_refs(entries: Sequence[Entry], samples: Mapping[str, Record]) -> Iterator[ObjectRef]:
    """The objects of samples, each sample held against the upload that was made of it."""
    for entry in entries:
        for place in entry.samples:
            if place not in samples:
                raise BadWhatIf(
                    f"{place}: upload {entry.record.at} was made of it, and it is not in the log "
                    "any more"
                )
            group = decode(SAMPLES.name, samples[place].value)
            assert isinstance(group, SampleGroup)
            yield from (ref for ref in (group.rollouts_ref, group.episodes_ref) if ref)
        upload = entry.record.event
        if isinstance(upload, GradientUpload) and entry.samples:
            _must_be_read(entry.record.at, upload, samples)


def _must_be_read(at: str, upload: GradientUpload, samples: Mapping[str, Record]) -> None:
    known = [samples[one.at].value or b"" for one in upload.groups if one.at in samples]
    if len(known) == len(upload.groups) and digest(b"".join(known)) != upload.records_sha256:
        raise BadWhatIf(
            f"{at}: the records at its {len(known)} places are not those that it was made of: was "
            "the log changed, or is it another one?"
        )


def _must_be_there(store: ObjectStore, refs: Sequence[ObjectRef]) -> None:
    faults = [text for _, text in StoreChecker(store).faults(refs)]
    if faults:
        more = f", and {len(faults) - 1} more" if faults[1:] else ""
        raise BadWhatIf(f"{faults[0]}{more}: what is to be replayed is not whole")
