"""Fusion of recorded frames: the same filter as on the log, with other settings if one likes."""

from collections.abc import Iterable, Iterator

from schemas.acting import FusedState, SensorFrame
from schemas.fusion import FusionSpec
from streams.acting.fusion.boot import why_refused
from streams.acting.fusion.filter import Filter
from streams.acting.fusion.model import FusionError
from streams.acting.fusion.robot import Robot


def fuse(
    frames: Iterable[SensorFrame], spec: FusionSpec, strict: bool = False
) -> Iterator[FusedState]:
    """The states of recorded frames, of one robot or several under the same spec.

    With `strict` a reading that makes no sense raises `FusionError`; otherwise it is counted as
    rejected, as on the log.
    """
    robots: dict[str, Robot] = {}
    checked = Filter(spec)
    for frame in frames:
        if strict:
            _check(checked, frame)
        robot = robots.get(frame.robot_id)
        if robot is None:
            robot = robots[frame.robot_id] = Robot(spec)
        if robot.take(frame):
            yield robot.state({})


def _check(filter: Filter, frame: SensorFrame) -> None:
    for reading in frame.readings:
        why = why_refused(filter, frame, reading) if reading.channel in filter.sensors else None
        if why is not None:
            raise FusionError(f"reading {reading.seq} of `{reading.channel}`: {why}")
