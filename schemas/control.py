"""How a robot is driven: the `controller` part of its file."""

from typing import Literal

from pydantic import Field

from schemas.base import Strict


class ReleaseGate(Strict):
    """What a policy must show on its way into the robot, counted in control steps."""

    shadow_steps: int = Field(50, ge=0, description="it runs beside the acting one this long")
    probation_steps: int = Field(150, ge=0, description="then it acts on probation this long")
    wait_safe_steps: int = Field(500, ge=1, description="it waits so long for a safe state at most")
    output_distance_max: float | None = Field(
        None, gt=0, description="root mean square from the acting one in the shadow run at most"
    )
    return_drop_max: float = Field(
        0.25, ge=0, description="probation fails where the mean reward falls by this share"
    )
    return_steps: int = Field(
        50, ge=1, description="rewards are compared as means of so many steps: an episode's"
    )
    slow_speed_max: float = Field(
        0.05, ge=0, description="a state is safe for a swap where no speed (m/s, rad/s) is above"
    )


class Steering(Strict):
    """How the tracker `waypoints` drives a robot with a speed and a yaw rate for a set-point."""

    radius_m: float = Field(0.25, gt=0, description="of the disc that the robot fits in")
    margin_m: float = Field(0.15, ge=0, description="kept from obstacles beside the radius")
    look_ahead_m: float = Field(1.5, gt=0, description="a direction counts as free this far")
    memory_s: float = Field(3.0, ge=0, description="how long points out of sight are remembered")
    brake_mps2: float = Field(0.5, gt=0, description="it drives so as to stop with this at most")
    turn_gain: float = Field(2.0, gt=0, description="yaw rate for each radian off the way")
    position_std_max_m: float = Field(
        0.5, gt=0, description="it rests while its position is less certain than this"
    )
    turn_on_the_spot_rad: float = Field(0.8, gt=0, description="further off the way, it only turns")


class ControllerSpec(Strict):
    """Which controller, at which rate, and how long its commands are good for."""

    tracker: Literal["waypoints", "rest"] = Field(
        "rest", description="version 0: a classical path tracker, or staying as it is"
    )
    rate_hz: float = Field(0.0, ge=0, le=100, description="commands a second; 0: one a fused state")
    horizon_ms: float = Field(150.0, gt=0, description="from a state's time to its command's end")
    policy: str | None = Field(None, description="follow this policy's releases")
    observation: list[str] = Field(
        [], description="inputs of the policy, from the fused state: see docs/robots.md"
    )
    release: ReleaseGate = ReleaseGate()
    steering: Steering = Steering()
    reward_channel: str = Field(
        "reward", description="reward of each step, then the episode's number, where it has one"
    )
