"""How a robot's readings become one state: the `fusion` part of its file, and `ralo fuse`'s."""

from typing import Literal

from pydantic import Field

from schemas.base import Strict


class FusedChannel(Strict):
    """How one channel enters the filter."""

    kind: Literal["imu", "odometry", "pose", "position", "heading", "range", "joints", "held"] = (
        Field(description="as in the driver's ChannelSpec; `held` is passed on as it is")
    )
    mask: list[bool] | None = Field(None, description="which of its values to use; all without it")
    std: list[float] = Field([], description="of each value, or one for all; `held` has none")
    gate: float | None = Field(
        None, gt=0, lt=1, description="what has a smaller chance than 1 - gate is rejected"
    )
    rejects_max: int = Field(
        10, ge=1, description="after so many rejected in a row: alarm, and the covariance grows"
    )
    timeout_s: float | None = Field(
        None, gt=0, description="silent for longer is reported stale; without it sensor_timeout_s"
    )


class FusionSpec(Strict):
    """Which filter, of which channels, with which noise."""

    filter: Literal["planar", "spatial", "joints"] = "planar"
    channels: dict[str, FusedChannel]
    rate_hz: float = Field(0.0, ge=0, description="states a second at most; 0: one a frame")
    window_s: float = Field(1.0, gt=0, description="how late a reading may come and be rewound for")
    sensor_timeout_s: float = Field(0.1, gt=0, description="silent for longer is reported stale")
    process_std: dict[str, float] = Field(
        {}, description="noise of the motion model by name, per square root of a second"
    )
    initial_mean: dict[str, float] = {}
    initial_std: dict[str, float] = {}
    beacons: dict[str, list[float]] = Field({}, description="where each beacon is, by its number")
    beacon_bias_std_m: float | None = Field(
        None, gt=0, description="estimate a bias of each beacon's ranges, at first this unsure"
    )
    joints: int = Field(2, ge=1, description="how many joints the `joints` filter follows")
    gravity_mps2: float = Field(9.80665, gt=0, description="where the `spatial` filter is used")
