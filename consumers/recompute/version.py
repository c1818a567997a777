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
    find_mission,
    find_version,
    must_be_alike,
    must_be_kept,
    must_hash,
)
from infra.store import ObjectStore, file_digest
from schemas.effects import Effect
from schemas.learning import AppliedUpload, GradientUpload, WeightVersion
from schemas.missions import Mission
from schemas.records import Record
from schemas.tensors import ObjectRef

if TYPE_CHECKING:
    from streams.learning.step import StepFiles


@dataclass(frozen=True)
class Evidence:
    """All that a step was made of, as the log has it."""

    manifest: WeightVersion
    parent: WeightVersion
    uploads: list[GradientUpload]
    mission: Mission


def recompute_version(
    records: Iterable[Record], store: ObjectStore, version: int, policy: str | None = None
) -> dict[str, str]:
    """The SHA-256 of each weight and optimizer shard, computed anew and equal to the manifest's.

    `records` are those of `missions`, `gradient-chunks` and `weight-versions`, decoded; with more
    than one policy among them, `policy` says which. Raises `CannotRecompute` or `NotReproduced`.
    """
    evidence = _gather(list(records), version, store, policy)
    manifest = evidence.manifest
    must_be_alike(f"version {manifest.version} of {manifest.policy}", manifest.environment)
    with tempfile.TemporaryDirectory(prefix="ralo-proof-") as folder:
        files = answer_of(_take(evidence, Path(folder)), store)
        found = {n: file_digest(path) for n, path in {**files.weights, **files.moments}.items()}
    named = {n: ref.sha256 for n, ref in {**manifest.shards, **_moments(evidence)}.items()}
    wrong = sorted(n for n in named.keys() | found.keys() if named.get(n) != found.get(n))
    if wrong or files.step != manifest.step:
        raise NotReproduced(
            f"version {version} of {manifest.policy}: {', '.join(wrong) or 'the step'} came out "
            f"otherwise: step {files.step} here, {manifest.step} in the manifest"
        )
    return found


def _gather(
    records: list[Record], version: int, store: ObjectStore, policy: str | None
) -> Evidence:
    record, manifest = find_version(records, version, policy)
    if manifest.kind != "step" or manifest.parent is None:
        raise CannotRecompute(
            f"{record.at}: version {version} is a {manifest.kind}, no step made it"
            + (f"; recompute version {manifest.parent}" if manifest.parent is not None else "")
        )
    must_be_kept(records, manifest.policy, (manifest.version, manifest.parent))
    parent_record, parent = find_version(records, manifest.parent, manifest.policy)
    must_hash(parent_record, manifest.parent_sha256 or "", f"version {version} names its parent")
    at = {r.at: r for r in records}
    what = f"version {version} of {manifest.policy}"
    manifest, parent = completed(manifest, store, what), completed(parent, store, what)
    uploads = [completed(_upload(at, applied), store, what) for applied in manifest.uploads]
    mission = find_mission(records, manifest.mission_id, record.at)
    return Evidence(manifest, parent, uploads, mission)


def _upload(at: dict[str, Record], applied: AppliedUpload) -> GradientUpload:
    record = at.get(applied.at)
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


def _take(evidence: Evidence, folder: Path) -> Generator[Effect, Any, "StepFiles"]:
    from streams.learning.scratch import Scratch
    from streams.learning.step import Unreadable, fetch_checkpoint, fetch_gradient, take_step

    scratch, parent, turn = Scratch(folder), evidence.parent, _turn(evidence)
    old = yield from fetch_checkpoint(scratch, parent.shards, parent.optimizer)
    gradients = []
    for number, upload in enumerate(evidence.uploads):
        try:
            vector = yield from fetch_gradient(scratch, upload, parent.layout, f"upload-{number}")
        except Unreadable as error:
            raise NotReproduced(f"upload {upload.upload_id}: {error}") from error
        gradients.append((vector, upload.weight))
    (kind,) = {upload.kind for upload in evidence.uploads}
    return take_step(scratch, parent, old, gradients, evidence.mission.training, turn, kind)


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
