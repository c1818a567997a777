"""A simulated world: the arena, what stands in it, its robots, and how badly their sensors measure.

Lengths in metres, angles in radians; x to the east, y to the north, headings counterclockwise.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, model_validator

from schemas.base import Strict
from schemas.missions import NAME

Point = tuple[float, float]
RobotId = Annotated[str, Field(pattern=NAME)]


class Sensor(Strict):
    """How often a channel is measured, and what is wrong with it.

    `std`, `bias` and `bias_std` have a number for each value, or one for all of them, or none.
    """

    rate_hz: float = Field(gt=0, le=1000)
    std: list[float] = Field([], description="of the noise in each reading")
    bias: list[float] = Field([], description="the same in each reading")
    bias_std: list[float] = Field([], description="of a bias drawn once a robot, or once a beacon")
    delay_ms: float = Field(0.0, ge=0, description="from the measurement to its arrival")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the readings that never arrive")


class RoverSensors(Strict):
    """The channels of a rover, by name; one that is None is not there."""

    imu: Sensor | None = Sensor(
        rate_hz=200,
        std=[0.005, 0.005, 0.005, 0.1, 0.1, 0.1, 0.002, 0.002, 0.002, 0.002],
        bias_std=[0.004, 0.004, 0.004, 0.05, 0.05, 0.05, 0, 0, 0, 0],
    )
    odometry: Sensor | None = Sensor(rate_hz=50, std=[0.01, 0.01])
    range: Sensor | None = Sensor(rate_hz=20, std=[0, 0.1], bias_std=[0, 0.2], dropout=0.05)
    position: Sensor | None = Sensor(rate_hz=5, std=[0.1], delay_ms=100, dropout=0.05)
    pose: Sensor | None = None
    scan: Sensor | None = Sensor(rate_hz=10, std=[0.01])
    truth: Sensor | None = Sensor(rate_hz=50)
    contact: Sensor | None = Sensor(rate_hz=10)


def _around(rays: int) -> list[float]:
    return [round(2 * math.pi * (i / rays - 0.5), 4) for i in range(rays)]


class Rover(Strict):
    """A differential-drive rover."""

    mass_kg: float = Field(12.0, gt=0)
    wheel_radius_m: float = Field(0.1, gt=0.02, lt=1, description="as its odometry believes")
    track_m: float = Field(0.34, gt=0.05, description="between the wheels")
    wheel_error: Point = Field(
        (0.0, 0.0), description="how much larger the left and the right wheel really are, as shares"
    )
    slip: float = Field(0.0, ge=0, lt=1, description="share of the wheels' way that is lost")
    v_min_mps: float = Field(-0.5, le=0)
    v_max_mps: float = Field(1.0, gt=0)
    yaw_rate_max_radps: float = Field(2.0, gt=0)
    scan_rad: list[float] = Field(_around(36), min_length=1, description="directions of the fan")
    scan_max_m: float = Field(8.0, gt=0, description="what a ray that meets nothing says")
    sensors: RoverSensors = RoverSensors()


class ArmSensors(Strict):
    """The channels of an arm; `rate_hz` of `target` and `reward` is that of its steps, 50."""

    joints: Sensor = Sensor(rate_hz=50)
    target: Sensor = Sensor(rate_hz=50)
    reward: Sensor = Sensor(rate_hz=50)


class Arm(Strict):
    """Gymnasium's Reacher-v5: two links in the plane; its reward, and a target that moves on."""

    gear_scale: float = Field(1.0, gt=0, description="of what a torque does")
    mass_scale: float = Field(1.0, gt=0, description="of both links")
    target_radius_m: float = Field(0.2, gt=0, le=0.21, description="targets lie within it")
    episode_steps: int = Field(50, ge=1, description="of 20 ms, then there is a new target")
    sensors: ArmSensors = ArmSensors()


class Cylinder(Strict):
    """A round obstacle."""

    kind: Literal["cylinder"] = "cylinder"
    at: Point
    radius_m: float = Field(gt=0)


class Box(Strict):
    """A square obstacle."""

    kind: Literal["box"] = "box"
    at: Point
    size_m: Point
    heading_rad: float = 0.0


class RoverPlacement(Strict):
    """One rover of a world."""

    start: tuple[float, float, float] = Field(description="x, y and heading")
    waypoints: list[Point] = Field([], description="what `ralo simulate --speed 0` drives along")
    body: Rover | None = Field(None, description="where it is not like the world's rovers")


class World(Strict):
    """One simulated world."""

    name: str = Field(pattern=NAME)
    seed: int = 0
    step_ms: float = Field(2.5, gt=0, le=10, description="of the rovers' physics")
    low: Point = (0.0, 0.0)
    high: Point = (12.0, 12.0)
    obstacles: list[Annotated[Cylinder | Box, Discriminator("kind")]] = []
    beacons: dict[Annotated[str, Field(pattern=r"^\d+$")], Point] = {}
    rover: Rover = Rover()
    rovers: dict[RobotId, RoverPlacement] = {}
    arms: dict[RobotId, Arm] = {}
    gate_timeout_ms: float = Field(
        100.0, gt=0, description="where the robot's own file says nothing else"
    )
    brake_mps2: float = Field(2.4, gt=0, description="where the robot's own file says nothing else")

    @model_validator(mode="after")
    def _fits(self) -> "World":
        for robot_id, rover in self.rovers.items():
            if not all(
                a < c < b for a, c, b in zip(self.low, rover.start, self.high, strict=False)
            ):
                raise ValueError(f"rovers.{robot_id}.start: outside {self.low} to {self.high}")
        if twice := sorted(self.rovers.keys() & self.arms.keys()):
            raise ValueError(f"{twice[0]}: one robot_id for a rover and for an arm")
        return self

    def body(self, robot_id: str) -> Rover:
        """The body of one of its rovers; raises KeyError."""
        return self.rovers[robot_id].body or self.rover


def parse_world(document: dict[str, Any]) -> World:
    """A world from a parsed YAML document; raises pydantic.ValidationError."""
    return World.model_validate(document)
