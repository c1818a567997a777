"""What a recording is made of: messages, each with the schema that a viewer reads it by."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from schemas.base import Event
from schemas.records import Record

EPOCH_LIMIT_MS = 946_684_800_000
"""2000-01-01: an earlier wall clock is not set, and a viewer would show decades of nothing."""

_PLAIN = ("boolean", "string", "number", "integer")


@dataclass(frozen=True, slots=True)
class Schema:
    """What a viewer knows a message by."""

    name: str
    encoding: str
    data: bytes

    @property
    def message_encoding(self) -> str:
        """How messages of this schema are written."""
        return "json" if self.encoding == "jsonschema" else self.encoding


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a recording; times in ns of UTC, of the log and of what the message tells."""

    topic: str
    schema: Schema
    data: bytes
    logged_ns: int
    published_ns: int
    sequence: int = 0


def entry_of(record: Record, event: Event) -> Entry:
    """The event itself, byte by byte as it is in the log; its offset is the sequence number."""
    logged_ms, published_ms = times_of(record, event)
    schema = event_schema(event.type)
    topic = f"{_prefix(event)}/{event.type}"
    times = ns(logged_ms), ns(published_ms)
    return Entry(topic, schema, record.value or b"", *times, record.offset)


def ns(at_ms: float) -> int:
    """A time in nanoseconds, exact to the microsecond: a float has no more digits."""
    return round(at_ms * 1000) * 1000


def times_of(record: Record, event: Event) -> tuple[float, float]:
    """When the log got it, and when it happened by the wall clock of who says it."""
    happened_ms = float(getattr(event, "wall_ms", 0.0))
    logged_ms = float(record.timestamp_ms)
    known = [t for t in (logged_ms, happened_ms) if t > EPOCH_LIMIT_MS]
    if not known:
        raise ValueError(f"{record.at}: neither the log nor the event has a time of day")
    return known[0], known[-1]


def _prefix(event: Event) -> str:
    robot_id = getattr(event, "robot_id", None)
    return f"/{robot_id}" if robot_id else ""


# -- schemas ------------------------------------------------------------------------------------


@functools.cache
def event_schema(type_: str) -> Schema:
    """The schema of an event, as viewers take it."""
    text = (files("schemas") / "generated" / f"{type_}.schema.json").read_text()
    name = "ralo." + "".join(part.capitalize() for part in type_.split("-"))
    plain = viewable(json.loads(text)) | {"title": name}
    return Schema(name, "jsonschema", json.dumps(plain, separators=(",", ":")).encode())


def viewable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON Schema without what viewers refuse: references, alternatives, maps, nested lists.

    A field that cannot be said without these is left out; it stays in the data all the same.
    """
    found = _plain(schema, schema.get("$defs", {}))
    return found if found is not None else {"type": "object", "properties": {}}


def _plain(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any] | None:
    if "$ref" in schema:
        return _plain(defs[str(schema["$ref"]).rpartition("/")[2]], defs)
    if "anyOf" in schema:
        others = [one for one in schema["anyOf"] if one.get("type") != "null"]
        return _plain(others[0], defs) if len(others) == 1 else None
    kind = schema.get("type")
    if kind in _PLAIN:
        return _described({"type": kind}, schema)
    if kind == "array":
        item = _plain(schema.get("items", {}), defs)
        plain = item is not None and item["type"] != "array"
        return _described({"type": "array", "items": item}, schema) if plain else None
    if kind != "object" or "properties" not in schema:
        return None
    fields = {name: _plain(field, defs) for name, field in schema["properties"].items()}
    kept = {name: field for name, field in fields.items() if field is not None}
    return _described({"type": "object", "properties": kept}, schema)


def _described(plain: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    return plain | {key: schema[key] for key in ("title", "description") if key in schema}
