"""What the log says of missions: the one place where `ralo mission` reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from consumers.read import read
from infra.log import Log
from schemas.learning import Evaluation, WeightVersion
from schemas.missions import (
    Mission,
    MissionControl,
    MissionReport,
    MissionResult,
    RobotMission,
    RobotMissionResult,
)
from schemas.records import Record
from schemas.topics import EVALUATIONS, MISSION_RESULTS, MISSIONS, WEIGHT_VERSIONS
from streams.missions.state import MissionState, Phase, observe


@dataclass
class MissionView:
    """One mission and what became of it; where it stands is judged as the orchestrator does."""

    mission: Mission
    state: MissionState
    reports: dict[str, MissionReport] = field(default_factory=dict)
    orders: list[MissionControl] = field(default_factory=list)
    version: WeightVersion | None = None
    evaluation: Evaluation | None = None

    @property
    def submitted_ms(self) -> int:
        """When it came to the log."""
        return self.state.submitted_ms or 0

    @property
    def result(self) -> MissionResult | None:
        """Its closing event."""
        return self.state.result

    @property
    def over(self) -> bool:
        """Whether no order can change what comes of it."""
        rejected = "rejected" in self.reports and "prepared" not in self.reports
        return self.result is not None or "drained" in self.reports or rejected

    @property
    def phase(self) -> Phase:
        """Where it stands, in the orchestrator's word."""
        return self.state.phase

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
            "phase": self.phase,
            "outcome": self.result.outcome if self.result else None,
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
            "heldout_reward": evaluation.reward if evaluation else None,
            "heldout_version": evaluation.version if evaluation else None,
            "reports": [_plain(report) for report in self.reports.values()],
            "orders": [_plain(order) for order in self.orders],
            "result": _plain(self.result) if self.result else None,
            "mission": _plain(self.mission),
        }


@dataclass
class RobotMissionView:
    """One mission for robots and what became of it."""

    mission: RobotMission
    submitted_ms: int
    orders: list[MissionControl] = field(default_factory=list)
    results: dict[str, RobotMissionResult] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether all its robots have said how it ended for them."""
        return set(self.mission.robots) <= set(self.results)

    @property
    def phase(self) -> Phase:
        """Where it stands, in the words of other missions."""
        actions = [order.action for order in self.orders]
        if self.over:
            return "finished"
        if "cancel" in actions or "end" in actions:
            return "cancelling"
        steered = [action for action in actions if action in ("pause", "resume")]
        return "paused" if steered[-1:] == ["pause"] else "running"

    @property
    def result(self) -> RobotMissionResult | None:
        """The least happy of its results, once all are there."""
        worst = ("failed", "cancelled", "done")
        by_outcome = sorted(self.results.values(), key=lambda r: worst.index(r.outcome))
        return by_outcome[0] if self.over else None

    def summary(self) -> dict[str, Any]:
        """One row of a list."""
        done = f"{len(self.results)} of {len(self.mission.robots)} robots are through"
        return {
            "mission_id": self.mission.mission_id,
            "policy": self.mission.policy or "tracker",
            "phase": self.phase,
            "outcome": self.result.outcome if self.result else None,
            "submitted_ms": self.submitted_ms,
            "reason": (self.result.reason if self.result else "") or done,
        }

    def details(self) -> dict[str, Any]:
        """Everything, for scripts and for `show`."""
        return self.summary() | {
            "orders": [_plain(order) for order in self.orders],
            "results": [_plain(result) for result in self.results.values()],
            "mission": _plain(self.mission),
        }


View = MissionView | RobotMissionView


def _plain(event: Any) -> dict[str, Any]:
    document: dict[str, Any] = event.model_dump(mode="json", exclude={"type", "schema_version"})
    return document


def missions(log: Log, mission_id: str | None = None) -> dict[str, View]:
    """All missions in the order of the log, or the one; of a repeated id the first counts."""
    topics = (MISSIONS, MISSION_RESULTS)
    return fold(record for t in topics for record in read(t.name, log=log, mission=mission_id))


def fold(records: Iterable[Record]) -> dict[str, View]:
    """The missions in decoded records, those of `mission-results` last."""
    views: dict[str, View] = {}
    for record in records:
        match record.event:
            case RobotMission(mission_id=id_) as for_robots:
                views.setdefault(id_, RobotMissionView(for_robots, record.timestamp_ms))
            case Mission(mission_id=id_) as mission:
                views.setdefault(id_, MissionView(mission, MissionState(mission_id=id_)))
            case MissionControl(mission_id=id_) as order if id_ in views:
                views[id_].orders.append(order)
            case MissionReport(mission_id=id_) as report:
                view = views.get(id_)
                if isinstance(view, MissionView):
                    view.reports.setdefault(report.stage, report)
        match views.get(getattr(record.event, "mission_id", "")), record.event:
            case MissionView() as view, _:
                view.state = observe(view.state, record)
            case RobotMissionView() as view, RobotMissionResult(robot_id=robot) as result:
                view.results.setdefault(robot, result)
    return views


def with_progress(log: Log, view: View) -> View:
    """The same view, of a learning mission with its newest weight version and evaluation."""
    if isinstance(view, RobotMissionView):
        return view
    mission_id = view.mission.mission_id
    for topic in (WEIGHT_VERSIONS, EVALUATIONS):
        for record in read(topic.name, log=log, mission=mission_id):
            match record.event:
                case WeightVersion() as version:
                    view.version = version
                case Evaluation() as evaluation:
                    view.evaluation = evaluation
    return view
