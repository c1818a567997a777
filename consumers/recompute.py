"""The step proof: the weights of a version made again from its parent and its gradient chunks.

The same code as the aggregator's takes the step, so equal hashes say that log and store hold all
that the version was made of, whatever the trainers ran on.
"""

import tempfile
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consumers.read import complete
from infra.interpreter import run_in_memory
from infra.store import ObjectStore, file_digest
from schemas.effects import Effect, Steps
from schemas.ids import digest
from schemas.learning import AppliedUpload, GradientUpload, VersionsExpired, WeightVersion
from schemas.missions import Mission
from schemas.records import Record
from streams.learning.spill import BadSpill

if TYPE_CHECKING:
    from streams.learning.step import StepFiles


class CannotRecompute(Exception):
    """What the proof needs is not here, or would not give the same bits here; and why."""


class NotReproduced(Exception):
    """The step gave other weights than the manifest names, or the log was changed."""


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
    evidence = gather(list(records), version, store, policy)
    _same_environment(evidence.manifest)
    with tempfile.TemporaryDirectory(prefix="ralo-proof-") as folder:
        files = _step(evidence, store, Path(folder))
        found = {n: file_digest(path) for n, path in {**files.weights, **files.moments}.items()}
    manifest = evidence.manifest
    named = {n: ref.sha256 for n, ref in {**manifest.shards, **manifest.optimizer}.items()}
    wrong = sorted(n for n in named.keys() | found.keys() if named.get(n) != found.get(n))
    if wrong or files.step != manifest.step:
        raise NotReproduced(
            f"version {version} of {manifest.policy}: {', '.join(wrong) or 'the step'} came out "
            f"otherwise: step {files.step} here, {manifest.step} in the manifest"
        )
    return found


def gather(
    records: list[Record], version: int, store: ObjectStore, policy: str | None = None
) -> Evidence:
    """What the step was made of, each record checked against the hash that names it."""
    record, manifest = _version(records, version, policy)
    if manifest.kind != "step" or manifest.parent is None:
        raise CannotRecompute(
            f"{record.at}: version {version} is a {manifest.kind}, no step made it"
            + (f"; recompute version {manifest.parent}" if manifest.parent is not None else "")
        )
    _not_expired(records, manifest)
    parent_record, parent = _version(records, manifest.parent, manifest.policy)
    _check(parent_record, manifest.parent_sha256 or "", f"version {version} names its parent")
    at = {r.at: r for r in records}
    try:
        manifest, parent = complete(manifest, store), complete(parent, store)
        uploads = [complete(_upload(at, applied), store) for applied in manifest.uploads]
    except BadSpill as error:
        raise NotReproduced(f"version {version} of {manifest.policy}: {error}") from error
    missions = [r.event for r in records if isinstance(r.event, Mission)]
    for mission in missions:
        if mission.mission_id == manifest.mission_id:
            return Evidence(manifest, parent, uploads, mission)
    raise CannotRecompute(f"{record.at}: mission {manifest.mission_id} is not in the log")


def _version(
    records: list[Record], version: int, policy: str | None
) -> tuple[Record, WeightVersion]:
    found = [
        (record, record.event)
        for record in records
        if isinstance(record.event, WeightVersion) and record.event.version == version
        if policy in (None, record.event.policy)
    ]
    policies = sorted({event.policy for _, event in found})
    if len(policies) > 1:
        raise CannotRecompute(f"several policies have a version {version}: {', '.join(policies)}")
    if not found:
        raise CannotRecompute(f"the log has no version {version} of policy {policy or '(any)'}")
    return found[0]


def _not_expired(records: list[Record], manifest: WeightVersion) -> None:
    gone = {
        version
        for record in records
        if isinstance(record.event, VersionsExpired) and record.event.policy == manifest.policy
        for version in record.event.versions
    }
    for needed in (manifest.version, manifest.parent):
        if needed in gone:
            raise CannotRecompute(
                f"version {needed} of {manifest.policy} has expired: its objects were swept "
                f"(missions choose what stays by `keep`)"
            )


def _upload(at: dict[str, Record], applied: AppliedUpload) -> GradientUpload:
    record = at.get(applied.at)
    if record is None or not isinstance(record.event, GradientUpload):
        raise CannotRecompute(f"{applied.at}: upload {applied.upload_id} is not in the log")
    _check(record, applied.record_sha256, f"upload {applied.upload_id}")
    return record.event


def _check(record: Record, sha256: str, what: str) -> None:
    actual = digest(record.value or b"")
    if actual != sha256:
        raise NotReproduced(
            f"{record.at}: {what} by sha256 {sha256[:16]}…, the record has {actual[:16]}…"
        )


def _same_environment(manifest: WeightVersion) -> None:
    from streams.learning.environment import differences, environment

    unlike = differences(manifest.environment, environment())
    if unlike:
        raise CannotRecompute(
            f"version {manifest.version} of {manifest.policy} would not come out the same here: "
            f"{'; '.join(unlike)}"
        )


def _step(evidence: Evidence, store: ObjectStore, folder: Path) -> "StepFiles":
    done: list[StepFiles] = []

    def steps() -> Steps:
        done.append((yield from _take(evidence, folder)))
        return "commit"

    run_in_memory(steps(), store)
    return done[0]


def _take(evidence: Evidence, folder: Path) -> Generator[Effect, Any, "StepFiles"]:
    from streams.learning.scratch import Scratch
    from streams.learning.step import Unreadable, fetch_checkpoint, fetch_gradient, take_step

    scratch, parent = Scratch(folder), evidence.parent
    old = yield from fetch_checkpoint(scratch, parent.shards, parent.optimizer)
    gradients = []
    for number, upload in enumerate(evidence.uploads):
        try:
            vector = yield from fetch_gradient(scratch, upload, parent.layout, f"upload-{number}")
        except Unreadable as error:
            raise NotReproduced(f"upload {upload.upload_id}: {error}") from error
        gradients.append((vector, upload.weight))
    return take_step(scratch, parent, old, gradients, evidence.mission.training)
