"""Takes a batch in: skips other policies, decodes, and reckons what each record stands for."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from schemas.base import Sources
from schemas.effects import Bury
from schemas.records import Batch, Partition, Record
from schemas.topics import Undecodable, decode


@dataclass
class Taken:
    """Records taken so far: to work on, to bury, and the position after all of them."""

    records: list[Record] = field(default_factory=list)
    buried: list[Bury] = field(default_factory=list)
    first: dict[Partition, int] = field(default_factory=dict)
    after: dict[Partition, int] = field(default_factory=dict)
    skipped: int = 0

    def add(self, record: Record, policy: str | None) -> None:
        """Take one record; raises `NewerSchema`, then nothing of it is taken."""
        entry: Record | Bury | None = None
        if not foreign(record, policy):
            try:
                event = decode(record.partition.topic, record.value)
            except Undecodable as error:
                entry = Bury(record, "undecodable", str(error))
            else:
                if policy is None or getattr(event, "policy", policy) == policy:
                    entry = replace(record, event=event)
        match entry:
            case Record():
                self.records.append(entry)
            case Bury():
                self.buried.append(entry)
            case None:
                self.skipped += 1
        self.first.setdefault(record.partition, record.offset)
        self.after[record.partition] = record.offset + 1

    def batch(self, marks: Mapping[Partition, int]) -> Batch:
        """The batch, each record with its span from the end of the last published range."""
        at = dict(marks)
        for record in self.records:
            if record.offset < at[record.partition]:
                raise AssertionError(
                    f"{record.at} was read again: it lies below the mark {at[record.partition]}"
                )
        begin: dict[Partition, int] = {}
        spans: list[Sources] = []
        for record in self.records:
            partition = record.partition
            begin.setdefault(partition, at[partition])
            spans.append({str(partition): (at[partition], record.offset + 1)})
            at[partition] = record.offset + 1
        source = {str(p): (start, at[p]) for p, start in begin.items()}
        dead = [bury.record.at for bury in self.buried]
        return Batch(self.records, spans, source, dead)


def foreign(record: Record, policy: str | None) -> bool:
    """Whether its header says that it is another policy's; without the header, decode and see."""
    header = record.headers.get("policy")
    return policy is not None and header is not None and header != policy.encode()
