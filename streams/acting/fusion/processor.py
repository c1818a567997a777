"""Sensor fusion as a processor of the live log: sensor-frames in, fused-states out."""

from collections.abc import Iterable, Mapping, Sequence

from schemas.acting import FusedState, SensorFrame
from schemas.base import Sources
from schemas.fusion import FusionSpec
from schemas.live import LiveInput
from schemas.records import Record
from schemas.topics import FUSED_STATES, SENSOR_FRAMES
from streams.acting.fusion.robot import Robot

REWIND_S = 30.0
"""A start goes on from what was published so long ago at most, beyond the window."""


class SensorFusion:
    """Fuses the frames of some robots, each with its own spec.

    `take` answers the state of a frame's robot, with the range of offsets that it accounts for:
    from the end of the robot's last one in that partition to one past this frame. A frame that was
    taken before, or is of an earlier boot, is answered by nothing. What makes no sense whatever
    the state (a wrong number of values, an unknown beacon, a time after its frame's) counts as
    rejected.
    """

    name = "fusion"
    tick_ms: float | None = None

    def __init__(self, specs: Mapping[str, FusionSpec]) -> None:
        """Raises `FusionError` where a spec cannot work."""
        self.robots: Sequence[str] = list(specs)
        self._robots = {robot_id: Robot(spec) for robot_id, spec in specs.items()}
        rewind_s = REWIND_S + max((spec.window_s for spec in specs.values()), default=0.0)
        self.inputs: Sequence[LiveInput] = (
            LiveInput(SENSOR_FRAMES, rewind_s),
            LiveInput(FUSED_STATES, rewind_s, past_only=True),
        )
        self._past: list[Record] = []
        self._accounted: dict[tuple[str, str], int] = {}

    def replay(self, record: Record) -> None:
        """Keep a record of the past; the filters are rebuilt when the first new one comes."""
        self._past.append(record)

    def take(self, record: Record) -> Iterable[FusedState]:
        """Take in a new frame; the state after it, where one is due."""
        if self._past:
            self._rebuild()
        frame = record.event
        if not isinstance(frame, SensorFrame) or frame.robot_id not in self._robots:
            return ()
        robot = self._robots[frame.robot_id]
        due = robot.take(frame)
        return (robot.state(self._account(frame.robot_id, record)),) if due else ()

    def tick(self, now_ms: float) -> Iterable[FusedState]:
        """Nothing is due by time alone: states are in the robots' clocks."""
        return ()

    def _account(self, robot_id: str, record: Record) -> Sources:
        partition, end = str(record.partition), record.offset + 1
        begin = self._accounted.get((robot_id, partition), record.offset)
        self._accounted[robot_id, partition] = end
        return {partition: (begin, end)}

    def _rebuild(self) -> None:
        past, self._past = self._past, []
        events = [record.event for record in past]
        for robot_id, robot in self._robots.items():
            frames = [e for e in events if isinstance(e, SensorFrame) and e.robot_id == robot_id]
            states = [e for e in events if isinstance(e, FusedState) and e.robot_id == robot_id]
            robot.rebuild(frames, states)
            for state in states:
                for partition, (_, end) in state.source.items():
                    known = self._accounted.get((robot_id, partition), 0)
                    self._accounted[robot_id, partition] = max(known, end)
