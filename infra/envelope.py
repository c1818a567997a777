"""From an event to a message: key, value and the headers that help tools."""

import base64
from collections.abc import Mapping

from infra.log import Message
from schemas.base import Event
from schemas.effects import Bury
from schemas.ids import digest
from schemas.learning import DeadLetter


def message(event: Event) -> Message:
    """The message of an event; headers are hints for tools and readers, none is required."""
    value = event.to_bytes()
    headers = {"schema": event.type.encode(), "traceparent": traceparent(event, value)}
    for name, header in (("mission_id", "mission-id"), ("policy", "policy")):
        text = getattr(event, name, None)
        if text:
            headers[header] = str(text).encode()
    return Message(event.topic, event.key.encode(), value, headers)


def traceparent(event: Event, value: bytes) -> bytes:
    """W3C trace context: one trace a problem, or else a mission; the span is the event's hash."""
    trace = getattr(event, "problem_id", None) or getattr(event, "mission_id", None) or event.key
    return f"00-{digest(str(trace).encode())[:32]}-{digest(value)[:16]}-01".encode()


def dead_letter(bury: Bury, processor: str) -> DeadLetter:
    """The event for a record that cannot be used."""
    record = bury.record
    return DeadLetter(
        at=record.at,
        origin_topic=record.partition.topic,
        origin_partition=record.partition.number,
        origin_offset=record.offset,
        reason=bury.reason,
        detail=bury.detail,
        processor=processor,
        key_base64=None if record.key is None else _text(record.key),
        value_base64=_text(record.value or b""),
        headers=_readable(record.headers),
        timestamp_ms=max(0, record.timestamp_ms),
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _readable(headers: Mapping[str, bytes]) -> dict[str, str]:
    return {name: value.decode(errors="replace") for name, value in headers.items()}
