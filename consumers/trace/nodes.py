"""What a trace is made of: one node for each record, with its name and what people ask of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from schemas import acting, learning, missions
from schemas.base import Event
from schemas.records import Record

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Name:
    """A kind and an id: what events and people call a record; written `kind:id`."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


@dataclass(frozen=True, slots=True)
class Node:
    """One record, or something that is named and has none (`missing` says why)."""

    name: Name
    at: str = ""
    key: bytes = b""
    timestamp_ms: int = 0
    facts: Facts = field(default_factory=dict)
    aliases: tuple[Name, ...] = ()
    missing: str = ""

    @property
    def ref(self) -> str:
        """What it is known by in a graph: its place, or its name where it has none."""
        return self.at or str(self.name)


@dataclass(frozen=True, slots=True)
class _Told:
    """What an event says of itself."""

    kind: str
    id: str
    facts: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[Name, ...] = ()


def node_of(record: Record, event: Event) -> Node:
    """The node of a record."""
    told = _learning(event) or _acting(event) or _missions(event) or _Told(event.type, record.at)
    facts = {name: fact for name, fact in told.facts.items() if fact not in (None, "", {}, [])}
    return Node(
        Name(told.kind, told.id),
        record.at,
        record.key or b"",
        record.timestamp_ms,
        facts,
        told.aliases,
    )


def unreadable(record: Record, why: str) -> Node:
    """The node of a record that is no event of its topic."""
    facts = {"bytes": len(record.value or b""), "why": why.splitlines()[0][:120]}
    return Node(
        Name("unreadable", record.at), record.at, record.key or b"", record.timestamp_ms, facts
    )


def mean_reward(group: learning.SampleGroup) -> float | None:
    """The mean over its rollouts, or over the returns of its episodes; None where it has none."""
    rewards = group.episodes.returns if group.episodes else [r.reward for r in group.rollouts]
    return fmean(rewards) if rewards else None


def _learning(event: Event) -> _Told | None:
    facts: dict[str, Any]
    match event:
        case learning.Problem():
            facts = {"mission": event.mission_id, "policy": event.policy, "epoch": event.epoch}
            return _Told("problem", event.problem_id, facts | {"question": event.question[:60]})
        case learning.SampleGroup():
            return _Told("group", event.group_id, _group(event))
        case learning.GradientUpload():
            return _Told("upload", event.upload_id, _upload(event))
        case learning.RollbackRequest():
            facts = {"policy": event.policy, "to": event.to_version, "reason": event.reason}
            return _Told("rollback", event.request_id, facts)
        case learning.CloseStep():
            facts = {"policy": event.policy, "mission": event.mission_id}
            return _Told("close-step", event.mission_id, facts)
        case learning.WeightVersion():
            return _Told("version", f"{event.policy}@{event.version}", _version(event))
        case learning.UploadsRefused():
            facts = {"policy": event.policy, "uploads": len(event.refused)}
            return _Told("refusal", event.policy, facts)
        case learning.VersionsExpired():
            facts = {"policy": event.policy, "versions": event.versions}
            return _Told("expiry", event.policy, facts)
        case learning.WeightHead():
            return _Told("head", event.policy, {"version": event.version})
        case learning.Evaluation():
            facts = {"mission": event.mission_id, "policy": event.policy, "version": event.version}
            facts |= {"accuracy": event.accuracy, "reward": event.reward}
            return _Told("evaluation", f"{event.policy}@{event.version}", facts)
        case learning.DeadLetter():
            facts = {"reason": event.reason, "detail": event.detail, "by": event.processor}
            return _Told("dead-letter", event.at, facts)
        case learning.DeadLetterResolution():
            facts = {"action": event.action, "run": event.run, "note": event.note}
            return _Told("resolution", event.letter, facts)
    return None


def _group(event: learning.SampleGroup) -> dict[str, Any]:
    return {
        "mission": event.mission_id,
        "policy": event.policy,
        "version": event.version,
        "rollouts": event.size or None,
        "reward": mean_reward(event),
        "outcome": event.outcome if event.outcome != "sampled" else None,
        "task": event.episodes.task if event.episodes else None,
    }


def _upload(event: learning.GradientUpload) -> dict[str, Any]:
    return {
        "mission": event.mission_id,
        "policy": event.policy,
        "kind": event.kind if event.kind != "gradient" else None,
        "base": event.base_version,
        "groups": len(event.groups),
        "rollouts": sum(use.rollouts for use in event.groups),
        "under": sorted({use.version for use in event.groups}),
        "dropped": len(event.dropped) or None,
        "reward": event.stats.get("reward_mean"),
        "trainer": event.trainer,
    }


def _version(event: learning.WeightVersion) -> dict[str, Any]:
    return {
        "mission": event.mission_id,
        "policy": event.policy,
        "version": event.version,
        "kind": event.kind,
        "parent": event.parent,
        "uploads": event.count("uploads") or None,
        "groups": sum(applied.groups for applied in event.uploads) or None,
        "refused": event.count("refused") or None,
        "staleness": event.staleness,
        "norm": event.step.grad_norm if event.step else None,
        "algorithm": event.algorithm.name,
        "reason": event.reason,
    }


def _acting(event: Event) -> _Told | None:
    facts: dict[str, Any]
    match event:
        case acting.SensorFrame():
            facts = {"robot": event.robot_id, "readings": len(event.readings)}
            facts |= {"channels": sorted({reading.channel for reading in event.readings})}
            return _Told("frame", f"{event.robot_id}.{event.boot_id}.{event.seq}", facts)
        case acting.FusedState():
            id_ = f"{event.robot_id}.{event.boot_id}.{event.frame_seq}"
            state = dict(zip(event.names[:3], (round(x, 3) for x in event.mean), strict=False))
            return _Told("state", id_, {"robot": event.robot_id, "filter": event.filter, **state})
        case acting.ControllerClaim():
            facts = {"robot": event.robot_id, "controller": event.controller_id}
            return _Told("claim", f"{event.robot_id}.{event.controller_id}", facts)
        case acting.Command():
            facts = {"robot": event.robot_id, "policy": _policy(event.policy)}
            facts |= {"set_point": _rounded(event.set_point), "mission": event.mission_id}
            return _Told("command", event.command_id, facts)
        case acting.OperatorOrder():
            facts = {"robot": event.robot_id, "action": event.action, "reason": event.reason}
            alias = Name("order", f"{event.robot_id} {event.order_id}")
            return _Told("order", event.order_id, facts, (alias,))
        case acting.Feedback():
            facts = {"robot": event.robot_id, "mode": event.mode, "outcomes": _outcomes(event)}
            facts |= {"applied": _rounded(event.applied), "policy": _policy(event.policy)}
            return _Told("feedback", f"{event.robot_id}.{event.boot_id}.{event.seq}", facts)
        case acting.SafetyEvent():
            facts = {"robot": event.robot_id, "mode": f"{event.before} to {event.after}"}
            facts |= {"cause": event.cause, "detail": event.detail}
            return _Told("safety", f"{event.robot_id}.{event.seq}", facts)
        case acting.Release():
            return _release(event)
    return None


def _release(event: acting.Release) -> _Told:
    version = f"{event.policy}@{event.version}"
    facts: dict[str, Any] = {"stage": event.stage, "robot": event.robot_id}
    facts |= {"policy": event.policy, "version": event.version}
    facts |= {"score": event.score, "reason": event.reason}
    aliases: tuple[Name, ...] = ()
    if event.stage == "OFFERED":
        aliases = (Name("offer", f"{event.robot_id} {event.release_id}"),)
    if event.stage == "SWAPPED":
        aliases = (Name("swap", f"{event.robot_id} {version}"),)
    return _Told("release", event.release_id, facts, aliases)


def _missions(event: Event) -> _Told | None:
    facts: dict[str, Any]
    match event:
        case missions.Mission():
            facts = {"policy": event.policy, "algorithm": event.algorithm.name}
            return _Told("mission", event.mission_id, facts | {"source": event.problems.name})
        case missions.RobotMission():
            return _Told("mission", event.mission_id, {"robots": sorted(event.robots)})
        case missions.MissionControl():
            facts = {"action": event.action, "reason": event.reason}
            return _Told("control", event.mission_id, facts)
        case missions.MissionReport():
            facts = {"stage": event.stage, "problems": event.problems, "reason": event.reason}
            return _Told("report", event.mission_id, facts)
        case missions.RobotMissionReport():
            facts = {"robot": event.robot_id, "waypoints": event.waypoints}
            return _Told("report", event.mission_id, facts)
        case missions.MissionResult():
            facts = {"outcome": event.outcome, "version": event.final_version}
            return _Told("result", event.mission_id, facts | {"reason": event.reason})
        case missions.RobotMissionResult():
            facts = {"robot": event.robot_id, "outcome": event.outcome, "reason": event.reason}
            return _Told("result", event.mission_id, facts)
    return None


def _outcomes(event: acting.Feedback) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in event.outcomes:
        found[one.outcome] = found.get(one.outcome, 0) + 1
    return found


def _policy(policy: acting.PolicyRef | None) -> str | None:
    return f"{policy.policy}@{policy.version}" if policy else None


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]
