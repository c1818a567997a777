"""Ranges of a partition in words, after those of Redpanda's `rpk topic consume --offset`.

    start              all                     end          nothing
    47  47:            from offset 47 on       :47          up to it, itself not
    10:20              offsets 10 to 19        +2           without the first two
    -3                 the last three          :+2  -5:-2   the first two; the last five less two
    @-10m  @-2h:-1h    by time before now      @-1h:10m     ten minutes of it, an hour ago
    @2026-11-22T00:00:00Z   @2026-11-22:1h   @1795305600000   @1795305600:end

The offsets are per partition and half-open, as in the `source` of events. Markers of transactions
take offsets too, so three offsets may hold fewer records.
"""

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from infra.log import Log
from schemas.records import Partition

ALLOWED = (
    "allowed are `start`, `end`, `47`, `47:`, `:47`, `10:20`, `+2` (without the first two), "
    "`-3` (the last three), and times: `@-10m:end`, `@-2h:-1h`, `@2026-11-22T00:00:00Z`, "
    "`@2026-11-22:1h`, `@1795305600000` (milliseconds)"
)
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SPAN = r"(?:\d+(?:ms|[smhdw]))+"
_CLOCK = r"\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:\d\d)?"
_TIME = rf"\d{{4}}-\d\d-\d\d(?:T{_CLOCK})?|\d{{13}}|\d{{9,10}}|-{_SPAN}|start|end"
_OFFSET = r"[+-]?\d{1,18}|start|end"
_OFFSETS = re.compile(rf"(?P<first>{_OFFSET})?(?P<to>:(?P<next>{_OFFSET})?)?", re.ASCII)
_TIMES = re.compile(rf"@(?P<first>{_TIME})?(?P<to>:(?P<next>{_TIME}|{_SPAN})?)?", re.ASCII)


class BadRange(ValueError):
    """The words are no range."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range: so many offsets after (`start`, `offset`) or before (`end`), or a time.

    `amount` is in offsets, of `time` in milliseconds since 1970.
    """

    anchor: Literal["start", "end", "offset", "time"]
    amount: int = 0

    def offset(self, log: Log, partition: Partition, ends: tuple[int, int]) -> int:
        """Where it lies in a partition that holds `ends`; may lie outside of them."""
        match self.anchor:
            case "start":
                return ends[0] + self.amount
            case "end":
                return ends[1] - self.amount
            case "offset":
                return self.amount
            case "time":
                return log.offset_at(partition, self.amount)


_START, _END = Bound("start"), Bound("end")


@dataclass(frozen=True, slots=True)
class Range:
    """From the first bound on, up to the next, which is not in it."""

    first: Bound = _START
    next: Bound = _END


def parse_range(text: str, now_ms: int | None = None) -> Range:
    """The range in words; times relative to now are settled here, so they are once for all topics.

    Raises `BadRange`, which says what is allowed.
    """
    found = _TIMES.fullmatch(text) or _OFFSETS.fullmatch(text)
    if not found or not text.strip(":@"):
        raise BadRange(f"no range {text!r}: {ALLOWED}")
    range_ = _of_times(found, now_ms) if text.startswith("@") else _of_offsets(found)
    first, after = range_.first, range_.next
    if first.anchor == after.anchor and first.amount != after.amount:
        backward = first.amount > after.amount
        if backward != (first.anchor == "end"):
            raise BadRange(f"the range {text!r} ends before it begins: {ALLOWED}")
    return range_


def ends_of(log: Log, topic: str, range: Range) -> dict[Partition, tuple[int, int]]:
    """Per partition the first offset of the range and the next after it, inside what the log holds.

    A bound in time is the first offset that has this timestamp or a later one, as Kafka has it.
    Raises `LogError`.
    """
    found = {}
    for partition, ends in log.ends(topic).items():
        low, high = ends
        first = min(max(range.first.offset(log, partition, ends), low), high)
        after = min(max(range.next.offset(log, partition, ends), first), high)
        found[partition] = (first, after)
    return found


def _of_offsets(found: re.Match[str]) -> Range:
    first, after = found["first"], found["next"]
    return Range(_bound(first) if first else _START, _bound(after) if after else _END)


def _bound(text: str) -> Bound:
    match text[0]:
        case "s":
            return _START
        case "e":
            return _END
        case "+":
            return Bound("start", int(text))
        case "-":
            return Bound("end", -int(text))
    return Bound("offset", int(text))


def _of_times(found: re.Match[str], now_ms: int | None) -> Range:
    now = int(time.time() * 1000) if now_ms is None else now_ms
    first = _moment(found["first"], now) if found["first"] else _START
    after = found["next"]
    if not after:
        return Range(first, _END)
    if not re.fullmatch(_SPAN, after):
        return Range(first, _moment(after, now))
    if first.anchor != "time":
        raise BadRange(f"{found[0]!r}: a length needs a time that it begins at: {ALLOWED}")
    return Range(first, Bound("time", first.amount + _span_ms(after)))


def _moment(text: str, now_ms: int) -> Bound:
    if text in ("start", "end"):
        return _bound(text)
    if text.startswith("-"):
        return Bound("time", max(0, now_ms - _span_ms(text[1:])))
    if text.isdecimal():
        return Bound("time", int(text) if len(text) == 13 else int(text) * 1000)
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadRange(f"no time {text!r} ({error}): {ALLOWED}") from None
    return Bound(
        "time", round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
    )


def _span_ms(text: str) -> int:
    parts = re.findall(r"(\d+)(ms|[smhdw])", text)
    return sum(int(number) * _UNITS_MS[unit] for number, unit in parts)
