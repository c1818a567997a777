"""The flat vector of a model: where each tensor lies in it, and how it is cut into chunks.

The vector is the concatenation of the data sections of the weight shards, in the order of their
file names, so a slice of it is a slice of a file. Read from the safetensors headers alone.
Source: the safetensors format (8-byte little-endian length, JSON header, data).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

_LENGTH_BYTES = 8
ELEMENT_BYTES = 4
"""Master weights, gradients and optimizer state are float32."""


class LayoutError(ValueError):
    """A weight shard is no safetensors file of float32 tensors."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor: elements [start, stop) of the flat vector."""

    shard: str
    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class FlatLayout:
    """All tensors in order; `sha256` is over their names, shapes and order."""

    slots: tuple[Slot, ...]
    total: int
    sha256: str

    def shards(self) -> dict[str, tuple[int, int]]:
        """The elements [start, stop) of the flat vector in each shard, in file order."""
        ranges: dict[str, tuple[int, int]] = {}
        for slot in self.slots:
            start, _ = ranges.get(slot.shard, (slot.start, slot.start))
            ranges[slot.shard] = (start, slot.stop)
        return ranges


def header_bytes(source: Path | bytes) -> bytes:
    """The length and JSON header of a safetensors file, without its data; raises LayoutError."""
    if isinstance(source, bytes):
        return source[: data_offset(source)]
    with source.open("rb") as file:
        length = file.read(_LENGTH_BYTES)
        return length + file.read(data_offset(length) - _LENGTH_BYTES)


def data_offset(header: bytes) -> int:
    """How many bytes into the file the data starts; raises LayoutError."""
    if len(header) < _LENGTH_BYTES:
        raise LayoutError(f"no safetensors file: {len(header)} bytes, a header has 8 and more")
    return _LENGTH_BYTES + int.from_bytes(header[:_LENGTH_BYTES], "little")


def read_layout(headers: Mapping[str, bytes]) -> FlatLayout:
    """The layout of the shards {file name: header bytes}; raises LayoutError."""
    slots: list[Slot] = []
    for shard in sorted(headers):
        first = slots[-1].stop if slots else 0
        slots += _slots(shard, headers[shard], first)
    names = [slot.name for slot in slots]
    if not slots or len(set(names)) < len(names):
        raise LayoutError(f"shards {sorted(headers)}: no tensors, or one name in two shards")
    identity = json.dumps([[slot.name, slot.shape] for slot in slots], separators=(",", ":"))
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return FlatLayout(tuple(slots), slots[-1].stop, digest)


def chunk_ranges(total: int, chunk_elements: int) -> list[tuple[int, int]]:
    """The chunks [start, stop) of a vector; all but the last have `chunk_elements`."""
    starts = range(0, total, chunk_elements)
    return [(start, min(start + chunk_elements, total)) for start in starts]


def _slots(shard: str, header: bytes, first: int) -> list[Slot]:
    slots: list[Slot] = []
    end = 0
    for name, entry in _tensors(shard, header):
        start, stop = entry["data_offsets"]
        shape = tuple(int(n) for n in entry["shape"])
        if entry["dtype"] != "F32":
            raise LayoutError(
                f"{shard}: tensor {name} is {entry['dtype']}, master weights are float32 (F32)"
            )
        if start != end or stop - start != ELEMENT_BYTES * prod(shape):
            raise LayoutError(f"{shard}: tensor {name} does not fill its bytes [{start}, {stop})")
        end = stop
        slots.append(
            Slot(shard, name, shape, first + start // ELEMENT_BYTES, first + stop // ELEMENT_BYTES)
        )
    return slots


def _tensors(shard: str, header: bytes) -> list[tuple[str, dict[str, Any]]]:
    try:
        entries = json.loads(header[_LENGTH_BYTES : data_offset(header)])
        entries.pop("__metadata__", None)
        return sorted(entries.items(), key=lambda item: (*item[1]["data_offsets"], item[0]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LayoutError(f"{shard}: its safetensors header is not readable ({error!r})") from error
