"""A robot's file: everything about one robot, in YAML."""

from typing import Literal

from pydantic import Field

from schemas.base import Strict
from schemas.control import ControllerSpec
from schemas.fusion import FusionSpec
from schemas.missions import NAME
from schemas.robots import DriverChoice
from schemas.safety import SafetySpec

Place = Literal["robot", "edge", "cloud"]


class Placement(Strict):
    """Where each processor of the robot runs, by profile and with exceptions."""

    profile: Literal["single_robot", "robot_edge", "robot_cloud", "multi_robot_fleet"] = (
        "single_robot"
    )
    at: dict[Literal["actuator", "safety", "fusion", "controller", "recorder"], Place] = Field(
        {}, description="where it differs from the profile"
    )


class RobotFile(Strict):
    """One robot."""

    robot_id: str = Field(pattern=NAME)
    driver: DriverChoice
    control_hz: float = Field(200.0, ge=100, le=1000, description="rate of the control loop")
    frame_hz: float = Field(50.0, gt=0, description="sensor frames a second")
    feedback_hz: float = Field(20.0, gt=0)
    placement: Placement = Placement()
    fusion: FusionSpec
    controller: ControllerSpec = ControllerSpec()
    safety: SafetySpec = SafetySpec()
