"""What a robot is: its channels, its set-point, and the contract that every driver keeps.

Shapes, units and rates are known before connecting, so that everything else can be set up, and a
recording can be read, without the robot.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import Field, JsonValue

from schemas.acting import Reading
from schemas.base import Strict

ChannelKind = Literal[
    "imu",
    "odometry",
    "pose",
    "position",
    "heading",
    "range",
    "scan",
    "joints",
    "target",
    "truth",
    "contact",
    "other",
]
"""What a channel's values mean; angles in radians, body frame x forward, y left, z up.

    imu       wx, wy, wz (rad/s), ax, ay, az (m/s², specific force); then qw, qx, qy, qz if it knows
    odometry  forward speed (m/s), yaw rate (rad/s); spatial: vx, vy, vz, wx, wy, wz
    pose      x, y, heading; spatial: x, y, z, qw, qx, qy, qz
    position  x, y; spatial: x, y, z
    heading   yaw
    range     the beacon's number, the distance to it
    scan      distances in the directions that `fields` names: `range_m@-0.5` is at -0.5 rad
    joints    all angles, then all angular velocities
    target    where the mission's target is: x, y
    truth     what a simulator knows: x, y, heading, forward speed, yaw rate; never fused
    contact   how many contacts with obstacles there were so far; never fused
"""


class ChannelSpec(Strict):
    """One channel of a driver."""

    name: str
    kind: ChannelKind
    fields: list[str] = Field(description="what each value is, unit last")
    rate_hz: float = Field(gt=0)


class SetPointField(Strict):
    """One number of a set-point, and what the hardware takes."""

    name: str = Field(description="unit last: v_mps, yaw_rate_radps, torque_1")
    low: float
    high: float
    rate_max: float | None = Field(None, gt=0, description="change per second at most")


class DriverSpec(Strict):
    """All that is to be known of a driver before it is connected."""

    name: str
    channels: list[ChannelSpec]
    set_point: list[SetPointField]
    rest: list[float] = Field(description="the set-point that stops it")

    def channel(self, name: str) -> ChannelSpec:
        """The channel of that name; raises KeyError."""
        return {channel.name: channel for channel in self.channels}[name]


class DriverError(Exception):
    """The robot does not answer, or not as its driver expects; says what to look at."""


class Driver(Protocol):
    """A robot as the control loop sees it; a driver is used by one thread.

    Times are in milliseconds of the clock that `now_ms` reads: monotonic, and simulated where the
    robot is. Neither `read` nor `apply` waits. Where `apply` is not called for the driver's own
    time-out, the robot brakes by itself: that second gate is the driver's, beyond the loop's reach.
    """

    spec: DriverSpec

    def connect(self) -> None:
        """Open the robot; raises `DriverError`."""
        ...

    def now_ms(self) -> float:
        """The robot's monotonic clock."""
        ...

    def read(self) -> list[Reading]:
        """What was measured since the last call, oldest first per channel; raises `DriverError`."""
        ...

    def apply(self, set_point: Sequence[float]) -> list[float]:
        """Do this from now on; answers what is really done; raises `DriverError`."""
        ...

    def close(self) -> None:
        """Stop the robot and let go of it; closing twice is fine."""
        ...


class DriverChoice(Strict):
    """Which driver of the registry (entry points `ralo.drivers`), with its own arguments."""

    name: str
    args: dict[str, JsonValue] = {}
