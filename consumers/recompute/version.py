"""The step proof: the weights of a version made again from its parent and its gradient chunks.

The same code as the aggregator's takes the step, so it does not matter what the trainers ran on.
"""

import tempfile
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consumers.recompute.evidence import (
    CannotRecompute,
    NotReproduced,
    answer_of,
    completed,
    must_be_alike,
    must_hash,
)
from consumers.recompute.index import Index
from infra.store import ObjectStore, file_digest
from schemas.effects import Effect
from schemas.learning import AppliedUpload, GradientUpload, WeightVersion
from schemas.missions import Mission
from schemas.records import Record
from schemas.tensors import ObjectRef

if TYPE_CHECKING:
    from streams.learning.scratch import Scratch
    from streams.learning.step import Paths, StepFiles


@dataclass(frozen=True)
class Evidence:
    """All that a step was made of, as the log has it."""

    manifest: WeightVersion
    parent: WeightVersion
    uploads: list[GradientUpload]
    mission: Mission


@dataclass(frozen=True)
class Made:
    """What the step made again: its files, and the hash of each."""

    evidence: Evidence
    step: "StepFiles"
    sha256: dict[str, str]

    @property
    def files(self) -> "Paths":
        """All files by name."""
        return {**self.step.weights, **self.step.moments}


def recompute_version(
    records: Iterable[Record], store: ObjectStore, version: int, policy: str | None = None
) -> dict[str, str]:
    """The SHA-256 of each weight and optimizer shard, computed anew and equal to the manifest's.

    `records` are those of `missions`, `gradient-chunks` and `weight-versions`, decoded; with more
    than one policy among them, `policy` says which. Raises `CannotRecompute` or `NotReproduced`.
    """
    from streams.learning.scratch import Scratch

    evidence = gather(Index.of(records), version, store, policy)
    manifest = evidence.manifest
    must_be_alike(f"version {manifest.version} of {manifest.policy}", manifest.environment)
    with tempfile.TemporaryDirectory(prefix="ralo-proof-") as folder:
        return made_again(evidence, Scratch(Path(folder)), store).sha256


def made_again(evidence: Evidence, scratch: "Scratch", store: ObjectStore) -> Made:
    """The step taken again, its files in the scratch; raises where they are not the manifest's."""
    manifest = evidence.manifest
    step = answer_of(_take(evidence, scratch), store)
    found = {n: file_digest(path) for n, path in {**step.weights, **step.moments}.items()}
    named = {n: ref.sha256 for n, ref in {**manifest.shards, **_moments(evidence)}.items()}
    wrong = sorted(n for n in named.keys() | found.keys() if named.get(n) != found.get(n))
    if wrong or step.step != manifest.step:
        raise NotReproduced(
            f"version {manifest.version} of {manifest.policy}: {', '.join(wrong) or 'the step'} "
            f"came out otherwise: step {step.step} here, {manifest.step} in the manifest"
        )
    return Made(evidence, step, found)


def gather(index: Index, version: int, store: ObjectStore, policy: str | None) -> Evidence:
    """All that the step of a version was made of; raises `CannotRecompute`, `NotReproduced`."""
    record, manifest = index.version(version, policy)
    if manifest.kind != "step" or manifest.parent is None:
        raise CannotRecompute(
            f"{record.at}: version {version} is a {manifest.kind}, no step made it"
            + (f"; recompute version {manifest.parent}" if manifest.parent is not None else "")
        )
    index.must_be_kept(manifest.policy, (manifest.version, manifest.parent))
    parent_record, parent = index.version(manifest.parent, manifest.policy)
    must_hash(parent_record, manifest.parent_sha256 or "", names_parent(record, version))
    what = f"version {version} of {manifest.policy}"
    manifest, parent = completed(manifest, store, what), completed(parent, store, what)
    uploads = [completed(_upload(index, applied), store, what) for applied in manifest.uploads]
    mission = index.mission(manifest.mission_id, record.at)
    return Evidence(manifest, parent, uploads, mission)


def names_parent(record: Record, version: int) -> str:
    """Who names a parent, for the message where that is another."""
    return f"version {version} ({record.at}) names its parent"


def _upload(index: Index, applied: AppliedUpload) -> GradientUpload:
    record = index.at(applied.at)
    if record is None or not isinstance(record.event, GradientUpload):
        raise CannotRecompute(f"{applied.at}: upload {applied.upload_id} is not in the log")
    must_hash(record, applied.record_sha256, f"upload {applied.upload_id}")
    return record.event


def _turn(evidence: Evidence) -> int:
    """Where the mission's schedule stood; it was the policy's count before missions had theirs."""
    from streams.learning.manifests import mission_steps

    manifest, parent = evidence.manifest, evidence.parent
    if not manifest.mission_steps:
        return parent.step.step + 1 if parent.step else 1
    expected = mission_steps(parent, manifest.mission_id)
    if manifest.mission_steps != expected:
        raise NotReproduced(
            f"version {manifest.version} of {manifest.policy}: its parent's missions have taken "
            f"{expected} steps with this one, the manifest says {manifest.mission_steps}"
        )
    return expected[manifest.mission_id]


def _take(evidence: Evidence, scratch: "Scratch") -> Generator[Effect, Any, "StepFiles"]:
    from streams.learning.layout import LayoutError
    from streams.learning.step import Unreadable, fetch_checkpoint, fetch_gradient, take_step

    parent, turn = evidence.parent, _turn(evidence)
    try:
        old = yield from fetch_checkpoint(scratch, parent.shards, parent.optimizer)
    except LayoutError as error:
        raise NotReproduced(f"version {parent.version} of {parent.policy}: {error}") from error
    gradients = []
    for number, upload in enumerate(evidence.uploads):
        at = evidence.manifest.uploads[number].at
        if why := _unlike(upload, parent, evidence.uploads):
            raise NotReproduced(f"{at}: upload {upload.upload_id}: {why}", at)
        try:
            vector = yield from fetch_gradient(scratch, upload, parent.layout, f"upload-{number}")
        except Unreadable as error:
            raise NotReproduced(f"{at}: upload {upload.upload_id}: {error}", at) from error
        gradients.append((vector, upload.weight))
    if not gradients:
        raise NotReproduced(f"version {evidence.manifest.version}: a step of no uploads")
    kind = evidence.uploads[0].kind
    return take_step(scratch, parent, old, gradients, evidence.mission.training, turn, kind)


def _unlike(
    upload: GradientUpload, parent: WeightVersion, uploads: list[GradientUpload]
) -> str | None:
    """Why no step can have used this upload, or None."""
    from streams.learning.admission import misfit

    refused = misfit(upload, parent.layout, uploads[0].kind)
    return refused.detail if refused else None


def _moments(evidence: Evidence) -> dict[str, ObjectRef]:
    """The optimizer shards that the step made; one of deltas keeps its parent's."""
    manifest, parent = evidence.manifest, evidence.parent
    if manifest.step is None or manifest.step.rule != "delta":
        return manifest.optimizer
    if manifest.optimizer != parent.optimizer:
        raise NotReproduced(
            f"version {manifest.version} of {manifest.policy}: a step of deltas leaves the "
            "optimizer's state alone, the manifest names another than its parent's"
        )
    return {}
