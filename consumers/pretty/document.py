"""A record as one JSON document: what `--json` prints of it."""

import base64
from typing import Any

from schemas.records import Record
from schemas.topics import NewerSchema, Undecodable, decode


def document(record: Record) -> dict[str, Any]:
    """Where it lies, its key and headers, and the event; or its bytes and why they are none.

    A key that is no UTF-8 is in `key_base64` instead.
    """
    found: dict[str, Any] = {
        "topic": record.partition.topic,
        "partition": record.partition.number,
        "offset": record.offset,
        "at": record.at,
        "timestamp_ms": record.timestamp_ms,
        **_key(record.key),
        "headers": {name: text(value) for name, value in record.headers.items()},
    }
    if record.event is not None:
        return found | {"event": record.event.model_dump(mode="json", exclude_none=True)}
    value = None if record.value is None else base64.b64encode(record.value).decode()
    return found | {"value_base64": value, "undecodable": why_not(record)}


def why_not(record: Record) -> str:
    """Why the value is no event of its topic; empty where it is one."""
    try:
        decode(record.partition.topic, record.value)
    except (Undecodable, NewerSchema) as error:
        return str(error)
    return ""


def text(data: bytes) -> str:
    """The bytes as text; what is no UTF-8 is written as escapes."""
    return data.decode(errors="backslashreplace")


def _key(key: bytes | None) -> dict[str, str | None]:
    if key is None:
        return {"key": None}
    try:
        return {"key": key.decode()}
    except UnicodeDecodeError:
        return {"key": None, "key_base64": base64.b64encode(key).decode()}
