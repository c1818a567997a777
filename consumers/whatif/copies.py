"""Recorded records as messages for a sandbox: same bytes, key and time, and where they are from."""

from infra import envelope
from infra.copying import REPLAY_OF
from infra.log import Message
from schemas.base import Event
from schemas.records import Record


def copy_of(record: Record) -> Message:
    """The record as it is, with where it is from."""
    return Message(
        record.partition.topic,
        record.key,
        record.value or b"",
        {**record.headers, REPLAY_OF: record.at.encode()},
        record.timestamp_ms,
    )


def changed_copy(record: Record, event: Event) -> Message:
    """Another event in the place of a recorded one."""
    made = envelope.message(event)
    headers = {**made.headers, REPLAY_OF: record.at.encode()}
    return Message(made.topic, made.key, made.value, headers, record.timestamp_ms)
