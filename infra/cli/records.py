"""What `ralo cat` and `ralo tail` share: which records, and how they are printed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumers.pretty.document import document, text, why_not
from consumers.selection import Expression, Range, Selection
from infra.cli.stack import say

if TYPE_CHECKING:
    from consumers.pretty.references import Found
    from infra.store import ObjectStore
    from schemas.records import Record

QUIET_S = 2.0
"""A search that takes no longer says nothing of its progress."""

Key = Annotated[str | None, typer.Option(help="Only records with this key.")]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="NAME=VALUE", help="Only records with this header."),
]
Mission = Annotated[str | None, typer.Option(help="Only events of this mission.")]
Policy = Annotated[str | None, typer.Option(help="Only events of this policy.")]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="CEL",
        help="Only records of which this holds, such as 'event.version > 3 && key == \"main\"'. "
        "It may name topic, partition, offset, at, timestamp_ms, key, headers, event, size_bytes.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document a line.")]
Raw = Annotated[
    bool, typer.Option("--raw", help="Print values as they are, a line feed between two.")
]
Full = Annotated[bool, typer.Option("--full", help="Print the whole event.")]
Resolve = Annotated[
    bool, typer.Option("--resolve", help="Fetch and check what events refer to, and look at it.")
]

_PLACE = re.compile(r"(?P<topic>[a-z-]+)\[(?P<partition>\d+)\](?:@(?P<offset>\d+))?")
_FLAT_LIST = re.compile(r"\[\n[^\[\]{}]*\]")


class BadOption(ValueError):
    """An option, or two together, that make no sense; the message says what would."""


def selection(
    topics: Sequence[str],
    range: Range,
    key: str | None,
    headers: Sequence[str] | None,
    mission: str | None,
    policy: str | None,
    where: str | None,
    partition: int | None = None,
) -> Selection:
    """The records that the options ask for; raises `BadOption`, `BadSelection`, `BadExpression`."""
    expression = None if where is None else Expression(where)
    wanted = dict(map(_header, headers or ()))
    return Selection(
        tuple(topics), range, mission, policy, key, wanted, expression, partition=partition
    )


def place(text: str) -> tuple[str, int | None, int | None]:
    """Topic, partition and offset of `samples`, `samples[2]` or `samples[2]@41`."""
    found = _PLACE.fullmatch(text)
    if found is None:
        return text, None, None
    offset = found["offset"]
    return found["topic"], int(found["partition"]), None if offset is None else int(offset)


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise BadOption(f"--header {text!r}: write NAME=VALUE, such as mission-id=m1")
    return name, value


@dataclass(frozen=True)
class Style:
    """How records are printed; raises `BadOption` where two ways are asked for."""

    as_json: bool
    raw: bool
    full: bool
    resolve: bool

    def __post_init__(self) -> None:
        if self.raw and (self.as_json or self.full or self.resolve):
            raise BadOption("--raw prints bytes: it goes with none of --json, --full, --resolve")


class Printer:
    """Prints records on stdout."""

    def __init__(self, style: Style, store: ObjectStore | None) -> None:
        self._style, self._store = style, store
        self.printed = 0
        self._widths = [0, 0, 0]

    def __call__(self, record: Record) -> None:
        """Print one record."""
        if self._style.raw:
            between = b"\n" if self.printed else b""
            sys.stdout.buffer.write(between + (record.value or b""))
        elif self._style.as_json:
            print(json.dumps(self._document(record), allow_nan=False))
        else:
            for line in self._lines(record):
                print(line)
        self.printed += 1

    def _document(self, record: Record) -> dict[str, Any]:
        found = document(record)
        if self._style.resolve:
            found["resolved"] = [one.document() for one in self._resolved(record)]
        return found

    def _resolved(self, record: Record) -> Iterator[Found]:
        from consumers.pretty.references import resolved

        if record.event is not None and self._store is not None:
            yield from resolved(record.event, self._store)

    def _lines(self, record: Record) -> Iterator[str]:
        from consumers.pretty.lines import one_line

        event = record.event
        kind = "undecodable" if event is None else event.type
        short = why_not(record) if event is None else one_line(event)
        yield "  ".join([utc(record.timestamp_ms), *self._columns(record, kind), short])
        if self._style.full:
            yield from _indented(record)
        if self._style.resolve:
            for found in self._resolved(record):
                yield from found_lines(found)

    def _columns(self, record: Record, kind: str) -> Iterator[str]:
        # Each is as wide as the widest so far, so that lines soon stand in columns.
        for n, cell in enumerate((record.at, text(record.key or b""), kind)):
            self._widths[n] = max(self._widths[n], len(cell))
            yield cell.ljust(self._widths[n])


def _indented(record: Record) -> Iterator[str]:
    for name, value in record.headers.items():
        yield f"    header {name}: {text(value)}"
    if record.event is None:
        yield f"    {text(record.value or b'')}"
        return
    body = record.event.model_dump(mode="json", exclude_none=True)
    whole = json.dumps(body, indent=2, ensure_ascii=False)
    # Lists of numbers and words stand in a line; a line feed inside a text is an escape.
    flat = _FLAT_LIST.sub(lambda found: re.sub(r"\n\s*", " ", found[0]), whole)
    for line in flat.splitlines():
        yield f"    {line}"


def found_lines(found: Found) -> Iterator[str]:
    """A reference and what is at its other end, for a person."""
    word = found.state if found.state == "ok" else found.state.upper()
    yield f"    {found.path}  {found.ref.key}  {found.ref.size_bytes:,} B  {word}: {found.detail}"
    for tensor in found.tensors:
        shape = f"{tensor.dtype} {list(tensor.shape)}"
        parts = [f"        {tensor.name or 'tensor'}  {shape}"]
        if tensor.norm is not None:
            first = ", ".join("NaN" if v is None else f"{v:.4g}" for v in tensor.first)
            more = ", …" if tensor.elements > len(tensor.first) else ""
            parts.append(f"norm {tensor.norm:.6g}, {tensor.min:.4g} to {tensor.max:.4g}")
            parts.append(f"[{first}{more}]")
        if tensor.not_finite:
            parts.append(f"{tensor.not_finite:,} NOT FINITE")
        yield "  ".join(parts)


def utc(timestamp_ms: int) -> str:
    """A time as ranges take it: `2026-11-22T00:32:43.120Z`."""
    if timestamp_ms < 0:
        return "no time".ljust(24)
    when = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{timestamp_ms % 1000:03d}Z"


def store_for(style: Style) -> ObjectStore | None:
    """The store of the settings, where it is needed."""
    if not style.resolve:
        return None
    from infra.connect import connect_store
    from infra.settings import settings

    return connect_store(settings())


@contextlib.contextmanager
def until_it_is_enough(selected: Selection) -> Iterator[None]:
    """End cleanly when the reader of the output has gone, as `head` does, and on Ctrl-C.

    At the end it is said how many records an expression did not fit.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer would be written at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        raise typer.Exit(130) from None
    finally:
        where = selected.where
        if where is not None and where.unfit:
            say(f"--where could not be reckoned for {where.unfit:,} records, so they are left out")
            say(f"  the first: {where.unfit_because}")


def nobody_reads() -> bool:
    """Whether the reader of the output has gone; a write would tell, but there may be none."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


class Progress:
    """One line on stderr now and then, from the second after `QUIET_S` on, while none is found."""

    def __init__(self, verb: str) -> None:
        self._verb, self._said = verb, time.monotonic()

    def found(self) -> None:
        """Something was printed: that is progress enough."""
        self._said = time.monotonic()

    def __call__(self, what: str, done: int, of: int) -> None:
        """So many of so many offsets have been looked at."""
        if time.monotonic() - self._said > QUIET_S:
            self._said = time.monotonic()
            say(f"{self._verb}: {what}: {done:,} of {of:,} offsets looked at")
