"""The records of a topic, decoded: the log for notebooks and for consumers.

from consumers.read import read

for record in read("evaluations", policy="main"):
    print(record.at, record.event.version, record.event.accuracy)
"""

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from infra.interpreter import run_in_memory
from infra.log import Log, LogUnavailable, StateReader
from infra.store import ObjectStore
from schemas.effects import Steps
from schemas.learning import Spilling
from schemas.records import Partition, Record
from schemas.topics import TOPICS, NewerSchema, Undecodable, decode
from streams.learning.spill import whole

E = TypeVar("E", bound=Spilling)
_POLL_S = 0.2
_BATCH = 1000
Ends = Mapping[Partition, tuple[int, int]]


def read(
    topic: str,
    *,
    log: Log | None = None,
    mission: str | None = None,
    policy: str | None = None,
    follow: bool = False,
    raw: bool = False,
) -> Iterator[Record]:
    """All committed records of a topic from the first to the end as of now, in order per partition.

    `follow` goes on with what comes. A record that does not decode has `event` None; it belongs to
    no mission and no policy, so a filter leaves it out. `raw` decodes nothing and cannot filter.
    Without `log` the cluster of the settings is read. Raises ValueError for an unknown topic,
    `LogUnavailable` when the log stands still.
    """
    if topic not in TOPICS:
        raise ValueError(f"no topic {topic!r}: there are {', '.join(TOPICS)}")
    if raw and (mission or policy):
        raise ValueError("raw records are not decoded, so they cannot be filtered by their content")
    records = _records(log or _log_of_settings(), topic, follow)
    if raw:
        return records
    return (r for r in map(decoded, records) if belongs(r, mission, policy))


def decoded(record: Record) -> Record:
    """The record with its event, or with None where the bytes are no event of its topic."""
    try:
        return replace(record, event=decode(record.partition.topic, record.value))
    except (Undecodable, NewerSchema):
        return record


def complete(event: E, store: ObjectStore) -> E:
    """The event with the fields that were moved to an object because it would be too large.

    Raises `MissingObject`, `BadSpill`, `StoreUnavailable`.
    """
    found: list[E] = []

    def steps() -> Steps:
        found.append((yield from whole(event)))
        return "commit"

    run_in_memory(steps(), store)
    return found[0]


def belongs(record: Record, mission: str | None, policy: str | None) -> bool:
    """Whether the event is of this mission and this policy; None takes all.

    Where an event names no mission (or no policy), the filter cannot match it.
    """
    wanted = {"mission_id": mission, "policy": policy}
    return all(
        value is None or getattr(record.event, field, None) == value
        for field, value in wanted.items()
    )


def read_until(log: Log, ends: Ends, patience_s: float = 120.0) -> Generator[Record, None, None]:
    """The committed records inside these offsets, waiting for open transactions to settle.

    Raises `LogUnavailable` after `patience_s` without a record: a transaction that hangs.
    """
    topics = sorted({partition.topic for partition in ends})
    reader = log.state_reader({p: first for p, (first, _) in ends.items()})
    try:
        reader.snapshot(topics)
        since = time.monotonic()
        while reader.behind(topics):
            records = reader.poll(_BATCH, _POLL_S)
            since = time.monotonic() if records else since
            if time.monotonic() - since > patience_s:
                raise LogUnavailable(
                    f"{', '.join(topics)}: nothing came for {patience_s:.0f} s before the end; "
                    "a transaction hangs open (the broker ends it after its timeout): try again"
                )
            yield from (r for r in records if r.offset < ends[r.partition][1])
    finally:
        reader.close()


def follow_from(log: Log, start: Mapping[Partition, int]) -> Iterator[Record | None]:
    """Records as they are committed, for ever; None when nothing came for a moment."""
    reader: StateReader = log.state_reader(start)
    try:
        while True:
            records = reader.poll(_BATCH, _POLL_S)
            yield from records
            if not records:
                yield None
    finally:
        reader.close()


def _records(log: Log, topic: str, follow: bool) -> Iterator[Record]:
    ends = log.ends(topic)
    if not follow:
        yield from read_until(log, ends)
        return
    yield from (r for r in follow_from(log, {p: first for p, (first, _) in ends.items()}) if r)


def _log_of_settings() -> Log:
    from infra.connect import connect_log
    from infra.settings import settings

    return connect_log(settings())
