"""How far consumer groups are behind: not in offsets, but in records that are for them.

A transactional processor works for one policy and passes over what is another's; markers of
transactions take offsets and are nobody's work. So a group may be offsets behind and have nothing
to do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from consumers.read import decoded
from consumers.selection.spans import Reading
from infra.log import Log, LogUnavailable
from schemas.records import Partition, Record

OF_ONE_POLICY = ("sampler", "trainer", "aggregator", "evaluator", "gate")
"""The processors whose groups are named after the policy that they work for."""

LOOKED_AT = 10_000
"""Offsets of a partition that are looked at; a group farther behind waits for at least as many."""

_PATIENCE_S = 0.5
"""How long an open transaction is waited for; what it holds waits for nobody yet."""


@dataclass(frozen=True, slots=True)
class Lag:
    """What of a partition waits for a group.

    `offsets` is what Kafka calls lag, `records` those of them that are the group's work, `since_ms`
    the timestamp of the first one. `whole` says whether all offsets were looked at: if not, there
    may be more records.
    """

    group: str
    partition: Partition
    committed: int | None
    end: int
    offsets: int
    records: int
    since_ms: int | None
    whole: bool


def policy_of(group: str) -> str | None:
    """The policy that a group works for; None where it takes everything."""
    kind, _, policy = group.partition(".")
    return policy if policy and kind in OF_ONE_POLICY else None


def lags(
    log: Log, group: str, marks: Mapping[Partition, int], looked_at: int = LOOKED_AT
) -> Iterator[Lag]:
    """The lag of a group in all partitions of the topics that it has committed offsets of.

    Raises `LogError`.
    """
    topics = sorted({partition.topic for partition in marks})
    spans = {
        partition: (max(marks.get(partition, first), first), end)
        for topic in topics
        for partition, (first, end) in log.ends(topic).items()
    }
    # All are made before the first is waited for, so that they fetch at the same time.
    readings = {
        partition: Reading(log, partition, at, min(end, at + looked_at), _PATIENCE_S)
        for partition, (at, end) in spans.items()
    }
    for partition, (at, end) in spans.items():
        records, since_ms = _count(readings[partition], policy_of(group))
        yield Lag(
            group=group,
            partition=partition,
            committed=marks.get(partition),
            end=end,
            offsets=max(0, end - at),
            records=records,
            since_ms=since_ms,
            whole=end <= at + looked_at,
        )


def _count(reading: Reading, policy: str | None) -> tuple[int, int | None]:
    count, since_ms = 0, None
    try:
        for record in reading:
            if _is_for(record, policy):
                count += 1
                since_ms = record.timestamp_ms if since_ms is None else since_ms
    except LogUnavailable:
        # A transaction is open; it is counted when it is committed.
        pass
    return count, since_ms


def _is_for(record: Record, policy: str | None) -> bool:
    """Whether a group takes it, by the rules of the driver's intake."""
    if policy is None:
        return True
    if (named := record.headers.get("policy")) is not None and named != policy.encode():
        return False
    return bool(getattr(decoded(record).event, "policy", policy) == policy)
