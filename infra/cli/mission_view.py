"""What the log says of missions: the one place where `ralo mission` reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from consumers.read import read
from infra.log import Log
from schemas.learning import Evaluation, WeightVersion
from schemas.missions import Mission, MissionControl, MissionReport, MissionResult
from schemas.records import Record
from schemas.topics import EVALUATIONS, MISSION_RESULTS, MISSIONS, WEIGHT_VERSIONS


@dataclass
class MissionView:
    """One mission and what became of it."""

    mission: Mission
    submitted_ms: int
    reports: dict[str, MissionReport] = field(default_factory=dict)
    orders: list[MissionControl] = field(default_factory=list)
    result: MissionResult | None = None
    version: WeightVersion | None = None
    evaluation: Evaluation | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        rejected = "rejected" in self.reports and "prepared" not in self.reports
        return self.result is not None or "drained" in self.reports or rejected

    @property
    def stage(self) -> str:
        """Where it stands, in a word."""
        if self.result is not None:
            return self.result.outcome
        for stage in ("drained", "rejected"):
            if stage in self.reports:
                return stage
        actions = [order.action for order in self.orders]
        for action, stage in (("cancel", "cancelling"), ("end", "ending")):
            if action in actions:
                return stage
        if [a for a in actions if a in ("pause", "resume")][-1:] == ["pause"]:
            return "paused"
        return "running" if "prepared" in self.reports else "submitted"

    @property
    def reason(self) -> str:
        """Why it was rejected or ended; else what its source holds."""
        if self.result is not None and self.result.reason:
            return self.result.reason
        for stage in ("rejected", "prepared"):
            if stage in self.reports:
                return self.reports[stage].reason
        return ""

    def summary(self) -> dict[str, Any]:
        """One row of a list."""
        return {
            "mission_id": self.mission.mission_id,
            "policy": self.mission.policy,
            "stage": self.stage,
            "submitted_ms": self.submitted_ms,
            "reason": self.reason,
        }

    def details(self) -> dict[str, Any]:
        """Everything, for scripts and for `show`."""
        evaluation, version = self.evaluation, self.version
        return self.summary() | {
            "version": version.version if version else None,
            "groups_learnt": version.totals.groups if version else None,
            "heldout_accuracy": evaluation.accuracy if evaluation else None,
            "heldout_version": evaluation.version if evaluation else None,
            "reports": [_plain(report) for report in self.reports.values()],
            "orders": [_plain(order) for order in self.orders],
            "result": _plain(self.result) if self.result else None,
            "mission": _plain(self.mission),
        }


def _plain(event: Any) -> dict[str, Any]:
    document: dict[str, Any] = event.model_dump(mode="json", exclude={"type", "schema_version"})
    return document


def missions(log: Log, mission_id: str | None = None) -> dict[str, MissionView]:
    """All missions in the order of the log, or the one; of a repeated id the first counts."""
    views = _gather(read(MISSIONS.name, log=log, mission=mission_id))
    for record in read(MISSION_RESULTS.name, log=log, mission=mission_id):
        result = record.event
        if isinstance(result, MissionResult) and result.mission_id in views:
            views[result.mission_id].result = result
    return views


def with_progress(log: Log, view: MissionView) -> MissionView:
    """The same view with its newest weight version and evaluation."""
    mission_id = view.mission.mission_id
    for topic in (WEIGHT_VERSIONS, EVALUATIONS):
        for record in read(topic.name, log=log, mission=mission_id):
            match record.event:
                case WeightVersion() as version:
                    view.version = version
                case Evaluation() as evaluation:
                    view.evaluation = evaluation
    return view


def _gather(records: Iterable[Record]) -> dict[str, MissionView]:
    views: dict[str, MissionView] = {}
    for record in records:
        match record.event:
            case Mission(mission_id=id_) as mission:
                views.setdefault(id_, MissionView(mission, record.timestamp_ms))
            case MissionControl(mission_id=id_) as order if id_ in views:
                views[id_].orders.append(order)
            case MissionReport(mission_id=id_) as report if id_ in views:
                views[id_].reports.setdefault(report.stage, report)
    return views
