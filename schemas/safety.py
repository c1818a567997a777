"""What keeps a robot safe without anyone's help: the `safety` part of its file."""

from typing import Literal

from pydantic import Field

from schemas.base import Strict


class Geofence(Strict):
    """The robot stays inside this rectangle."""

    low: tuple[float, float]
    high: tuple[float, float]
    margin_m: float = Field(0.3, ge=0, description="from here to the edge it is DEGRADED")


class SafetySpec(Strict):
    """Limits whose breach changes the mode; what is None is not watched.

    Defaults after PX4 (0.5 s of silence) and Nav2 (standing still within 0.6 s).
    """

    silence_hold_s: float = Field(0.5, gt=0, description="without a fresh command: HOLD")
    silence_stop_s: float = Field(10.0, gt=0, description="without a fresh command: SAFE_STOP")
    stale_hold_s: dict[str, float] = Field(
        {}, description="channel: HOLD when it was silent this long"
    )
    obstacle_slow_m: float | None = Field(None, gt=0, description="nearer: DEGRADED")
    obstacle_stop_m: float | None = Field(None, gt=0, description="nearer: HOLD")
    geofence: Geofence | None = None
    tilt_stop_rad: float | None = Field(None, gt=0)
    degraded_factor: float = Field(0.5, gt=0, le=1, description="of the limits when DEGRADED")
    brake_mps2: float = Field(2.4, gt=0, description="deceleration of a stop, after Autoware")
    gate_timeout_ms: float = Field(
        100.0, gt=0, description="the second gate brakes when the loop is silent this long"
    )
    load: Literal["dedicated", "shared", "busy"] = Field(
        "shared", description="what else the machine does: times 1, 1.5 or 2 on all time-outs"
    )
