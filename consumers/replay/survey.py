"""What is selected, looked at before anything is copied: offsets, counts, times, references."""

from array import array
from collections import Counter
from collections.abc import Mapping, MutableSequence
from dataclasses import dataclass, field, replace

from consumers.replay.offsets import Offsets
from consumers.replay.pace import Pace
from consumers.replay.references import Named, may_refer, named_by
from consumers.selection import Report, Selection
from infra.log import Log
from infra.store import ObjectStore
from schemas.records import Partition, Record


@dataclass
class Survey:
    """The selected records of some partitions; `counts` is None where they were not looked at."""

    offsets: dict[Partition, Offsets] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] | None = None
    """By topic and type of event; `undecodable` is a type here."""
    size_bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Of keys and values."""
    first_ms: int | None = None
    last_ms: int | None = None
    named: dict[Named, str] = field(default_factory=dict)
    """Objects that the events name, each with the place of the first event that does."""
    unreadable: list[str] = field(default_factory=list)
    """Events whose spilled fields could not be read, and why."""
    stamps_ms: MutableSequence[int] = field(default_factory=lambda: array("q"))

    @property
    def records(self) -> int:
        """How many they are; where they were not looked at, at most."""
        return sum(offsets.count for offsets in self.offsets.values())

    @property
    def span_s(self) -> float:
        """From the first record's time to the last's."""
        if self.first_ms is None or self.last_ms is None:
            return 0.0
        return (self.last_ms - self.first_ms) / 1000

    def seconds_at(self, pace: Pace) -> float:
        """How long it takes at this pace."""
        due_s = 0.0
        for stamp_ms in sorted(self.stamps_ms):
            due_s = pace.due_s(stamp_ms)
        return due_s

    def after(self, copied: Mapping[Partition, int]) -> "Survey":
        """What is left after these offsets."""
        left = {p: o.after(copied.get(p, -1)) for p, o in self.offsets.items()}
        return replace(self, offsets={p: offsets for p, offsets in left.items() if offsets})


def needs_survey(selection: Selection, references: bool) -> bool:
    """Whether records must be looked at before they are copied: for a filter, or what they name."""
    filters = (selection.mission, selection.policy, selection.key, selection.where)
    filtered = bool(selection.headers) or any(one is not None for one in filters)
    return filtered or (references and any(map(may_refer, selection.topics)))


def whole(log: Log, selection: Selection) -> Survey:
    """The selection's ranges as they are, without a look at the records. Raises `LogError`."""
    spans = [item for topic in selection.topics for item in selection.spans(log, topic).items()]
    return Survey({partition: Offsets([span]) for partition, span in spans if span[0] < span[1]})


def survey(
    log: Log,
    selection: Selection,
    store: ObjectStore | None,
    report: Report,
) -> Survey:
    """Read all that is selected; the store is for references, without one none are looked for.

    Where the selection is `raw`, events have no type unless a filter decoded them. Raises
    `LogError`, `StoreUnavailable`.
    """
    found = Survey(counts=Counter())
    for record in selection.records(log, report):
        _note(found, record, "" if selection.raw else "undecodable")
        if store is not None and may_refer(record.partition.topic):
            _note_references(found, record, store)
    return found


def _note(found: Survey, record: Record, no_type: str) -> None:
    offsets = found.offsets.get(record.partition)
    if offsets is None:
        offsets = found.offsets[record.partition] = Offsets()
    offsets.add(record.offset)
    kind = record.partition.topic, record.event.type if record.event else no_type
    assert found.counts is not None
    found.counts[kind] += 1
    found.size_bytes[kind] += len(record.value or b"") + len(record.key or b"")
    found.stamps_ms.append(record.timestamp_ms)
    first, last = found.first_ms, found.last_ms
    found.first_ms = record.timestamp_ms if first is None else min(first, record.timestamp_ms)
    found.last_ms = record.timestamp_ms if last is None else max(last, record.timestamp_ms)


def _note_references(found: Survey, record: Record, store: ObjectStore) -> None:
    if record.event is None:
        return
    names, problem = named_by(record.event, store)
    for name in names:
        found.named.setdefault(name, record.at)
    if problem:
        found.unreadable.append(f"{record.at}: {problem}")
