"""What of a batch of sample groups is learnt from: pure functions of the batch and the head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from schemas.base import Sources
from schemas.effects import Unready
from schemas.ids import digest
from schemas.learning import Dropped, GroupUse, SampleGroup, WeightVersion
from schemas.records import Batch, Partition, Record
from streams.learning.admission import chain

Reason = Literal["stale", "abandoned", "cancelled", "unreadable"]
Spanned = tuple[Record, Sources]


@dataclass(frozen=True, slots=True)
class Run:
    """Part of a batch that one upload stands for: groups of one mission in canonical order."""

    mission_id: str
    records: Sequence[Record]
    source: Sources
    dead: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Used:
    """One group to learn from, its record, and how many steps it is behind the head."""

    group: SampleGroup
    record: Record
    staleness: int

    def use(self) -> GroupUse:
        """How an upload lists it."""
        group = self.group
        return GroupUse(
            group_id=group.group_id,
            at=self.record.at,
            version=group.version,
            rollouts=group.size,
        )


@dataclass(slots=True)
class Sifted:
    """What a run is learnt from, in order, and what not."""

    used: list[Used] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def drop(self, record: Record, reason: Reason) -> None:
        """List a group as not learnt from."""
        dropped = Dropped(group_id=group_of(record).group_id, at=record.at, reason=reason)
        self.dropped.append(dropped)


def group_of(record: Record) -> SampleGroup:
    """The group in a record; raises TypeError for any other event."""
    if not isinstance(record.event, SampleGroup):
        raise TypeError(f"{record.at}: a trainer works on sample groups, not {record.event!r}")
    return record.event


def runs_of(batch: Batch, otherwise: str) -> Iterator[Run]:
    """Cut a batch into runs of one mission each; nearly always one, `otherwise` of an empty batch.

    Records are taken by partition and offset; in each partition the sources of the runs follow one
    another, and what lies behind the last record belongs to the last run.
    """
    left = sorted(
        zip(batch.records, batch.spans, strict=True),
        key=lambda item: (item[0].partition.topic, item[0].partition.number, item[0].offset),
    )
    source = batch.source
    while left:
        mission = group_of(left[0][0]).mission_id
        taken, left = _leading(left, mission)
        records = [record for record, _ in taken]
        if not left:
            yield Run(mission, records, source, batch.dead)
            return
        covered = union([span for _, span in taken])
        yield Run(mission, records, covered)
        source = _without(source, covered)
    yield Run(otherwise, (), source, batch.dead)


def _leading(left: Sequence[Spanned], mission: str) -> tuple[list[Spanned], list[Spanned]]:
    """In each partition, the records up to the first of another mission; and the others."""
    taken: list[Spanned] = []
    others: list[Spanned] = []
    passed: set[Partition] = set()
    for record, span in left:
        if group_of(record).mission_id != mission:
            passed.add(record.partition)
        (others if record.partition in passed else taken).append((record, span))
    return taken, others


def union(spans: Sequence[Sources]) -> Sources:
    """The smallest ranges that cover all of the spans, by partition."""
    covered: Sources = {}
    for span in spans:
        for name, (start, stop) in span.items():
            first, last = covered.get(name, (start, stop))
            covered[name] = (min(first, start), max(last, stop))
    return covered


def _without(source: Sources, covered: Sources) -> Sources:
    """The ends of the ranges of `source` behind those of `covered`."""
    starts = {name: stop for name, (_, stop) in covered.items()}
    rest = {name: (starts.get(name, first), last) for name, (first, last) in source.items()}
    return {name: (first, last) for name, (first, last) in rest.items() if first < last}


def sift(run: Run, head: WeightVersion, staleness_max: int) -> Sifted:
    """Keep what may be learnt from under this head; raises `Unready` when the head is behind."""
    versions = chain(head)
    dead = [Dropped(group_id="", at=at, reason="unreadable") for at in run.dead]
    sifted = Sifted(dropped=dead)
    for record in run.records:
        group = group_of(record)
        if group.version > head.version:
            raise Unready(f"{record.at} was sampled under version {group.version}, not seen yet")
        reason = refusal(group, versions, staleness_max)
        if reason is None:
            sifted.used.append(Used(group, record, versions.index(group.version)))
        else:
            sifted.drop(record, reason)
    return sifted


def refusal(group: SampleGroup, versions: Sequence[int], staleness_max: int) -> Reason | None:
    """Why a group is not learnt from; `versions` is the head's chain, itself first.

    Staleness is the number of steps back along the chain; a version that a rollback left behind
    is not on it.
    """
    if group.outcome == "cancelled":
        return "cancelled"
    if group.version in versions:
        return "stale" if versions.index(group.version) > staleness_max else None
    return "stale" if group.version < versions[-1] else "abandoned"


def fault(group: SampleGroup, vocabulary: int, positions: int | None) -> str:
    """What makes a group unfit for a model of this vocabulary and length; "" when nothing does."""
    prompt = group.prompt_tokens
    if not prompt or not group.rollouts:
        return f"{len(prompt)} prompt tokens, {len(group.rollouts)} rollouts"
    for index, rollout in enumerate(group.rollouts):
        tokens = rollout.tokens
        if not tokens or len(tokens) != len(rollout.logprobs):
            return f"rollout {index}: {len(tokens)} tokens, {len(rollout.logprobs)} logprobs"
        if not all(0 <= token < vocabulary for token in (*prompt, *tokens)):
            return f"rollout {index}: a token is outside the vocabulary of {vocabulary}"
        if positions is not None and len(prompt) + len(tokens) > positions:
            return f"rollout {index}: longer than the model's {positions} positions"
    return ""


def records_digest(used: Sequence[Used]) -> str:
    """SHA-256 over the raw values of the records, one after another."""
    return digest(b"".join(one.record.value or b"" for one in used))
