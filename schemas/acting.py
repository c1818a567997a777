"""The events of the acting loop, in the order in which they happen.

Two clocks: `stamp_ms` and `deadline_ms` are in the robot's monotonic clock, valid within one
`boot_id` (one life of its actuator); `wall_ms` is UTC, for people and for joining logs. Nothing is
decided by the wall clock.
"""

from typing import ClassVar, Literal

from pydantic import Field

from schemas.base import Event, Model, Sources
from schemas.tensors import ObjectRef, Sha256

Mode = Literal["NORMAL", "DEGRADED", "HOLD", "SAFE_STOP", "TERMINATED"]
"""What a robot may do, the most severe last: TERMINATED is final."""

MODES: tuple[Mode, ...] = ("NORMAL", "DEGRADED", "HOLD", "SAFE_STOP", "TERMINATED")


class Reading(Model):
    """One measurement of one channel; what its values are is in the driver's `ChannelSpec`."""

    channel: str
    seq: int = Field(description="counts this channel's readings in this boot, from 0")
    stamp_ms: float = Field(description="when it was measured, in the robot's monotonic clock")
    values: list[float]


class SensorFrame(Event):
    """What a robot measured since its last frame, in the order in which it came in."""

    topic: ClassVar[str] = "sensor-frames"
    key_field: ClassVar[str] = "robot_id"

    type: Literal["sensor-frame"] = "sensor-frame"
    robot_id: str
    boot_id: str
    seq: int = Field(description="counts this robot's frames in this boot, from 0")
    stamp_ms: float = Field(description="when the frame was closed")
    wall_ms: float
    readings: list[Reading]
    dropped: int = Field(
        0,
        description="readings of this boot that found no room so far; a lost frame counts at least "
        "as one, and may be counted by a frame that comes later than the next",
    )


class ChannelHealth(Model):
    """What fusion made of one channel since it began."""

    applied: int = 0
    rejected: int = Field(0, description="outside the gate")
    late: int = Field(0, description="rewound and applied in their place")
    too_old: int = Field(0, description="older than the window: reported here, not applied")
    nis: float | None = Field(None, description="normalised innovation squared of the newest")
    nis_mean: float | None = Field(None, description="of the applied ones")
    alarms: int = Field(0, description="how often so many were rejected in a row that it gave in")
    stale: bool = False


class FusedState(Event):
    """Where a robot is, and how sure that is, after all frames up to `frame_seq`."""

    topic: ClassVar[str] = "fused-states"
    key_field: ClassVar[str] = "robot_id"

    type: Literal["fused-state"] = "fused-state"
    robot_id: str
    boot_id: str
    stamp_ms: float = Field(description="the time that the state is for")
    wall_ms: float
    frame_seq: int
    filter: str = Field(description="planar, spatial or joints")
    names: list[str] = Field(description="of the components, unit last: x_m, y_m, heading_rad, …")
    mean: list[float]
    covariance: list[float] = Field(description="upper triangle, row by row")
    held: dict[str, list[float]] = Field(
        {}, description="newest values of channels that are not fused but needed: scan, target, …"
    )
    channels: dict[str, ChannelHealth] = {}
    source: Sources


class PolicyRef(Model):
    """Which policy acted: version 0 of `tracker` is the classical controller."""

    policy: str
    version: int
    sha256: Sha256 = Field(description="over the tensors that act, as they are in memory")


class ControllerClaim(Event):
    """A controller takes a robot over: its epoch is the offset of this record."""

    topic: ClassVar[str] = "commands"
    key_field: ClassVar[str] = "robot_id"

    type: Literal["controller-claim"] = "controller-claim"
    robot_id: str
    controller_id: str


class Command(Event):
    """A set-point for a robot, void after its deadline, in another boot, or under a newer epoch."""

    topic: ClassVar[str] = "commands"
    key_field: ClassVar[str] = "robot_id"

    type: Literal["command"] = "command"
    robot_id: str
    boot_id: str
    controller_epoch: int
    seq: int = Field(description="counts the commands of this epoch, from 0")
    stamp_ms: float = Field(description="of the fused state that it follows from")
    deadline_ms: float
    frame_seq: int
    set_point: list[float] = Field(description="as the driver's `SetPointSpec` lists them")
    policy: PolicyRef
    mission_id: str = ""
    source: Sources

    @property
    def command_id(self) -> str:
        """Its id: robot, epoch and number."""
        return f"{self.robot_id}.{self.controller_epoch}.{self.seq}"


class OperatorOrder(Event):
    """A person's word to a robot's safety: stop, reset after a stop, or terminate for good."""

    topic: ClassVar[str] = "commands"
    key_field: ClassVar[str] = "robot_id"

    type: Literal["operator-order"] = "operator-order"
    robot_id: str
    order_id: str
    action: Literal["stop", "reset", "terminate"]
    reason: str = ""


Outcome = Literal["applied", "expired", "superseded", "old-epoch", "duplicate", "unsafe", "lost"]
"""What became of a command. `superseded`: a newer one came first. `unsafe`: the mode forbade it.
`lost`: made for an actuator that has died since; whether that applied it, it could not say."""


class CommandOutcome(Model):
    """What became of one command."""

    controller_epoch: int
    seq: int
    outcome: Outcome
    at: str = Field(description="where the command lies in the log")
    at_ms: float = Field(description="when that was decided, in this boot's clock")
    deadline_ms: float
    policy: PolicyRef
    applied: list[float] = Field([], description="what the driver says it did at first")
    limits: list[str] = Field([], description="which limits changed the set-point")


class LoopHealth(Model):
    """How the control loop keeps its periods, since the boot and in the time since last said."""

    rate_hz: float
    periods: int
    missed: int = Field(description="periods that were over before the loop came to them")
    lateness_p50_ms: float
    lateness_p99_ms: float
    lateness_max_ms: float
    realtime: str = Field("", description="scheduling and pinning that the host allowed")


class Feedback(Event):
    """What a robot did: the outcome of each command, what is applied now, under which mode."""

    topic: ClassVar[str] = "feedback"
    key_field: ClassVar[str] = "robot_id"

    type: Literal["feedback"] = "feedback"
    robot_id: str
    boot_id: str
    seq: int = Field(description="counts this robot's feedback in this boot, from 0")
    stamp_ms: float
    wall_ms: float
    mode: Mode
    applied: list[float] = Field(description="what the driver says it does now")
    policy: PolicyRef | None = Field(None, description="of the command being applied")
    outcomes: list[CommandOutcome] = []
    loop: LoopHealth | None = None
    commands_next: int = Field(0, description="every earlier offset of `commands` has an outcome")
    controller_epoch: int | None = Field(None, description="the newest up to there")


class SafetyEvent(Event):
    """A change of mode, or an alarm that changed nothing because the mode was as severe already."""

    topic: ClassVar[str] = "safety-events"
    key_field: ClassVar[str] = "robot_id"

    type: Literal["safety-event"] = "safety-event"
    robot_id: str
    boot_id: str
    seq: int = Field(description="counts this robot's safety events over all boots, from 0")
    stamp_ms: float
    wall_ms: float
    before: Mode
    after: Mode
    cause: str = Field(description="stale-source, obstacle, geofence, tilt, silence, operator, …")
    detail: str = ""


Stage = Literal[
    "OFFERED", "FETCHED", "STAGED", "WAIT_SAFE", "SWAPPED", "PROBATION", "COMMITTED", "ROLLED_BACK"
]
STAGES: tuple[Stage, ...] = (
    "OFFERED",
    "FETCHED",
    "STAGED",
    "WAIT_SAFE",
    "SWAPPED",
    "PROBATION",
    "COMMITTED",
    "ROLLED_BACK",
)


class Golden(Model):
    """Inputs and what the policy answers to them, computed where it was learnt: rows of floats."""

    inputs: list[list[float]]
    outputs: list[list[float]] = Field(description="the mean action, before limits")
    tolerance: float = 1e-4


class Release(Event):
    """One step of a weight version's way into a robot; `release_id` names the whole way."""

    topic: ClassVar[str] = "releases"
    key_field: ClassVar[str] = "robot_id"

    type: Literal["release"] = "release"
    release_id: str
    robot_id: str
    policy: str
    version: int
    stage: Stage
    previous: PolicyRef | None = Field(None, description="what acts, or acted, before it")
    acting: PolicyRef | None = Field(None, description="of SWAPPED and later: what acts now")
    files: dict[str, ObjectRef] = Field({}, description="of OFFERED: config.json and the shards")
    golden: Golden | None = Field(None, description="of OFFERED")
    score: float | None = Field(None, description="of OFFERED: what it was offered for")
    reason: str = ""
    metrics: dict[str, float] = {}
    wall_ms: float
