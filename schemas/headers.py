"""The headers of an event: hints for tools and readers, none is required."""

import functools

from schemas.base import Event
from schemas.ids import digest


def headers_of(event: Event, value: bytes) -> dict[str, bytes]:
    """Schema, trace, mission and policy of an event whose bytes are `value`."""
    headers = {"schema": event.type.encode(), "traceparent": traceparent(event, value)}
    for name, header in (("mission_id", "mission-id"), ("policy", "policy")):
        text = getattr(event, name, None)
        if text:
            headers[header] = str(text).encode()
    return headers


def traceparent(event: Event, value: bytes) -> bytes:
    """W3C trace context: one trace a problem, or else a mission; the span is the event's hash."""
    trace = getattr(event, "problem_id", None) or getattr(event, "mission_id", None) or event.key
    return f"00-{_trace_id(str(trace))}-{digest(value)[:16]}-01".encode()


@functools.lru_cache(maxsize=1024)
def _trace_id(text: str) -> str:
    return digest(text.encode())[:32]
