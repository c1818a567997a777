"""Looking for records in a partition: by fields in their bytes, before anything is decoded."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

from consumers.trace.reading import Reading
from schemas.records import Partition, Record

FEW = 8
"""So many texts are looked for one by one; more are found by taking the field out of the bytes."""


@dataclass(frozen=True, slots=True)
class Test:
    """A record has this text or number in a field of this name, at any depth, or in a header."""

    field: str
    value: str | int
    in_header: bool = False


@dataclass(frozen=True, slots=True)
class Until:
    """Nothing more is to come after a record of `key` and `policy` with a field above `over`.

    `field` is a name as in the event; a range counts by where it begins.
    """

    field: str
    over: int
    key: bytes = b""
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """Where to look, and for what: all records that pass the test, from `start` to `until`."""

    partition: Partition
    test: Test
    start: int = 0
    since_ms: int | None = None
    until: Until | None = None
    one: bool = False
    """Whether the first that is found will do."""


@dataclass
class Sweep:
    """All looks at one partition in one reading."""

    reading: Reading
    partition: Partition
    texts: dict[str, set[bytes]] = field(default_factory=dict)
    numbers: dict[str, set[bytes]] = field(default_factory=dict)
    headers: dict[str, set[bytes]] = field(default_factory=dict)
    untils: dict[tuple[str, bytes, str], int] = field(default_factory=dict)
    start: int | None = None
    endless: bool = False

    def add(self, look: Look) -> None:
        """Take in one look."""
        sort = self.texts if isinstance(look.test.value, str) else self.numbers
        sort = self.headers if look.test.in_header else sort
        sort.setdefault(look.test.field, set()).add(str(look.test.value).encode())
        start = look.start
        if look.since_ms is not None:
            start = max(start, self.reading.since(self.partition, look.since_ms))
        self.start = start if self.start is None else min(self.start, start)
        if look.until is None:
            self.endless = True
            return
        end = look.until.field, look.until.key, look.until.policy
        self.untils[end] = max(look.until.over, self.untils.get(end, -1))

    def records(self, start: int | None = None, stop: int | None = None) -> Iterator[Record]:
        """The records that pass a test, in order, up to where nothing more is to come."""
        begin = self.start or 0 if start is None else start
        end = self.reading.of(self.partition)[1] if stop is None else stop
        left = dict(self.untils)
        for record in self.reading.span(self.partition, begin, end):
            data = record.value or b""
            if self._passes(data) or self._is_headed(record):
                yield record
            if not self.endless and self._is_over(record, data, left):
                return

    def _passes(self, data: bytes) -> bool:
        return any(_has_text(data, name, some) for name, some in self.texts.items()) or any(
            not some.isdisjoint(_number(name).findall(data)) for name, some in self.numbers.items()
        )

    def _is_headed(self, record: Record) -> bool:
        return any(record.headers.get(name) in some for name, some in self.headers.items())

    def _is_over(
        self, record: Record, data: bytes, left: dict[tuple[str, bytes, str], int]
    ) -> bool:
        for (name, key, policy), over in list(left.items()):
            if (key and record.key != key) or (policy and f'"{policy}"'.encode() not in data):
                continue
            found = _mark(name).search(data)
            if found and int(found.group(1)) > over:
                del left[name, key, policy]
        return not left


def sweeps(reading: Reading, looks: Iterable[Look]) -> list[Sweep]:
    """The looks, one sweep a partition."""
    found: dict[Partition, Sweep] = {}
    for look in looks:
        found.setdefault(look.partition, Sweep(reading, look.partition)).add(look)
    return list(found.values())


def _has_text(data: bytes, name: str, some: set[bytes]) -> bool:
    if len(some) <= FEW:
        return any(b'"' + text + b'"' in data for text in some)
    return not some.isdisjoint(_text(name).findall(data))


@cache
def _text(name: str) -> re.Pattern[bytes]:
    return re.compile(rb'"%s":\s*"([^"]*)"' % name.encode())


@cache
def _number(name: str) -> re.Pattern[bytes]:
    return re.compile(rb'"%s":\s*(\d+)' % name.encode())


@cache
def _mark(name: str) -> re.Pattern[bytes]:
    return re.compile(rb'"%s":\s*\[?(\d+)' % name.encode())
