"""Frames and specs that tests of fusion share."""

from collections.abc import Iterable, Sequence

from schemas.acting import FusedState, Reading, SensorFrame
from schemas.fusion import FusedChannel, FusionSpec
from schemas.records import Partition, Record

PLANAR = FusionSpec(
    channels={
        "odometry": FusedChannel(kind="odometry", std=[0.1, 0.1]),
        "position": FusedChannel(kind="position", std=[0.2], gate=0.99, rejects_max=4),
        "heading": FusedChannel(kind="heading", std=[0.1]),
        "scan": FusedChannel(kind="held"),
    }
)


def reading(channel: str, seq: int, stamp_ms: float, *values: float) -> Reading:
    return Reading(channel=channel, seq=seq, stamp_ms=stamp_ms, values=list(values))


def frame(
    seq: int,
    stamp_ms: float,
    readings: Iterable[Reading] = (),
    robot: str = "rover",
    boot: str = "1",
) -> SensorFrame:
    return SensorFrame(
        robot_id=robot,
        boot_id=boot,
        seq=seq,
        stamp_ms=stamp_ms,
        wall_ms=1.7e12 + stamp_ms,
        readings=list(readings),
    )


def records(frames: Sequence[SensorFrame | FusedState], first: int = 0) -> list[Record]:
    """As they lie in one partition of their topic."""
    return [
        Record(Partition(f.topic, 0), first + k, f.robot_id.encode(), None, event=f)
        for k, f in enumerate(frames)
    ]
