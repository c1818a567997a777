"""The flat vector is the concatenation of the shards' data sections."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from streams.learning.layout import (
    LayoutError,
    chunk_ranges,
    data_offset,
    header_bytes,
    read_layout,
)


def shards() -> dict[str, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    shapes = {
        "model-00001.safetensors": {"wte": (5, 3), "bias": (3,), "scale": ()},
        "model-00002.safetensors": {"head": (2, 3), "alpha": (4,)},
    }
    return {
        shard: {n: random.normal(size=s).astype(np.float32) for n, s in tensors.items()}
        for shard, tensors in shapes.items()
    }


def test_every_slot_is_its_tensor_in_the_concatenated_data() -> None:
    tensors = shards()
    files = {shard: save(content) for shard, content in tensors.items()}
    layout = read_layout({shard: header_bytes(data) for shard, data in files.items()})
    flat = np.frombuffer(b"".join(files[s][data_offset(files[s]) :] for s in sorted(files)), "<f4")
    assert layout.total == flat.size == 5 * 3 + 3 + 1 + 2 * 3 + 4
    for slot in layout.slots:
        tensor = tensors[slot.shard][slot.name]
        assert slot.shape == tensor.shape
        assert np.array_equal(flat[slot.start : slot.stop].reshape(slot.shape), tensor)
    assert layout.shards() == {
        "model-00001.safetensors": (0, 19),
        "model-00002.safetensors": (19, 29),
    }


def test_the_header_of_a_file_is_the_header_of_its_bytes(tmp_path: Path) -> None:
    tensors = {"a": np.zeros((2, 2), np.float32)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    path = tmp_path / "a.safetensors"
    assert header_bytes(path) == header_bytes(path.read_bytes())
    assert path.read_bytes()[data_offset(header_bytes(path)) :] == bytes(16)


def test_the_hash_follows_names_shapes_and_order() -> None:
    def sha(**tensors: np.ndarray) -> str:
        return read_layout({"m": save(tensors)}).sha256

    one = np.zeros((2, 3), np.float32)
    assert sha(a=one) == sha(a=one + 1)
    assert len({sha(a=one), sha(b=one), sha(a=one.T.copy())}) == 3
    assert read_layout({"other": save({"a": one})}).sha256 == sha(a=one)


def test_chunks_cover_the_vector_once() -> None:
    assert chunk_ranges(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert chunk_ranges(8, 4) == [(0, 4), (4, 8)]
    assert chunk_ranges(3, 4) == [(0, 3)]


def test_other_dtypes_are_refused_by_name() -> None:
    half = save({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float16)})
    with pytest.raises(LayoutError, match=r"m: tensor b is F16, master weights are float32"):
        read_layout({"m": half})


@pytest.mark.parametrize("data", [b"", b"\x05\0\0\0\0\0\0\0nonsense", b"\x02\0\0\0\0\0\0\0[]"])
def test_what_is_no_safetensors_file_is_refused(data: bytes) -> None:
    with pytest.raises(LayoutError):
        read_layout({"m": data})


def test_holes_and_overlaps_are_refused() -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}
    text = json.dumps({"a": entry}).encode()
    with pytest.raises(LayoutError, match="does not fill"):
        read_layout({"m": len(text).to_bytes(8, "little") + text})


def test_a_name_in_two_shards_is_refused() -> None:
    data = save({"a": np.zeros(2, np.float32)})
    with pytest.raises(LayoutError, match="one name in two shards"):
        read_layout({"m": data, "n": data})
