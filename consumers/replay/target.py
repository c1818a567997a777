"""The sandbox that a replay goes into: made, found empty, or taken up where a replay ended."""

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import replace

from consumers.replay.errors import AlreadyThere, BadReplay
from consumers.replay.sending import origin_of
from infra.copying import Raw, original_of
from infra.log import Log, LogUnavailable
from infra.overlay import SANDBOX
from schemas.records import Partition
from schemas.topics import FOR_EVER, PROVISIONED, Topic

_HEADER_BYTES = 1024
"""Room for `replay-of` in a record that was as large as its topic takes."""
_WINDOW = 200
_POLL_S = 0.05
_SILENT_POLLS = 400


def refuse_in_place(source: str, into: str) -> None:
    """Raise `BadReplay` unless the namespace `into` is a sandbox, and not the source's own."""
    if not into.startswith(SANDBOX) or into == SANDBOX:
        raise BadReplay(
            f"a replay goes into a sandbox, never into the namespace {into!r}, whose topics it "
            f"would change: name a sandbox (`{SANDBOX}NAME.`)"
        )
    if source == into:
        raise BadReplay(
            f"{into!r} is the namespace that is replayed: a replay never goes in place; name "
            "another sandbox"
        )


def prepare(source: Log, into: Log, topics: Collection[str]) -> list[str]:
    """Make all topics in the sandbox, those replayed with as many partitions as they have here.

    Nothing in a sandbox is deleted for its age: records keep their old timestamps, so it would go
    at once. Answers the topics made. Raises `LogError`, also where one is there with another count.
    """
    return into.provision([_of_a_sandbox(source, topic, topics) for topic in PROVISIONED])


def _of_a_sandbox(source: Log, topic: Topic, replayed: Collection[str]) -> Topic:
    return replace(
        topic,
        partitions=len(source.ends(topic.name)) if topic.name in replayed else topic.partitions,
        retention_ms=FOR_EVER,
        max_event_bytes=topic.max_event_bytes + _HEADER_BYTES,
    )


def copied_so_far(
    into: Log, namespace: str, partitions: Collection[Partition]
) -> dict[Partition, int]:
    """The offset of the original that the last copy in each partition is of; none where none is.

    A partition's copies are in the order of their originals, so all before are there too. Raises
    `LogError`.
    """
    found = {}
    for topic in sorted({partition.topic for partition in partitions}):
        for partition, ends in into.ends(topic).items():
            if partition in partitions:
                last = _last_copy(into, partition, ends, origin_of(namespace, partition))
                if last is not None:
                    found[partition] = last
    return found


def refuse_twice(into: Log, topics: Collection[str], name: str) -> None:
    """Raise `AlreadyThere` where the sandbox holds records of these topics."""
    held = {topic: _held(into.ends(topic)) for topic in topics}
    if any(held.values()):
        what = ", ".join(f"{count:,} in {topic}" for topic, count in held.items() if count)
        raise AlreadyThere(
            f"sandbox {name} holds records already ({what}): --resume goes on after the last copy, "
            f"--append adds to them, `ralo replay drop {name}` empties it, or name another sandbox"
        )


def _held(ends: Mapping[Partition, tuple[int, int]]) -> int:
    return sum(after - first for first, after in ends.values())


def _last_copy(log: Log, at: Partition, ends: tuple[int, int], origin: str) -> int | None:
    """Look backward, for processors in the sandbox may have written after the last copy."""
    first, after = ends
    window = _WINDOW
    while after > first:
        begin = max(first, after - window)
        for raw in reversed(_between(log, at, begin, after)):
            original = original_of(raw.headers)
            if original and original.startswith(f"{origin}@"):
                return int(original.rpartition("@")[2])
        after, window = begin, window * 4
    return None


def _between(log: Log, at: Partition, first: int, after: int) -> list[Raw]:
    found: list[Raw] = []
    with closing(log.raw_reader(at, first)) as reader:
        silent = 0
        while reader.position < after:
            records = reader.poll(after - reader.position, _POLL_S)
            silent = 0 if records else silent + 1
            if silent > _SILENT_POLLS:
                raise LogUnavailable(f"{at.topic}[{at.number}]@{reader.position}: nothing comes")
            found += records
    return [raw for raw in found if raw.offset < after]
