"""Whether a record is what its writer wrote: the span in its `traceparent` is the value's hash."""

from schemas.ids import digest
from schemas.records import Record

_SPAN = slice(36, 52)
_TRACE = slice(3, 35)


def fault(record: Record) -> str | None:
    """Why the record cannot be what was written there, or None; without a header nobody knows.

    Missions may come from any producer, whose tracing puts other spans there: of these only a
    trace that is the mission's own is judged.
    """
    header = record.headers.get("traceparent", b"").decode(errors="replace")
    ours = record.partition.topic != "missions" or header[_TRACE] == _trace_of(record)
    if not header or not ours:
        return None
    span = digest(record.value or b"")[: _SPAN.stop - _SPAN.start]
    if header[_SPAN] != span:
        unread = "" if record.event is not None else "; and it does not decode"
        return (
            f"its bytes hash to {span}…, its header says that {header[_SPAN] or 'nothing'}… was "
            f"written: they were changed since{unread}"
        )
    key = record.key.decode(errors="replace") if record.key is not None else None
    if record.event is not None and key is not None and key != record.event.key:
        return f"its key is {key!r}, its value says {record.event.key!r}"
    return None


def _trace_of(record: Record) -> str:
    return digest(record.key or b"")[:32]
