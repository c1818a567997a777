"""Makes weight versions: the manifests of the base, of a step and of a rollback."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from schemas.ids import derived_id
from schemas.learning import (
    AdamStep,
    AppliedUpload,
    GradientUpload,
    Layout,
    RefusedUpload,
    RollbackRequest,
    WeightVersion,
)
from schemas.missions import Mission, MissionReport
from schemas.records import Record
from schemas.tensors import ObjectRef
from streams.learning.admission import lineage_of_child, mean_staleness
from streams.learning.environment import environment
from streams.learning.flat import FlatVector
from streams.learning.layout import ELEMENT_BYTES, FlatLayout
from streams.learning.ledger import Ledger

MISSIONS_COUNTED = 16
"""Missions whose steps a manifest counts: the latest, so that it does not grow with the log."""


@dataclass(frozen=True)
class Joined:
    """One upload of the open step, with its gradient fetched."""

    upload: GradientUpload
    applied: AppliedUpload
    gradient: FlatVector


@dataclass
class OpenStep:
    """A step that waits for more uploads; `mission` is that of the first, whose settings it has."""

    mission: Mission
    joined: list[Joined] = field(default_factory=list)
    refused: list[RefusedUpload] = field(default_factory=list)
    buried: list[tuple[Record, str]] = field(default_factory=list)
    """Requests that cannot be met, with the reason; published when the step closes."""

    @property
    def kind(self) -> Literal["gradient", "delta"]:
        """What its uploads are: those of one step are of one kind."""
        return self.joined[0].upload.kind if self.joined else "gradient"


def applied_upload(upload: GradientUpload, record: Record, record_sha256: str) -> AppliedUpload:
    """How an upload is named in the manifest of the step that it joined."""
    return AppliedUpload(
        upload_id=upload.upload_id,
        at=record.at,
        record_sha256=record_sha256,
        base_version=upload.base_version,
        weight=upload.weight,
        groups=len(upload.groups),
        dropped=len(upload.dropped),
    )


def base_version(mission: Mission, report: MissionReport, layout: FlatLayout) -> WeightVersion:
    """Version 0: the base model as the problem provider stored it."""
    return WeightVersion(
        policy=mission.policy,
        version=0,
        kind="base",
        mission_id=mission.mission_id,
        algorithm=mission.algorithm,
        code_sha256=_code_sha256(mission.algorithm.name),
        files=report.base_files,
        shards=report.base_shards,
        layout=Layout(
            parameters=layout.total,
            chunk_elements=mission.training.chunk_bytes // ELEMENT_BYTES,
            sha256=layout.sha256,
        ),
        environment=environment(),
    )


def content_id(parent_sha256: str, opened: OpenStep, step: AdamStep) -> str:
    """The id of all that a step's weights are made of, and of how the step was taken."""
    uploads = [joined.applied.record_sha256 for joined in opened.joined]
    here = environment().model_dump(mode="json")
    how = step.model_dump(mode="json")
    return derived_id("step", parent_sha256, uploads, opened.mission.mission_id, here, how)


def mission_steps(parent: WeightVersion, mission_id: str) -> dict[str, int]:
    """The steps of each mission along the parents, after one of this mission, which comes last.

    A parent from before missions were counted gives its own mission the policy's steps: what the
    schedule counted then, so a mission under way keeps the rates that it began with.
    """
    counts = dict(parent.mission_steps)
    if not counts and parent.step:
        counts = {parent.mission_id: parent.step.step}
    taken = counts.pop(mission_id, 0) + 1
    latest = list(counts.items())[1 - MISSIONS_COUNTED :]
    return {**dict(latest), mission_id: taken}


def step_version(
    ledger: Ledger,
    head: WeightVersion,
    opened: OpenStep,
    step: AdamStep,
    files: tuple[Mapping[str, ObjectRef], Mapping[str, ObjectRef]],
) -> WeightVersion:
    """The version after a step from the head; `files` are its weight and optimizer shards."""
    mission, (shards, optimizer) = opened.mission, files
    groups = [group for joined in opened.joined for group in joined.upload.groups]
    return WeightVersion(
        policy=head.policy,
        version=head.version + 1,
        previous=head.version,
        parent=head.version,
        parent_sha256=ledger.head_sha256,
        kind="step",
        mission_id=mission.mission_id,
        algorithm=mission.algorithm,
        code_sha256=_code_sha256(mission.algorithm.name),
        files=head.files,
        shards=dict(shards),
        optimizer=dict(optimizer),
        layout=head.layout,
        step=step,
        uploads=[joined.applied for joined in opened.joined],
        refused=opened.refused,
        marks=ledger.marks,
        resume=ledger.resume,
        totals=ledger.totals,
        lineage=lineage_of_child(head, mission.training.staleness_max),
        mission_steps=mission_steps(head, mission.mission_id),
        staleness=mean_staleness(groups, head),
        environment=environment(),
    )


def rollback_version(
    ledger: Ledger,
    head: WeightVersion,
    target: tuple[WeightVersion, str],
    request: RollbackRequest,
    refused: Sequence[RefusedUpload],
    staleness_max: int,
) -> WeightVersion:
    """A new version with the content of an old one; `target` comes with its record's hash."""
    old, old_sha256 = target
    return old.model_copy(
        update={
            "version": head.version + 1,
            "previous": head.version,
            "parent": old.version,
            "parent_sha256": old_sha256,
            "kind": "rollback",
            "uploads": [],
            "refused": list(refused),
            "marks": ledger.marks,
            "resume": ledger.resume,
            "totals": ledger.totals,
            "lineage": lineage_of_child(old, staleness_max),
            "staleness": None,
            "reason": request.reason,
            "environment": environment(),
        }
    )


# Once a process: what runs is what was imported, whatever becomes of the file.
@functools.cache
def _code_sha256(algorithm: str) -> str:
    from streams.learning.algorithms.code import code_sha256

    return code_sha256(algorithm)
