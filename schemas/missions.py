"""Missions: what a user asks for, in YAML or as JSON on the topic `missions`.

Unknown fields are refused here, because a misspelt setting that is ignored costs a run.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, JsonValue, field_validator, model_validator

from schemas.base import Event, Strict
from schemas.tensors import ObjectRef

NAME = r"^[a-z0-9][a-z0-9._-]{0,99}$"


class NewModel(Strict):
    """The size of a model made from random weights: a GPT-2 over single characters."""

    alphabet: str = "abcdefghijklmnopqrstuvwxyz="
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    width: int = Field(64, ge=8)
    positions: int = Field(32, ge=4)
    seed: int = 0


class NewPolicy(Strict):
    """The size of a control policy made from random weights: actor and critic of tanh layers."""

    hidden: list[int] = Field([64, 64], min_length=1, description="widths of the hidden layers")
    log_std: float = Field(-0.5, description="of the action, in half-widths of its range, at first")
    clip: float = Field(10.0, gt=0, description="bound of the normalised observation")
    seed: int = 0


class ModelSpec(Strict):
    """Where version 0 comes from: a local folder, a hub name, or `new` with a size."""

    base: str = "new"
    new: NewModel = NewModel()
    mlp: NewPolicy | None = Field(
        None, description="`new` is a control policy of this size, for the source gymnasium"
    )


class Verifier(Strict):
    """Who scores a completion: the name of an entry point and its arguments, never code."""

    name: str = "exact"
    args: dict[str, JsonValue] = {}


class ProblemSource(Strict):
    """Where problems come from; `prompt` and `answer` are templates over the item's fields."""

    source: Literal["reasoning-gym", "jsonl", "datasets", "gymnasium"] = "reasoning-gym"
    name: str
    args: dict[str, JsonValue] = {}
    split: str | None = None
    size: int = Field(1000, ge=1)
    seed: int = 0
    question: str = "{question}"
    prompt: str = "{question}"
    answer: str = "{answer}"
    verifier: Verifier = Verifier()
    heldout: float = Field(0.1, ge=0, lt=1)


class RolloutSpec(Strict):
    """How a group of completions is sampled for one problem."""

    group_size: int = Field(16, ge=1)
    max_tokens: int = Field(16, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    problems_per_batch: int = Field(32, ge=1)
    answer_pattern: str | None = Field(
        None, description="regex: a completion that matches holds its answer, and a tree ends there"
    )

    @field_validator("answer_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern


class AlgorithmSpec(Strict):
    """Which algorithm of the registry, with its own settings (checked by the algorithm)."""

    name: str = "grpo"
    settings: dict[str, JsonValue] = {}


class Training(Strict):
    """How gradients are made and applied."""

    groups_per_upload: int = Field(32, ge=1)
    micro_batch: int = Field(0, ge=0, description="rollouts a backward pass; 0 is all at once")
    uploads_per_step: int = Field(1, ge=1)
    staleness_max: int = Field(4, ge=0)
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    total_steps: int = Field(
        1000, ge=1, description="steps of the mission after which linear and cosine schedules end"
    )
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    chunk_bytes: int = Field(
        4 << 20, ge=1024, description="of gradients; a policy keeps that of its first mission"
    )
    shard_bytes: int = Field(
        1 << 30, ge=1024, description="of weights; a policy keeps that of its first mission"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    outer_rate: float = Field(
        1.0, gt=0, le=1, description="how far a step goes along the mean of its deltas"
    )


class Budget(Strict):
    """Where a mission ends at the latest; what is None does not limit."""

    problems: int | None = Field(None, ge=1)
    versions: int | None = Field(None, ge=1)
    seconds: float | None = Field(None, gt=0)


class Target(Strict):
    """What on the held-out problems ends a mission early; either is enough where both are given."""

    heldout: float | None = Field(None, gt=0, le=1, description="accuracy")
    reward: float | None = Field(None, description="mean reward, of environments the mean return")

    @model_validator(mode="after")
    def _is_one(self) -> "Target":
        if self.heldout is None and self.reward is None:
            raise ValueError("a target needs `heldout` or `reward`")
        return self


class Keep(Strict):
    """Which versions keep their objects: the last N and every K-th."""

    last: int = Field(10, ge=1)
    every: int = Field(100, ge=1)


class Mission(Event):
    """A learning mission: teach `policy` to solve the problems of a source."""

    model_config = Strict.model_config
    topic: ClassVar[str] = "missions"
    key_field: ClassVar[str] = "mission_id"

    type: Literal["mission"] = "mission"
    schema_version: Literal[1] = 1
    mission_id: str = Field(pattern=NAME)
    policy: str = Field(pattern=NAME)
    kind: Literal["learning"] = "learning"
    seed: int = 0
    model: ModelSpec = ModelSpec()
    problems: ProblemSource
    rollout: RolloutSpec = RolloutSpec()
    algorithm: AlgorithmSpec = AlgorithmSpec()
    training: Training = Training()
    budget: Budget = Budget()
    target: Target | None = None
    evaluate_every: int = Field(25, ge=1, description="versions between two evaluations")
    max_in_flight: int | None = Field(None, ge=1, description="problems on their way at most")
    keep: Keep = Keep()

    @model_validator(mode="after")
    def _must_end(self) -> "Mission":
        if not any(v is not None for v in (*self.budget.model_dump().values(), self.target)):
            raise ValueError("budget: a mission needs a budget or a target, or it never ends")
        return self

    @model_validator(mode="after")
    def _fits_source(self) -> "Mission":
        if self.acts and self.model.base == "new" and self.model.mlp is None:
            raise ValueError("model.mlp: a policy for the source gymnasium needs it (`mlp: {}`)")
        return self

    @property
    def acts(self) -> bool:
        """Whether a control policy learns in environments, not a language model on questions."""
        return self.problems.source == "gymnasium"

    @property
    def in_flight_limit(self) -> int:
        """Problems on their way at most: two steps' worth keeps every processor busy."""
        step = self.training.groups_per_upload * self.training.uploads_per_step
        return self.max_in_flight or 2 * max(step, self.rollout.problems_per_batch)


class MissionControl(Event):
    """What a user or the orchestrator wants of a mission; `end` stops feeding, then drains."""

    topic: ClassVar[str] = "missions"
    key_field: ClassVar[str] = "mission_id"

    type: Literal["mission-control"] = "mission-control"
    mission_id: str
    action: Literal["pause", "resume", "cancel", "end"]
    reason: str = ""


class MissionReport(Event):
    """What the problem provider says of a mission.

    `prepared`: the base model and the held-out set are stored. `rejected`: it cannot run, and why.
    `drained`: all its problems are accounted for, nothing is in flight.
    """

    topic: ClassVar[str] = "missions"
    key_field: ClassVar[str] = "mission_id"

    type: Literal["mission-report"] = "mission-report"
    mission_id: str
    policy: str
    stage: Literal["prepared", "rejected", "drained"]
    reason: str = ""
    version: int | None = Field(None, description="of `drained`: the policy's newest by then")
    problems: int = 0
    train_size: int = 0
    heldout_size: int = 0
    heldout: ObjectRef | None = None
    base_files: dict[str, ObjectRef] = {}
    base_shards: dict[str, ObjectRef] = {}


class MissionResult(Event):
    """The one closing event of a mission."""

    topic: ClassVar[str] = "mission-results"
    key_field: ClassVar[str] = "mission_id"

    type: Literal["mission-result"] = "mission-result"
    mission_id: str
    policy: str
    outcome: Literal["target", "budget", "cancelled", "rejected", "ended"]
    reason: str = ""
    seconds: float = 0.0
    problems: int = 0
    samples: int = 0
    versions: int = 0
    final_version: int | None = None
    heldout_before: float | None = None
    heldout_after: float | None = None
    reward_before: float | None = Field(None, description="mean on the held-out problems")
    reward_after: float | None = None


class Patrol(Strict):
    """Drive through these points in order, so many times; obstacles are gone around."""

    kind: Literal["patrol"] = "patrol"
    waypoints: list[tuple[float, float]] = Field(min_length=1, description="x and y in metres")
    laps: int = Field(1, ge=1)
    tolerance_m: float = Field(0.25, gt=0, description="a point counts as reached this near")
    speed_mps: float = Field(0.5, gt=0, description="cruising speed at most")


class Reach(Strict):
    """Follow the target that the robot's own `target` channel shows, for some time."""

    kind: Literal["reach"] = "reach"
    seconds: float | None = Field(None, gt=0, description="without it, until cancelled")


class RobotMission(Event):
    """A mission for robots: what each of them is to do, and under which policy."""

    model_config = Strict.model_config
    topic: ClassVar[str] = "missions"
    key_field: ClassVar[str] = "mission_id"

    type: Literal["robot-mission"] = "robot-mission"
    schema_version: Literal[1] = 1
    mission_id: str = Field(pattern=NAME)
    robots: dict[str, Annotated[Patrol | Reach, Discriminator("kind")]] = Field(
        min_length=1, description="what each robot is to do, by its id"
    )
    policy: str | None = Field(
        None, pattern=NAME, description="the learnt policy that acts; without one the tracker does"
    )


class RobotMissionReport(Event):
    """What a robot's controller says of its part of a mission whenever it reached a waypoint."""

    topic: ClassVar[str] = "missions"
    key_field: ClassVar[str] = "mission_id"

    type: Literal["robot-mission-report"] = "robot-mission-report"
    mission_id: str
    robot_id: str
    waypoints: int = Field(description="reached so far, over all laps")
    distance_m: float = 0.0


class RobotMissionResult(Event):
    """How one robot's part of a mission ended."""

    topic: ClassVar[str] = "mission-results"
    key_field: ClassVar[str] = "mission_id"

    type: Literal["robot-mission-result"] = "robot-mission-result"
    mission_id: str
    robot_id: str
    outcome: Literal["done", "cancelled", "failed"]
    reason: str = ""
    waypoints: int = 0
    distance_m: float = 0.0
    seconds: float = 0.0


def parse_mission(document: dict[str, Any]) -> Mission:
    """A mission from a parsed YAML or JSON document; raises pydantic.ValidationError."""
    return Mission.model_validate({"type": "mission", **document})


def parse_robot_mission(document: dict[str, Any]) -> RobotMission:
    """A mission for robots from a parsed document; raises pydantic.ValidationError."""
    return RobotMission.model_validate({"type": "robot-mission", **document})
