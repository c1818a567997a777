"""One optimizer step from local files to local files, and how these files get here.

The aggregator takes steps with it and the step proof takes them again: one text for both.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from schemas.effects import BadObject, Effect, Get
from schemas.learning import AdamStep, GradientUpload, Layout, WeightVersion
from schemas.missions import Training
from schemas.tensors import ObjectRef
from streams.learning.flat import (
    FlatVector,
    create_moments,
    create_weights,
    moments_vectors,
    scratch_vector,
    weights_vector,
)
from streams.learning.fold import NotFinite, chunk_tensor, fold
from streams.learning.layout import FlatLayout, chunk_ranges, header_bytes, read_layout
from streams.learning.optimizer import Moments, adam_step, adamw_, delta_step
from streams.learning.scratch import Scratch

Paths = dict[str, Path]
Kind = Literal["gradient", "delta"]
"""What the uploads of a step are; one step has one kind."""


class Unreadable(Exception):
    """A chunk of an upload has other bytes than the event names, or is not finite."""


@dataclass(frozen=True)
class Checkpoint:
    """The files of a version, here: weights, and moments unless they are all zero."""

    layout: FlatLayout
    weights: Paths
    moments: Paths


@dataclass(frozen=True)
class StepFiles:
    """What a step made, by file name, and how it was taken; one of deltas makes no moments."""

    weights: Paths
    moments: Paths
    step: AdamStep


def optimizer_name(shard: str) -> str:
    """The file with the moments of a weight shard: flat `exp_avg` and `exp_avg_sq`."""
    return f"optimizer-{shard}"


def fetch_checkpoint(
    scratch: Scratch, shards: Mapping[str, ObjectRef], optimizer: Mapping[str, ObjectRef]
) -> Generator[Effect, Any, Checkpoint]:
    """Bring the files of a version here; raises LayoutError where they are no float32 shards."""
    weights: Paths = {}
    moments: Paths = {}
    for name, ref in sorted(shards.items()):
        weights[name] = yield from scratch.fetch(ref)
    for name, ref in sorted(optimizer.items()):
        moments[name] = yield from scratch.fetch(ref)
    layout = read_layout({name: header_bytes(path) for name, path in weights.items()})
    return Checkpoint(layout, weights, moments)


def fetch_gradient(
    scratch: Scratch, upload: GradientUpload, layout: Layout, name: str
) -> Generator[Effect, Any, FlatVector]:
    """Bring the chunks of an upload here, one at a time, each checked; raises `Unreadable`."""
    vector = scratch_vector(scratch.work(name), layout.parameters)
    ranges = chunk_ranges(layout.parameters, layout.chunk_elements)
    for index, (ref, (start, _)) in enumerate(zip(upload.chunks, ranges, strict=True)):
        try:
            vector.write(start, chunk_tensor((yield Get(ref)), ref.dtype))
        except (BadObject, NotFinite) as error:
            scratch.work(name).unlink()
            raise Unreadable(f"chunk {index}: {error}") from error
    return vector


def take_step(
    scratch: Scratch,
    parent: WeightVersion,
    checkpoint: Checkpoint,
    gradients: Sequence[tuple[FlatVector, float]],
    training: Training,
    mission_step: int,
    kind: Kind = "gradient",
) -> StepFiles:
    """Fold, clip, AdamW: two passes over the chunks; memory is a few chunks.

    `gradients` are vectors with their weights in canonical order; the fold replaces the first.
    `mission_step` says where the mission's schedule stands, from 1. Of kind `delta` their mean,
    times the outer rate, is added instead.
    """
    layout = checkpoint.layout
    chunks = chunk_ranges(layout.total, parent.layout.chunk_elements)
    vectors, weights = [g for g, _ in gradients], [w for _, w in gradients]
    norm = fold(vectors, weights, chunks)
    previous = parent.step.step if parent.step else 0
    if kind == "delta":
        files = _create(scratch, checkpoint, delta_step(previous, norm, training))
        _add(checkpoint, files, vectors[0], chunks)
        return files
    files = _create(scratch, checkpoint, adam_step(previous, mission_step, norm, training))
    with torch.no_grad():
        _update(checkpoint, files, vectors[0], chunks, training)
    return files


def _create(scratch: Scratch, checkpoint: Checkpoint, step: AdamStep) -> StepFiles:
    weights, moments = {}, {}
    for shard, (start, stop) in checkpoint.layout.shards().items():
        weights[shard] = scratch.work(shard)
        create_weights(weights[shard], like=checkpoint.weights[shard])
        if step.rule == "delta":
            continue
        name = optimizer_name(shard)
        moments[name] = scratch.work(name)
        create_moments(moments[name], stop - start)
    return StepFiles(weights, moments, step)


def _add(
    old: Checkpoint, new: StepFiles, mean: FlatVector, chunks: Sequence[tuple[int, int]]
) -> None:
    source = weights_vector(old.layout, old.weights)
    target = weights_vector(old.layout, new.weights)
    for start, stop in chunks:
        weights, delta = source.read(start, stop), mean.read(start, stop)
        target.write(start, weights.add_(delta.mul_(new.step.learning_rate)))


def _update(
    old: Checkpoint,
    new: StepFiles,
    mean: FlatVector,
    chunks: Sequence[tuple[int, int]],
    training: Training,
) -> None:
    source, target = (
        weights_vector(old.layout, old.weights),
        weights_vector(old.layout, new.weights),
    )
    avg, avg_sq = _moments(old.layout, new.moments)
    # Files of zeros stand in for the moments of a base version, which has none.
    old_avg, old_sq = _moments(old.layout, old.moments or new.moments)
    for start, stop in chunks:
        weights = source.read(start, stop)
        moments = Moments(old_avg.read(start, stop), old_sq.read(start, stop))
        adamw_(weights, mean.read(start, stop), moments, new.step, training)
        target.write(start, weights)
        avg.write(start, moments.exp_avg)
        avg_sq.write(start, moments.exp_avg_sq)


def _moments(layout: FlatLayout, files: Paths) -> tuple[FlatVector, FlatVector]:
    return moments_vectors(layout, {s: files[optimizer_name(s)] for s in layout.shards()})
