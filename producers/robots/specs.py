"""What the simulated robots are, known before any is connected: channels, set-points, rest."""

from collections.abc import Mapping

from schemas.robots import ChannelKind, ChannelSpec, DriverSpec, SetPointField
from schemas.worlds import Arm, Rover, Sensor

IMU_FIELDS = [
    *("wx_radps", "wy_radps", "wz_radps", "ax_mps2", "ay_mps2", "az_mps2"),
    *("qw", "qx", "qy", "qz"),
]
TRUTH_FIELDS = ["x_m", "y_m", "heading_rad", "v_mps", "yaw_rate_radps"]
V_RATE_MAX_MPS2 = 2.5
YAW_RATE_MAX_RADPS2 = 10.0


def scan_fields(body: Rover) -> list[str]:
    """The names of a scan's values, which say their directions."""
    return [f"range_m@{angle:g}" for angle in body.scan_rad]


def rover_spec(body: Rover) -> DriverSpec:
    """A rover with this body."""
    kinds: Mapping[str, tuple[ChannelKind, list[str]]] = {
        "imu": ("imu", IMU_FIELDS),
        "odometry": ("odometry", ["v_mps", "yaw_rate_radps"]),
        "range": ("range", ["beacon", "range_m"]),
        "position": ("position", ["x_m", "y_m"]),
        "pose": ("pose", ["x_m", "y_m", "heading_rad"]),
        "scan": ("scan", scan_fields(body)),
        "truth": ("truth", TRUTH_FIELDS),
        "contact": ("contact", ["contacts"]),
    }
    yaw = body.yaw_rate_max_radps
    return DriverSpec(
        name="rover",
        channels=[
            ChannelSpec(name=name, kind=kind, fields=fields, rate_hz=sensor.rate_hz)
            for name, (kind, fields) in kinds.items()
            if (sensor := getattr(body.sensors, name)) is not None
        ],
        set_point=[
            SetPointField(
                name="v_mps", low=body.v_min_mps, high=body.v_max_mps, rate_max=V_RATE_MAX_MPS2
            ),
            SetPointField(name="yaw_rate_radps", low=-yaw, high=yaw, rate_max=YAW_RATE_MAX_RADPS2),
        ],
        rest=[0.0, 0.0],
    )


def arm_spec(arm: Arm) -> DriverSpec:
    """An arm; its reward is that of the step which ends at the stamp, then comes the episode."""
    kinds: Mapping[str, tuple[ChannelKind, list[str], Sensor]] = {
        "joints": ("joints", ["q1_rad", "q2_rad", "dq1_radps", "dq2_radps"], arm.sensors.joints),
        "target": ("target", ["x_m", "y_m"], arm.sensors.target),
        "reward": ("other", ["reward", "episode"], arm.sensors.reward),
    }
    return DriverSpec(
        name="arm",
        channels=[
            ChannelSpec(name=name, kind=kind, fields=fields, rate_hz=sensor.rate_hz)
            for name, (kind, fields, sensor) in kinds.items()
        ],
        set_point=[SetPointField(name=f"torque_{i}", low=-1.0, high=1.0) for i in (1, 2)],
        rest=[0.0, 0.0],
    )


def clipped(spec: DriverSpec, set_point: list[float]) -> list[float]:
    """The set-point within the limits; raises ValueError where it is none for this robot."""
    if len(set_point) != len(spec.set_point):
        names = ", ".join(field.name for field in spec.set_point)
        raise ValueError(f"{spec.name} takes {names}, not {len(set_point)} numbers")
    if not all(-float("inf") < value < float("inf") for value in set_point):
        raise ValueError(f"{spec.name}: {set_point} has a number that is not finite")
    pairs = zip(set_point, spec.set_point, strict=True)
    return [min(max(float(value), field.low), field.high) for value, field in pairs]
