"""The release gate: offers a policy's best version so far to the robots that act under it.

Version 0 is offered as soon as a robot has a mission under the policy; after that, what earned the
highest mean reward in an evaluation, and more than what was offered to that robot before. What was
offered is in the log (`releases`, read to its end before work starts), and an offer's id is derived
from robot and version, so nothing is offered twice. What then becomes of it is the robot's.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schemas.acting import Golden, Release
from schemas.effects import BadObject, Effect, Emit, Get, Intake, StateInput, Steps
from schemas.ids import derived_id, derived_seed
from schemas.learning import Evaluation, VersionsExpired, WeightVersion
from schemas.missions import MissionControl, RobotMission, RobotMissionResult
from schemas.partitioner import partition_for
from schemas.records import Batch, Partition, Record
from schemas.topics import EVALUATIONS, MISSION_RESULTS, MISSIONS, RELEASES, WEIGHT_VERSIONS, Topic
from streams.acting.control.policy import Policy, PolicyError, load_policy
from streams.learning.spill import whole

logger = logging.getLogger(__name__)

GOLDEN_ROWS = 8
_MAX_BATCH = 256


@dataclass
class _Robots:
    """Who acts under the policy, by mission."""

    missions: dict[str, set[str]] = field(default_factory=dict)
    over: set[tuple[str, str]] = field(default_factory=set)

    def __iter__(self) -> Iterator[str]:
        at_work = {
            robot
            for mission, robots in self.missions.items()
            for robot in robots
            if (mission, robot) not in self.over
        }
        return iter(sorted(at_work))


class Gate:
    """Offers versions of one policy; implements `Processor`."""

    work: tuple[Topic, ...] = (EVALUATIONS,)
    state: tuple[StateInput, ...] = (
        StateInput(MISSIONS),
        StateInput(MISSION_RESULTS),
        StateInput(WEIGHT_VERSIONS),
        StateInput(EVALUATIONS),
        StateInput(RELEASES, barrier=True),
    )

    def __init__(self, policy: str, wall_ms: Callable[[], float], name: str = "gate") -> None:
        self.name, self.group = name, f"gate.{policy}"
        self.policy: str | None = policy
        self._name = policy
        self._wall_ms = wall_ms
        self._home = partition_for(policy.encode(), EVALUATIONS.partitions)
        self._mine = False
        self._robots = _Robots()
        self._versions: dict[int, WeightVersion] = {}
        self._expired: set[int] = set()
        self._rewards: dict[int, float] = {}
        self._offered: dict[str, dict[int, float | None]] = {}
        self._published: set[tuple[str, int]] = set()

    def intake(self) -> Intake:
        """All evaluations that are there: the best counts."""
        return Intake(max_batch=_MAX_BATCH)

    def waiting_for(self) -> str | None:
        """Nothing: what cannot be offered yet is offered later."""
        return None

    def observe(self, record: Record) -> None:
        """Remember who acts, what there is, how good it is and what was offered."""
        match record.event:
            case RobotMission(policy=self.policy) as mission:
                self._robots.missions.setdefault(mission.mission_id, set(mission.robots))
            case RobotMissionResult() as result:
                self._robots.over.add((result.mission_id, result.robot_id))
            case MissionControl(action="cancel" | "end", mission_id=id_):
                self._robots.missions.pop(id_, None)
            case WeightVersion(policy=self.policy) as version:
                self._versions[version.version] = version
            case VersionsExpired(policy=self.policy) as expired:
                self._expired.update(expired.versions)
            case Evaluation(policy=self.policy) as evaluation:
                self._note(evaluation)
            case Release(policy=self.policy, stage="OFFERED") as offer:
                offered = self._offered.setdefault(offer.robot_id, {})
                offered[offer.version] = offer.score

    def _note(self, evaluation: Evaluation) -> None:
        self._rewards[evaluation.version] = evaluation.reward

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The committed offsets are where to go on; only what is in the topic was offered."""
        self._mine = any(partition.number == self._home for partition in partitions)
        self._published.clear()
        return {}

    def process(self, batch: Batch) -> Steps:
        """Take evaluations in, and offer what is due."""
        for record in batch.records:
            if isinstance(record.event, Evaluation):
                self._note(record.event)
        for robot, version in self._due():
            yield from self._offer(robot, version)
        return "commit"

    def tick(self) -> Steps | None:
        """Offer to robots whose mission came, versions that came, since."""
        due = self._due() if self._mine else []
        return self._offer_all(due) if due else None

    def _offer_all(self, due: Sequence[tuple[str, WeightVersion]]) -> Steps:
        for robot, version in due:
            yield from self._offer(robot, version)
        return "commit"

    def _due(self) -> list[tuple[str, WeightVersion]]:
        """Whom to offer what: the best there is, where it is better than what was offered."""
        best = self._best()
        return [] if best is None else [(r, best) for r in self._robots if self._calls(r, best)]

    def _best(self) -> WeightVersion | None:
        """The version of the highest reward, the newest of several; version 0 before any has one.

        Of a version that has expired there is nothing left to be offered.
        """
        there = [v for number, v in self._versions.items() if number not in self._expired]
        rated = [v for v in there if v.version in self._rewards]
        if rated:
            return max(rated, key=lambda v: (self._rewards[v.version], v.version))
        return min(there, key=lambda v: v.version, default=None)

    def _calls(self, robot: str, version: WeightVersion) -> bool:
        offered = self._offered.get(robot, {})
        if version.version in offered or (robot, version.version) in self._published:
            return False
        # What goes down would be refused there: an operator's offer may, the gate's does not.
        if any(number > version.version for number in offered):
            return False
        reward = self._rewards.get(version.version)
        scores = [score for score in offered.values() if score is not None]
        return not offered or (reward is not None and all(reward > score for score in scores))

    def _offer(self, robot: str, version: WeightVersion) -> Generator[Effect, Any, None]:
        """Emit one offer, with what the policy answers to inputs like those that it learnt on."""
        self._published.add((robot, version.version))
        version = yield from whole(version, "shards")
        files = {**version.files, **version.shards}
        content: dict[str, bytes] = {}
        try:
            for name, ref in files.items():
                content[name] = yield Get(ref)
            golden = golden_of(load_policy(self._name, version.version, content))
        except (PolicyError, BadObject) as error:
            logger.warning(
                "version %d of %s is not offered: %s", version.version, self._name, error
            )
            return
        yield Emit(
            Release(
                release_id=derived_id("release", self._name, version.version, robot),
                robot_id=robot,
                policy=self._name,
                version=version.version,
                stage="OFFERED",
                files=files,
                golden=golden,
                score=self._rewards.get(version.version),
                wall_ms=self._wall_ms(),
            )
        )


def golden_of(policy: Policy, rows: int = GOLDEN_ROWS) -> Golden:
    """Inputs as they came in training, by its own statistics, and its answers; the same each time.

    Raises `PolicyError` where an answer is not finite.
    """
    centre, spread = policy.seen
    seed = derived_seed("golden", policy.ref.sha256)
    noise = np.random.Generator(np.random.Philox(key=seed)).standard_normal((rows, centre.size))
    inputs = (centre + spread * noise).astype(np.float32)
    outputs = policy.mean(inputs)
    if not np.isfinite(outputs).all():
        raise PolicyError("it answers golden inputs with what is not finite")
    return Golden(inputs=inputs.tolist(), outputs=outputs.tolist())
