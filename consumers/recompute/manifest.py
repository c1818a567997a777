"""What a manifest says beside its weights, as it follows from what the version was made of."""

from collections.abc import Iterator, Sequence
from typing import Any

from schemas.learning import GradientUpload, RollbackRequest, WeightVersion
from schemas.missions import Mission, MissionReport
from streams.learning.admission import lineage_of_child, mean_staleness

Fields = dict[str, Any]
_CONTENT = ("mission_id", "algorithm", "files", "shards", "optimizer", "layout", "step")


def of_base(report: MissionReport, mission: Mission) -> Fields:
    """Version 0: the base model as the provider stored it."""
    return {
        "kind": "base",
        "mission_id": report.mission_id,
        "algorithm": mission.algorithm,
        "files": report.base_files,
        "shards": report.base_shards,
        "optimizer": {},
        "step": None,
        "uploads": [],
        "parent_sha256": None,
    }


def of_step(parent: WeightVersion, uploads: Sequence[GradientUpload], mission: Mission) -> Fields:
    """A step from `parent`; its step, shards and counts are the step proof's."""
    groups = [group for upload in uploads for group in upload.groups]
    return {
        "algorithm": mission.algorithm,
        "files": parent.files,
        "layout": parent.layout,
        "lineage": lineage_of_child(parent, mission.training.staleness_max),
        "staleness": mean_staleness(groups, parent),
        "reason": "",
    }


def of_rollback(target: WeightVersion, mission: Mission, request: RollbackRequest | None) -> Fields:
    """A rollback: the content of its parent."""
    lineage = lineage_of_child(target, mission.training.staleness_max)
    content = {name: getattr(target, name) for name in (*_CONTENT, "mission_steps")}
    asked = {"reason": request.reason, "parent": request.to_version} if request else {}
    return {**content, **asked, "lineage": lineage, "staleness": None, "uploads": []}


def differing(event: WeightVersion, expected: Fields) -> Iterator[str]:
    """The fields that are otherwise, with both values."""
    for name, value in expected.items():
        if (says := getattr(event, name)) != value:
            yield f"{name} is {_short(says)}, what it was made of says {_short(value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
