"""Single flipped bits and digits in what a log and a store hold, and a view of both with one."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from loop_world import Loop

from infra.log import StateReader
from infra.memory.log import MemoryLog
from schemas.learning import GradientUpload, Problem, SampleGroup, WeightVersion
from schemas.records import Partition, Record

_PROVED = (SampleGroup, GradientUpload, WeightVersion, Problem)


@dataclass(frozen=True)
class Flip:
    """One change: at a place of the log or in an object, and the bytes that are there then."""

    at: str
    data: bytes
    how: str


class ChangedReader:
    """A state reader that answers other bytes at one place."""

    def __init__(self, reader: StateReader, flip: Flip | None, headers: bool) -> None:
        self._reader, self._flip, self._headers = reader, flip, headers

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        return [self._changed(record) for record in self._reader.poll(max_records, timeout_s)]

    def _changed(self, record: Record) -> Record:
        if not self._headers:
            record = replace(record, headers={})
        if self._flip and record.at == self._flip.at:
            record = replace(record, value=self._flip.data)
        return record

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class ChangedLog(MemoryLog):
    """A log as it is but for one record; without `headers` as a foreign producer writes them."""

    def __init__(self, log: MemoryLog, flip: Flip | None = None, headers: bool = True) -> None:
        super().__init__(cluster=log.cluster)
        self._flip, self._headers = flip, headers

    def state_reader(self, start: Mapping[Partition, int]) -> Any:
        return ChangedReader(super().state_reader(start), self._flip, self._headers)


@contextmanager
def stored(loop: Loop, flip: Flip) -> Iterator[None]:
    """The store with the object changed, while this lasts."""
    before = loop.store.objects[flip.at]
    loop.store.objects[flip.at] = flip.data
    try:
        yield
    finally:
        loop.store.objects[flip.at] = before


def bit_flipped(data: bytes, choose: random.Random) -> bytes:
    """The bytes with one random bit flipped."""
    changed, bit = bytearray(data), choose.randrange(8 * len(data))
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def digit_changed(data: bytes, choose: random.Random) -> bytes:
    """JSON with one digit of one number replaced: it still decodes, most of the time."""
    where = choose.choice([i for i, byte in enumerate(data) if chr(byte).isdigit()])
    other = choose.choice([d for d in b"123456789" if d != data[where]])
    return data[:where] + bytes([other]) + data[where + 1 :]


def record_flips(loop: Loop, topics: Sequence[str], choose: random.Random) -> Iterator[Flip]:
    """For ever: a bit or a digit of a random record of these topics."""
    records = [r for r in loop.records(*topics) if isinstance(r.event, _PROVED)]
    while True:
        kind = choose.choice(sorted({type(r.event).__name__ for r in records}))
        record = choose.choice([r for r in records if type(r.event).__name__ == kind])
        how = choose.choice([bit_flipped, digit_changed])
        yield Flip(record.at, how(record.value or b"", choose), f"{how.__name__} in {kind}")


def object_flips(loop: Loop, choose: random.Random) -> Iterator[Flip]:
    """For ever: a bit of a random object of weights, gradients or samples, each kind as often."""
    kinds = ("gradients/", "weights/", "samples/")
    keys = {kind: sorted(k for k in loop.store.objects if k.startswith(kind)) for kind in kinds}
    while True:
        key = choose.choice(keys[choose.choice([kind for kind in kinds if keys[kind]])])
        yield Flip(key, bit_flipped(loop.store.objects[key], choose), "object")
