"""From an event to a message, and from a record that cannot be used to its dead letter."""

import base64
import functools
from collections.abc import Mapping

from infra.log import Message
from schemas.base import Event
from schemas.effects import Bury
from schemas.headers import headers_of
from schemas.learning import DeadLetter


def message(event: Event) -> Message:
    """The message of an event."""
    value = event.to_bytes()
    return Message(event.topic, event.key.encode(), value, headers_of(event, value))


def live_message(event: Event) -> Message:
    """The message of an event on a control path: its headers name the schema alone.

    What else tools are helped by would take longer to make than the value; an event's `source`
    says what it follows from.
    """
    return Message(event.topic, event.key.encode(), event.to_bytes(), _schema_header(event.type))


@functools.cache
def _schema_header(name: str) -> Mapping[str, bytes]:
    return {"schema": name.encode()}


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
