"""What `ralo replay` says: what is selected, how far it is, and what was copied."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infra.cli.records import utc
from infra.cli.stack import duration, megabytes, say

if TYPE_CHECKING:
    from consumers.replay import Checked, Pace, Sent, Survey
    from consumers.selection import Range
    from consumers.selection.ranges import Bound

RECORDS_PER_S, BYTES_PER_S = 50_000, 30e6
"""What a slow machine copies in a second: for saying how long it takes at most."""
QUIET_S = 2.0
LISTED = 10
_WIDTH = 24


def at_most_s(found: Survey) -> float:
    """How long copying takes at most, as fast as it goes."""
    return max(found.records / RECORDS_PER_S, found.size_bytes.total() / BYTES_PER_S)


def absolute(range_: Range) -> str:
    """The range in words that mean the same later."""
    if range_.first.anchor != "time" and range_.next.anchor != "time":
        return f"{_bound(range_.first)}:{_bound(range_.next)}"
    return f"@{_bound(range_.first)}:{_bound(range_.next)}"


def _bound(bound: Bound) -> str:
    match bound.anchor:
        case "start":
            return f"+{bound.amount}" if bound.amount else "start"
        case "end":
            return f"-{bound.amount}" if bound.amount else "end"
        case _:
            return str(bound.amount)


# -- what is selected ---------------------------------------------------------------------------


def survey_document(
    found: Survey, checked: Checked, pace: Pace | None, seconds: float
) -> dict[str, Any]:
    """A dry run as JSON has it."""
    topics: dict[str, dict[str, Any]] = {}
    for (topic, kind), count in sorted((found.counts or {}).items()):
        size_bytes = found.size_bytes[topic, kind]
        topics.setdefault(topic, {})[kind] = {"records": count, "bytes": size_bytes}
    return {
        "records": found.records,
        "bytes": found.size_bytes.total(),
        "topics": topics,
        "first_ms": found.first_ms,
        "last_ms": found.last_ms,
        "span_s": found.span_s,
        "speed": pace.speed if pace else "max",
        "takes_s": round(seconds, 3),
        "references": references_document(checked),
    }


def references_document(checked: Checked) -> dict[str, Any]:
    """What was found of the objects that events name."""
    return {
        "objects": checked.objects,
        "bytes": checked.size_bytes,
        "faults": len(checked.faults),
        "first_faults": checked.faults[:LISTED],
    }


def show_survey(found: Survey, checked: Checked, pace: Pace | None, seconds: float) -> None:
    """Print a dry run for a person."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("topic", "event"):
        table.add_column(name)
    for name in ("records", "size"):
        table.add_column(name, justify="right")
    for (topic, kind), count in sorted((found.counts or {}).items()):
        table.add_row(topic, kind, f"{count:,}", megabytes(found.size_bytes[topic, kind]))
    Console(highlight=False).print(table)
    size = megabytes(found.size_bytes.total())
    print(f"{found.records:,} records, {size}, of {duration(found.span_s)}")
    if found.first_ms is not None and found.last_ms is not None:
        print(f"from {utc(found.first_ms)} to {utc(found.last_ms)}")
    speed = f"at speed {pace.speed:g} it takes" if pace else "as fast as it goes it takes at most"
    print(f"{speed} {duration(seconds)}")
    for line in _reference_lines(checked):
        print(line)


def refusal(checked: Checked) -> str:
    """Why a replay is refused."""
    return (
        f"{_few(checked)}\n{len(checked.faults):,} of {checked.objects:,} objects that the events "
        "name are not as they were: processors that read them will wait for them and give up. "
        "Select less, or replay all the same with --allow-missing"
    )


def _reference_lines(checked: Checked) -> Iterator[str]:
    if checked.objects:
        of = f"{checked.objects:,} objects are named, {megabytes(checked.size_bytes)}"
        yield f"{of}: {'all there' if not checked.faults else 'not all there'}"
    if checked.faults:
        yield refusal(checked)


def _few(checked: Checked) -> str:
    more = len(checked.faults) - LISTED
    lines = checked.faults[:LISTED] + ([f"… and {more:,} more"] if more > 0 else [])
    return "\n".join(lines)


class Telling:
    """One line on stderr every two seconds: so many of so many are done."""

    def __init__(self, what: str) -> None:
        self._what, self._said = what, time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        """So many are done."""
        if time.monotonic() - self._said > QUIET_S:
            self._said = time.monotonic()
            say(f"replay: {done:,} of {of:,} {self._what}")


# -- while it goes on ---------------------------------------------------------------------------


@contextmanager
def bar(sent: Sent, found: Survey, pace: Pace | None) -> Iterator[None]:
    """A bar on stderr, in a thread of its own: a slow terminal must not delay what is sent."""
    ended = threading.Event()
    terminal = sys.stderr.isatty()
    total, began_s = found.records, time.monotonic()

    def draw() -> None:
        from consumers.replay.promptness import come_first

        if pace is not None:
            come_first()
        wait_s = QUIET_S
        while not ended.wait(wait_s):
            wait_s = 0.5 if terminal else 5.0
            text = _line(sent, total, time.monotonic() - began_s, pace)
            print(text, end="\r" if terminal else "\n", file=sys.stderr, flush=True)

    thread = threading.Thread(target=draw, name="replay bar", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if terminal:
            print(" " * 100, end="\r", file=sys.stderr, flush=True)


def _line(sent: Sent, total: int, elapsed_s: float, pace: Pace | None) -> str:
    share = min(1.0, sent.records / total) if total else 1.0
    filled = round(share * _WIDTH)
    drawn = "█" * filled + "░" * (_WIDTH - filled)
    text = f"replay {drawn} {share:4.0%}  {sent.records:,} of {total:,}, {duration(elapsed_s)}"
    if pace is None:
        return f"{text}, {sent.records / max(elapsed_s, 1e-9):,.0f} records/s".ljust(100)
    at = utc(sent.now_ms) if sent.records else "waiting"
    return f"{text}, at {at}, {max(0.0, elapsed_s - sent.due_s):.1f} s after the last".ljust(100)


# -- what was copied ----------------------------------------------------------------------------


def sent_document(
    sent: Sent, checked: Checked, sandbox: str, namespace: str, pace: Pace | None
) -> dict[str, Any]:
    """A replay as JSON has it; times are in milliseconds, and only of one that has a pace."""
    return {
        "sandbox": sandbox,
        "namespace": namespace,
        "speed": pace.speed if pace else "max",
        "records": sent.records,
        "bytes": sent.size_bytes,
        "topics": dict(sorted(sent.topics.items())),
        "seconds": round(sent.seconds, 3),
        "records_per_s": round(sent.records / max(sent.seconds, 1e-9), 1),
        **(sent.punctuality.figures() if pace else {}),
        "last": {f"{p.topic}[{p.number}]": sent.last[p] for p in sorted(sent.last, key=str)},
        "references": references_document(checked),
        "interrupted": sent.interrupted,
    }


def show_sent(document: dict[str, Any]) -> None:
    """Print what was copied for a person."""
    counts = ", ".join(f"{count:,} of {topic}" for topic, count in document["topics"].items())
    print(
        f"{document['records']:,} records ({counts or 'none'}), {megabytes(document['bytes'])}, "
        f"in {document['seconds']:.1f} s, into {document['namespace']}"
    )
    if "late_ms" in document:
        late, off = document["late_ms"], document["interval_off_ms"]
        print(
            f"late: p50 {late['p50']:.2f} ms, p99 {late['p99']:.2f} ms, at most "
            f"{late['max']:.1f} ms; times between records off by p99 {off['p99']:.2f} ms"
        )
    if document["references"]["faults"]:
        print(f"{document['references']['faults']:,} objects that they name are not there")
    if document["interrupted"]:
        print(f"stopped before the end; this goes on:\n  {document['resume']}")
