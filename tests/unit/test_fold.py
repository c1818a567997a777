"""A step in chunks is the step of the whole vector: fold, norm, clip, AdamW."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from learning_steps import (
    CHUNK_BYTES,
    TOTAL,
    finished,
    flat_weights,
    gradient,
    layout_of,
    mission,
    prepared,
    reference_adamw,
    shard_bytes,
    upload,
    vector_of,
)
from safetensors.torch import load_file

from infra.memory.store import MemoryStore
from schemas.learning import WeightVersion
from schemas.missions import Mission, Training
from streams.learning.flat import FlatVector, Section, weights_vector
from streams.learning.fold import NotFinite, chunk_tensor, fold
from streams.learning.layout import chunk_ranges
from streams.learning.manifests import base_version
from streams.learning.optimizer import adam_step, learning_rate
from streams.learning.scratch import Scratch
from streams.learning.step import (
    Checkpoint,
    StepFiles,
    Unreadable,
    fetch_checkpoint,
    fetch_gradient,
    take_step,
)

CHUNK = CHUNK_BYTES // 4


def folded(folder: Path, gradients: list[torch.Tensor], weights: list[float], chunk: int) -> Any:
    vectors = [vector_of(folder / f"g{i}", g) for i, g in enumerate(gradients)]
    norm = fold(vectors, weights, chunk_ranges(gradients[0].numel(), chunk))
    return vectors[0].read(0, gradients[0].numel()), norm


def base(store: MemoryStore, of: Mission) -> WeightVersion:
    return base_version(of, prepared(store, of), layout_of(shard_bytes()))


def checkpoint(scratch: Scratch, store: MemoryStore, version: WeightVersion) -> Checkpoint:
    found: Checkpoint = finished(
        fetch_checkpoint(scratch, version.shards, version.optimizer), store
    )
    return found


def step(folder: Path, gradients: list[torch.Tensor], of: Mission) -> StepFiles:
    """One step from the base, in a folder of its own."""
    store, scratch = MemoryStore(), Scratch(folder)
    version = base(store, of)
    vectors = [(vector_of(folder / f"g{i}", g), 100.0) for i, g in enumerate(gradients)]
    return take_step(scratch, version, checkpoint(scratch, store, version), vectors, of.training, 1)


def weights_of(files: StepFiles) -> torch.Tensor:
    return flat_weights({name: path.read_bytes() for name, path in files.weights.items()})


def test_the_fold_is_the_weighted_mean(tmp_path: Path) -> None:
    gradients, weights = [gradient(i) for i in range(3)], [1.0, 2.5, 40.0]
    mean, norm = folded(tmp_path, gradients, weights, CHUNK)
    exact = sum(w * g.double() for w, g in zip(weights, gradients, strict=True)) / sum(weights)
    assert torch.allclose(mean.double(), exact, rtol=0, atol=1e-6)
    assert norm == pytest.approx(float(mean.double().norm()), rel=1e-12)


def test_the_fold_of_one_upload_is_its_gradient(tmp_path: Path) -> None:
    mean, _ = folded(tmp_path, [gradient(0)], [37.0], CHUNK)
    assert torch.equal(mean, gradient(0))


def test_the_fold_has_the_same_bits_however_it_is_cut(tmp_path: Path) -> None:
    gradients, weights = [gradient(i) for i in range(8)], [float(i + 1) for i in range(8)]
    whole, _ = folded(tmp_path, gradients, weights, TOTAL)
    for chunk in (7, CHUNK, 500):
        assert torch.equal(folded(tmp_path, gradients, weights, chunk)[0], whole)


def test_the_fold_follows_its_order(tmp_path: Path) -> None:
    gradients = [gradient(i, 10.0 ** (i % 4)) for i in range(8)]
    one, _ = folded(tmp_path, gradients, [1.0] * 8, CHUNK)
    other, _ = folded(tmp_path, gradients[::-1], [1.0] * 8, CHUNK)
    assert not torch.equal(one, other)
    assert torch.equal(one, folded(tmp_path, gradients, [1.0] * 8, CHUNK)[0])


def test_opposed_gradients_are_clipped_by_the_norm_of_their_mean(tmp_path: Path) -> None:
    one, small = gradient(0, 10.0), gradient(1, 0.06)
    of = mission(clip_norm=0.5)
    files = step(tmp_path, [one, small - one], of)
    parameter = torch.nn.Parameter(torch.zeros(TOTAL))
    parameter.grad = (one + (small - one)) / 2
    norm = float(torch.nn.utils.clip_grad_norm_([parameter], 0.5))
    assert files.step.grad_norm == pytest.approx(norm, rel=1e-4)
    assert files.step.clip_factor == pytest.approx(0.5 / (norm + 1e-6), rel=1e-4)
    # Either upload alone is clipped far harder: 0.5 of a norm near 290.
    assert 0.3 < files.step.clip_factor < 1.0 and float(one.norm()) > 250


def test_a_short_gradient_is_not_clipped() -> None:
    assert adam_step(4, 1, 0.3, Training(clip_norm=0.5)).clip_factor == 1.0
    assert adam_step(4, 1, 0.3, Training(clip_norm=0.5)).step == 5


def test_one_chunk_gives_the_bits_of_torch_adamw(tmp_path: Path) -> None:
    of = mission(chunk_bytes=4 * TOTAL, weight_decay=0.1, clip_norm=1e9)
    weights, _ = reference_adamw(flat_weights(shard_bytes()), [gradient(0)], of)
    assert torch.equal(weights_of(step(tmp_path, [gradient(0)], of)), weights)


def test_many_steps_in_chunks_follow_torch_adamw(tmp_path: Path) -> None:
    of = mission(weight_decay=0.1, clip_norm=5.0, learning_rate=0.02)
    store, scratch = MemoryStore(), Scratch(tmp_path)
    version = base(store, of)
    gradients = [gradient(i) for i in range(5)]
    for one in gradients:
        vectors = [(vector_of(tmp_path / "g", one), 3.0)]
        at = checkpoint(scratch, store, version)
        files = take_step(scratch, version, at, vectors, of.training, 1)
        version = version.model_copy(
            update={
                "step": files.step,
                "shards": {n: store.put(n, p) for n, p in files.weights.items()},
                "optimizer": {n: store.put(n, p) for n, p in files.moments.items()},
            }
        )
    weights, norms = reference_adamw(flat_weights(shard_bytes()), gradients, of)
    got = flat_weights({n: store.get(r) for n, r in version.shards.items()})
    assert torch.allclose(got, weights, rtol=1e-6, atol=1e-6)
    assert version.step and version.step.step == 5
    assert version.step.grad_norm == pytest.approx(norms[-1], rel=1e-6)


def test_the_same_chunks_give_the_same_bits_and_whole_vectors_of_lanes_too(tmp_path: Path) -> None:
    gradients = [gradient(0), gradient(1)]
    results = [
        weights_of(step(tmp_path / str(i), gradients, mission(chunk_bytes=size, clip_norm=1e9)))
        for i, size in enumerate((CHUNK_BYTES, CHUNK_BYTES, 4 * TOTAL))
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_files_of_a_step_are_safetensors(tmp_path: Path) -> None:
    files = step(tmp_path, [gradient(0)], mission())
    before = shard_bytes()
    for name, path in files.weights.items():
        assert path.stat().st_size == len(before[name])
        assert {t.dtype for t in load_file(path).values()} == {torch.float32}
    moments = [load_file(path) for path in files.moments.values()]
    assert sum(m["exp_avg"].numel() for m in moments) == TOTAL
    first = torch.cat([m["exp_avg"] for m in moments])
    clipped = gradient(0) * files.step.clip_factor
    assert torch.allclose(first, (1 - 0.9) * clipped, atol=1e-7)


def test_a_vector_reads_and_writes_across_files_at_any_byte(tmp_path: Path) -> None:
    sections = []
    for i, (start, stop) in enumerate([(0, 5), (5, 6), (6, 11)]):
        path = tmp_path / str(i)
        path.write_bytes(b"head!" + bytes(4 * (stop - start)) + b"tail")
        sections.append(Section(path, 5, start, stop))
    vector = FlatVector(sections)
    vector.write(3, torch.arange(3.0, 9.0))
    expected = torch.tensor([0, 0, 0, 3, 4, 5, 6, 7, 8, 0, 0], dtype=torch.float32)
    assert torch.equal(vector.read(0, 11), expected)
    assert torch.equal(vector.read(4, 7), expected[4:7])
    assert all(s.path.read_bytes().startswith(b"head!") for s in sections)
    assert all(s.path.read_bytes().endswith(b"tail") for s in sections)


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(12))
    with pytest.raises(EOFError, match="ends before element 4"):
        FlatVector([Section(tmp_path / "short", 0, 0, 4)]).read(0, 4)


def test_gradients_of_half_precision_are_widened() -> None:
    half = gradient(0).to(torch.bfloat16)
    data = half.view(torch.uint8).numpy().tobytes()
    assert torch.equal(chunk_tensor(data, "bfloat16"), half.float())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    data = torch.tensor([1.0, bad, 2.0]).numpy().tobytes()
    with pytest.raises(NotFinite, match="1 of 3"):
        chunk_tensor(data, "float32")


def test_large_numbers_are_finite() -> None:
    large = torch.full((8,), 3e38)
    assert torch.equal(chunk_tensor(large.numpy().tobytes(), "float32"), large)


def test_a_chunk_with_other_bytes_is_unreadable(tmp_path: Path) -> None:
    store, scratch, of = MemoryStore(), Scratch(tmp_path), mission()
    version, one = base(store, of), upload(store, of, 0, (0, 4))
    vector = finished(fetch_gradient(scratch, one, version.layout, "u"), store)
    assert torch.equal(vector.read(0, TOTAL), gradient(0))
    store.objects[one.chunks[2].key] = b"other"
    with pytest.raises(Unreadable, match=r"chunk 2: object gradients/main/0/"):
        finished(fetch_gradient(scratch, one, version.layout, "u"), store)
    assert not scratch.work("u").exists()


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    store, of = MemoryStore(), mission()
    version, scratch = base(store, of), Scratch(tmp_path)
    first = checkpoint(scratch, store, version)
    # An earlier process's files serve too, after a look at their hash.
    store.objects.clear()
    assert checkpoint(scratch, store, version) == first
    del scratch
    assert checkpoint(Scratch(tmp_path), store, version) == first


def test_a_folder_in_use_is_not_shared(tmp_path: Path) -> None:
    first = Scratch(tmp_path)
    first.work("upload-0").write_bytes(b"gradient")
    second = Scratch(tmp_path)
    assert second.work("upload-0") != first.work("upload-0")
    assert first.work("upload-0").read_bytes() == b"gradient"
    place = second.work("")
    del second
    assert Scratch(tmp_path).work("") == place


def test_a_spoilt_file_of_an_earlier_process_is_fetched_again(tmp_path: Path) -> None:
    store, of = MemoryStore(), mission()
    version = base(store, of)
    first = checkpoint(Scratch(tmp_path), store, version)
    path = next(iter(first.weights.values()))
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    checkpoint(Scratch(tmp_path), store, version)
    assert path.read_bytes() == whole


def test_weights_are_read_in_the_order_of_the_layout(tmp_path: Path) -> None:
    for name, data in shard_bytes().items():
        (tmp_path / name).write_bytes(data)
    vector = weights_vector(layout_of(shard_bytes()), {n: tmp_path / n for n in shard_bytes()})
    assert torch.equal(vector.read(0, TOTAL), flat_weights(shard_bytes()))


@pytest.mark.parametrize(
    ("schedule", "step_", "share"),
    [
        ("constant", 1, 0.25),
        ("constant", 4, 1.0),
        ("constant", 10_000, 1.0),
        ("linear", 2, 0.5),
        ("linear", 5, 1.0),
        ("linear", 13, 0.5),
        ("linear", 20, 1 / 16),
        ("linear", 21, 0.0),
        ("cosine", 5, 1.0),
        ("cosine", 13, 0.5),
        ("cosine", 9, 0.5 + 0.5 * math.cos(math.pi / 4)),
        ("cosine", 99, 0.0),
    ],
)
def test_the_learning_rate(schedule: Any, step_: int, share: float) -> None:
    training = Training(learning_rate=0.1, schedule=schedule, warmup_steps=4, total_steps=20)
    assert learning_rate(step_, training) == pytest.approx(0.1 * share)


def test_without_warm_up_the_first_step_is_at_the_full_rate() -> None:
    assert learning_rate(1, Training(learning_rate=0.1)) == 0.1
