"""A flat vector of float32 that lies in files, read and written a slice at a time.

Plain reads and writes, no mapping: what is resident is the slices in hand, whatever the model's
size, and a section may start at any byte.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from streams.learning.layout import ELEMENT_BYTES, FlatLayout, data_offset, header_bytes

_DTYPE = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class Section:
    """Elements [start, stop) of the vector, from byte `offset_bytes` of a file on."""

    path: Path
    offset_bytes: int
    start: int
    stop: int


class FlatVector:
    """Sections that follow each other without a gap."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self._sections = tuple(sections)

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop), copied; raises EOFError where a file is too short."""
        parts = [self._read(section, a, b) for section, a, b in self._parts(start, stop)]
        return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def write(self, start: int, values: torch.Tensor) -> None:
        """Replace the elements from `start` on."""
        array = values.numpy()
        for section, a, b in self._parts(start, start + array.size):
            with section.path.open("r+b") as file:
                file.seek(section.offset_bytes + ELEMENT_BYTES * (a - section.start))
                file.write(memoryview(array[a - start : b - start]).cast("B"))

    def _parts(self, start: int, stop: int) -> Iterator[tuple[Section, int, int]]:
        for section in self._sections:
            a, b = max(start, section.start), min(stop, section.stop)
            if a < b:
                yield section, a, b

    @staticmethod
    def _read(
        section: Section, start: int, stop: int
    ) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        offset = section.offset_bytes + ELEMENT_BYTES * (start - section.start)
        array = np.fromfile(section.path, _DTYPE, stop - start, offset=offset)
        if array.size < stop - start:
            raise EOFError(f"{section.path} ends before element {stop} of the flat vector")
        return array


def scratch_vector(path: Path, total: int) -> FlatVector:
    """A new vector of zeros in a bare file."""
    _create(path, b"", total * ELEMENT_BYTES)
    return FlatVector([Section(path, 0, 0, total)])


def weights_vector(layout: FlatLayout, paths: Mapping[str, Path]) -> FlatVector:
    """The vector in the weight shards {file name: path}."""
    return FlatVector(
        [
            Section(paths[shard], data_offset(header_bytes(paths[shard])), start, stop)
            for shard, (start, stop) in layout.shards().items()
        ]
    )


def moments_vectors(layout: FlatLayout, paths: Mapping[str, Path]) -> tuple[FlatVector, FlatVector]:
    """Adam's `exp_avg` and `exp_avg_sq` in the optimizer shards {weight shard's name: path}."""
    first, second = [], []
    for shard, (start, stop) in layout.shards().items():
        offset = data_offset(header_bytes(paths[shard]))
        first.append(Section(paths[shard], offset, start, stop))
        second.append(Section(paths[shard], offset + ELEMENT_BYTES * (stop - start), start, stop))
    return FlatVector(first), FlatVector(second)


def create_weights(path: Path, like: Path) -> None:
    """A safetensors file of zeros with the header of another."""
    _create(path, header_bytes(like), like.stat().st_size)


def create_moments(path: Path, elements: int) -> None:
    """A safetensors file with zeros as `exp_avg` and `exp_avg_sq`, each of `elements`."""
    size = elements * ELEMENT_BYTES
    entries = {
        name: {"dtype": "F32", "shape": [elements], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(("exp_avg", "exp_avg_sq"))
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    _create(path, header, len(header) + 2 * size)


def _create(path: Path, header: bytes, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size_bytes)
