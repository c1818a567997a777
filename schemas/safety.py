"""What keeps a robot safe without anyone's help: the `safety` part of its file."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from schemas.base import Strict

LOAD_FACTORS = {"dedicated": 1.0, "shared": 1.5, "busy": 2.0}


class Geofence(Strict):
    """The robot stays inside this rectangle."""

    low: tuple[float, float]
    high: tuple[float, float]
    margin_m: float = Field(0.3, ge=0, description="from here to the edge it is DEGRADED")


class SafetySpec(Strict):
    """Limits whose breach changes the mode; what is None is not watched.

    Defaults after PX4 (0.5 s of silence) and Nav2 (standing still within 0.6 s; what has no source
    is a stop): on a shared machine the first time-out is 1.5 times 0.35 s. No time-out can be
    switched off: a machine on which they are too tight says so by `load`.
    """

    silence_hold_s: float = Field(0.35, gt=0, le=5, description="without a fresh command: HOLD")
    silence_stop_s: float = Field(
        10.0, gt=0, le=600, description="without a fresh command: SAFE_STOP"
    )
    stale_hold_s: dict[str, float] = Field(
        {}, description="channel: HOLD when it was silent this long"
    )
    stale_default_s: float = Field(
        0.5,
        gt=0,
        le=10,
        description="the same for each channel that a watch below needs, by default",
    )
    obstacle_slow_m: float | None = Field(None, gt=0, description="nearer: DEGRADED")
    obstacle_stop_m: float | None = Field(None, gt=0, description="nearer: HOLD")
    geofence: Geofence | None = None
    tilt_stop_rad: float | None = Field(None, gt=0, description="more: SAFE_STOP")
    readings_min: int = Field(
        2, ge=1, description="obstacle, fence and tilt: so many readings in a row must say so"
    )
    clear_s: float = Field(
        0.5, gt=0, le=60, description="DEGRADED ends by itself when its causes are gone this long"
    )
    degraded_factor: float = Field(0.5, gt=0, le=1, description="of the limits when DEGRADED")
    brake_mps2: float = Field(2.4, gt=0, description="deceleration of a stop, after Autoware")
    gate_timeout_ms: float = Field(
        100.0, gt=0, le=1000, description="the second gate brakes when the loop is silent this long"
    )
    load: Literal["dedicated", "shared", "busy"] = Field(
        "shared", description="what else the machine does: times 1, 1.5 or 2 on all time-outs"
    )

    @field_validator("stale_hold_s")
    @classmethod
    def _never_off(cls, stale_hold_s: dict[str, float]) -> dict[str, float]:
        for channel, seconds in stale_hold_s.items():
            if not 0 < seconds <= 10:
                raise ValueError(f"{channel}: {seconds:g} s; a time-out is above 0 and at most 10")
        return stale_hold_s

    @model_validator(mode="after")
    def _in_order(self) -> "SafetySpec":
        if self.silence_stop_s < self.silence_hold_s:
            raise ValueError("silence_stop_s is below silence_hold_s: SAFE_STOP comes after HOLD")
        slow, stop = self.obstacle_slow_m, self.obstacle_stop_m
        if slow is not None and stop is not None and slow < stop:
            raise ValueError("obstacle_slow_m is below obstacle_stop_m: DEGRADED comes before HOLD")
        return self

    @property
    def load_factor(self) -> float:
        """What all time-outs are multiplied by."""
        return LOAD_FACTORS[self.load]

    def scaled_ms(self, seconds: float) -> float:
        """A time-out as it is on this machine, in milliseconds."""
        return seconds * 1000 * self.load_factor
