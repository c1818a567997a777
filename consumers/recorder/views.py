"""What of an event a viewer can draw: poses, transforms, scans, joints, a text log, images.

In Foxglove's own well-known schemas, in metres and radians; the frame of places is `map`, the frame
of a robot has its name.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from foxglove import messages as fox

from consumers.recorder.entries import Entry, Schema, ns, times_of
from schemas.acting import FusedState, Mode, Reading, Release, SafetyEvent, SensorFrame
from schemas.base import Event
from schemas.missions import Patrol, RobotMission, RobotMissionResult
from schemas.records import Record
from schemas.robots import ChannelSpec, DriverSpec

MAP = "map"

Places = Mapping[str, Sequence[float]]
"""Where robots are: a rover at (x, y, heading), an arm at (q1, q2, target x, y)."""
Camera = Callable[[Places], bytes]
"""A picture of robots at these places, as PNG."""
CAMERA_EVERY_MS = 500.0

_LEVELS: Mapping[Mode, Any] = {
    "NORMAL": fox.LogLevel.Info,
    "DEGRADED": fox.LogLevel.Warning,
    "HOLD": fox.LogLevel.Warning,
    "SAFE_STOP": fox.LogLevel.Error,
    "TERMINATED": fox.LogLevel.Fatal,
}


class Views:
    """Makes the messages that are drawn; knows the robots by what their drivers say of them.

    Of a robot without a `DriverSpec` a channel is what its name says, and scans are left out: the
    directions are known to the driver alone.
    """

    def __init__(self, specs: Mapping[str, DriverSpec], camera: Camera | None = None) -> None:
        self._camera = camera
        self._places: dict[str, list[float]] = {}
        self._pictured_ms = 0.0
        self._channels = {
            robot: {channel.name: channel for channel in spec.channels}
            for robot, spec in specs.items()
        }

    def of(self, record: Record, event: Event) -> Iterator[Entry]:
        """What is to be drawn of an event."""
        logged_ms, happened_ms = times_of(record, event)
        for topic, message, at_ms in self._messages(event, happened_ms):
            found = message.get_schema()
            schema = Schema(found.name, found.encoding, found.data)
            data = message.encode()
            yield Entry(topic, schema, data, ns(logged_ms), ns(at_ms), record.offset)

    def _messages(self, event: Event, at_ms: float) -> Iterator[tuple[str, Any, float]]:
        match event:
            case SensorFrame():
                for reading in event.readings:
                    read_ms = at_ms - (event.stamp_ms - reading.stamp_ms)
                    for name, message in self._reading(event.robot_id, reading, read_ms):
                        yield f"/{event.robot_id}/{name}", message, read_ms
            case FusedState():
                for name, message in self._state(event, at_ms):
                    yield f"/{event.robot_id}/{name}", message, at_ms
                for message in self._picture(event, at_ms):
                    yield "/camera", message, at_ms
            case RobotMission():
                for robot, part in event.robots.items():
                    if isinstance(part, Patrol):
                        yield f"/{robot}/waypoints", _waypoints(part, at_ms), at_ms
            case SafetyEvent() | Release() | RobotMissionResult():
                yield f"/{event.robot_id}/log", _line(event, at_ms), at_ms

    def _reading(self, robot: str, reading: Reading, at_ms: float) -> Iterator[tuple[str, Any]]:
        channel = self._channels.get(robot, {}).get(reading.channel)
        kind = channel.kind if channel else reading.channel
        match kind, reading.values:
            case "truth" | "pose", [x_m, y_m, heading_rad, *_]:
                yield reading.channel, _in_map(at_ms, _planar(x_m, y_m, heading_rad))
            case "position", [x_m, y_m, *_]:
                yield reading.channel, _in_map(at_ms, _planar(x_m, y_m, 0.0))
            case "target", [x_m, y_m]:
                yield reading.channel, _in_map(at_ms, _planar(x_m, y_m, 0.0))
            case "joints", values:
                yield reading.channel, _joints(channel, values, at_ms)
            case "scan", ranges if channel is not None:
                yield reading.channel, _scan(robot, channel, ranges, at_ms)

    def _state(self, state: FusedState, at_ms: float) -> Iterator[tuple[str, Any]]:
        named = dict(zip(state.names, state.mean, strict=False))
        if {"x_m", "y_m"} <= named.keys():
            position, orientation = _place(named)
            pose = fox.Pose(position=position, orientation=orientation)
            yield "pose", _in_map(at_ms, pose)
            yield (
                "transform",
                fox.FrameTransform(
                    timestamp=stamp(at_ms),
                    parent_frame_id=MAP,
                    child_frame_id=state.robot_id,
                    translation=position,
                    rotation=orientation,
                ),
            )

    def _picture(self, state: FusedState, at_ms: float) -> Iterator[Any]:
        """All robots where they were last, now and then."""
        if self._camera is None:
            return
        named = dict(zip(state.names, state.mean, strict=False))
        core = ("x_m", "y_m", "heading_rad") if "x_m" in named else ("angle_1_rad", "angle_2_rad")
        place = [named.get(name, 0.0) for name in core]
        self._places[state.robot_id] = place + state.held.get("target", [])
        if at_ms - self._pictured_ms >= CAMERA_EVERY_MS:
            self._pictured_ms = at_ms
            data = self._camera(self._places)
            yield fox.CompressedImage(
                timestamp=stamp(at_ms), frame_id="camera", data=data, format="png"
            )


def stamp(at_ms: float) -> Any:
    """A time of the well-known schemas."""
    seconds, rest_ms = divmod(at_ms, 1000.0)
    return fox.Timestamp(int(seconds), min(int(rest_ms * 1e6), 999_999_999))


def _planar(x_m: float, y_m: float, heading_rad: float) -> Any:
    return _pose({"x_m": x_m, "y_m": y_m, "heading_rad": heading_rad})


def _pose(named: Mapping[str, float]) -> Any:
    position, orientation = _place(named)
    return fox.Pose(position=position, orientation=orientation)


def _place(named: Mapping[str, float]) -> tuple[Any, Any]:
    yaw = named.get("heading_rad", named.get("yaw_rad", 0.0))
    x, y, z, w = quaternion(named.get("roll_rad", 0.0), named.get("pitch_rad", 0.0), yaw)
    position = fox.Vector3(x=named["x_m"], y=named["y_m"], z=named.get("z_m", 0.0))
    return position, fox.Quaternion(x=x, y=y, z=z, w=w)


def quaternion(roll: float, pitch: float, yaw: float) -> tuple[float, float, float, float]:
    """The rotation z-y-x by these angles in radians, as x, y, z, w."""
    (sr, cr), (sp, cp), (sy, cy) = (
        (math.sin(angle / 2), math.cos(angle / 2)) for angle in (roll, pitch, yaw)
    )
    return (
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
        cr * cp * cy + sr * sp * sy,
    )


def _in_map(at_ms: float, pose: Any) -> Any:
    return fox.PoseInFrame(timestamp=stamp(at_ms), frame_id=MAP, pose=pose)


def _waypoints(part: Patrol, at_ms: float) -> Any:
    poses = [_planar(x_m, y_m, 0.0) for x_m, y_m in part.waypoints]
    return fox.PosesInFrame(timestamp=stamp(at_ms), frame_id=MAP, poses=poses)


def _scan(robot: str, channel: ChannelSpec, ranges: list[float], at_ms: float) -> Any:
    angles = [float(field.rpartition("@")[2]) for field in channel.fields]
    order = sorted(range(len(angles)), key=angles.__getitem__)
    return fox.LaserScan(
        timestamp=stamp(at_ms),
        frame_id=robot,
        pose=_planar(0.0, 0.0, 0.0),
        start_angle=angles[order[0]],
        end_angle=angles[order[-1]],
        ranges=[ranges[index] for index in order],
    )


def _joints(channel: ChannelSpec | None, values: list[float], at_ms: float) -> Any:
    count = len(values) // 2
    fields = channel.fields if channel else [f"joint_{index + 1}" for index in range(count)]
    joints = [
        fox.JointState(name=name, position=angle, velocity=speed)
        for name, angle, speed in zip(fields, values[:count], values[count:], strict=False)
    ]
    return fox.JointStates(timestamp=stamp(at_ms), joints=joints)


def _line(event: SafetyEvent | Release | RobotMissionResult, at_ms: float) -> Any:
    match event:
        case SafetyEvent():
            level = _LEVELS[event.after]
            text = f"{event.before} -> {event.after}: {event.cause} {event.detail}".rstrip()
        case Release():
            level = fox.LogLevel.Warning if event.stage == "ROLLED_BACK" else fox.LogLevel.Info
            text = f"{event.policy} {event.version}: {event.stage} {event.reason}".rstrip()
        case _:
            level = fox.LogLevel.Info
            text = f"mission {event.mission_id}: {event.outcome} {event.reason}".rstrip()
    return fox.Log(
        timestamp=stamp(at_ms), level=level, message=text, name=f"{event.robot_id} {event.type}"
    )
