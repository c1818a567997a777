"""Mends recordings that a crash tore, says what is in one, and takes sensor frames out of it."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcap.records import Channel, Message, Schema

from consumers.recorder.entries import Entry, event_schema
from consumers.recorder.entries import Schema as EntrySchema
from consumers.recorder.recording import NS_PER_MS, Recording
from consumers.recorder.scan import Scan

FRAMES = "sensor-frame"


@dataclass
class Summary:
    """What is in a recording."""

    path: str
    bytes: int
    messages: int = 0
    topics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By topic: the schema and how many messages there are."""
    first_ms: float | None = None
    last_ms: float | None = None
    chunks: int = 0
    about: dict[str, str] = field(default_factory=dict)
    damage: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From the first to the last message."""
        return ((self.last_ms or 0.0) - (self.first_ms or 0.0)) / 1000

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


def summarize(path: Path) -> Summary:
    """What is in a file, torn or whole; raises `NotMcap`."""
    scan, found = Scan(path), Summary(str(path), path.stat().st_size)
    for schema, channel, message in scan:
        _count(found, schema, channel, message)
    return _finish(found, scan)


def recover(torn: Path, whole: Path) -> Summary:
    """Write all that can be read of a file into a new one, with an index; answers what there was.

    Raises `NotMcap`, and FileExistsError where the new file is there already.
    """
    scan, found = Scan(torn), Summary(str(torn), torn.stat().st_size)
    recording = Recording(whole, {"recovered_from": torn.name})
    try:
        for schema, channel, message in scan:
            recording.write(_entry(schema, channel, message))
            _count(found, schema, channel, message)
    except BaseException:
        recording.close()
        whole.unlink()
        raise
    recording.close()
    return _finish(found, scan)


def extract_frames(path: Path, out: Path, robot: str | None = None) -> Counter[str]:
    """Write the sensor frames of a recording (of one robot, when named) as JSON Lines, in order.

    Answers how many there are of each robot; raises `NotMcap`.
    """
    name, counts = event_schema(FRAMES).name, Counter[str]()
    with out.open("wb") as lines:
        for schema, channel, message in Scan(path):
            if schema is None or schema.name != name:
                continue
            of = channel.topic.strip("/").partition("/")[0]
            if robot in (None, of):
                lines.write(message.data + b"\n")
                counts[of] += 1
    return counts


def _count(found: Summary, schema: Schema | None, channel: Channel, message: Message) -> None:
    at_ms = message.log_time / NS_PER_MS
    found.messages += 1
    found.first_ms = at_ms if found.first_ms is None else min(found.first_ms, at_ms)
    found.last_ms = at_ms if found.last_ms is None else max(found.last_ms, at_ms)
    topic = found.topics.setdefault(
        channel.topic, {"schema": schema.name if schema else "", "messages": 0}
    )
    topic["messages"] += 1


def _finish(found: Summary, scan: Scan) -> Summary:
    found.chunks, found.damage = scan.chunks, asdict(scan.damage) | {"any": scan.damage.any}
    found.topics = dict(sorted(found.topics.items()))
    for metadata in scan.metadata:
        found.about |= metadata.metadata
    return found


def _entry(schema: Schema | None, channel: Channel, message: Message) -> Entry:
    kept = EntrySchema("", "", b"")
    if schema is not None:
        kept = EntrySchema(schema.name, schema.encoding, schema.data)
    return Entry(
        channel.topic,
        kept,
        message.data,
        message.log_time,
        message.publish_time,
        message.sequence,
    )
