"""From readings to sensor frames: many readings an event, numbered and stamped. Pure."""

from collections.abc import Iterable

from schemas.acting import Reading, SensorFrame

BYTES_MAX = 192 * 1024
"""Of the readings in a frame, which so stays below the limit of an event."""

_READING_BYTES, _VALUE_BYTES = 96, 24
AFTER_MS = 2.0
"""Frames close so long after the multiples of their period: what a robot measures on the whole
multiples, such as the steps of the arm, is in and not left for the next frame."""


class FramePacker:
    """Collects the readings of one boot and closes a frame each period of the robot's clock."""

    def __init__(self, robot_id: str, boot_id: str, frame_hz: float) -> None:
        self.robot_id, self.boot_id, self.dropped, self._seq = robot_id, boot_id, 0, 0
        self._period_ms = 1000 / frame_hz
        self._readings: list[Reading] = []
        self._bytes = 0
        self._slot: int | None = None

    def take(self, readings: Iterable[Reading]) -> None:
        """Put these into the next frame; what finds no room is counted."""
        for reading in readings:
            size = _READING_BYTES + len(reading.channel) + _VALUE_BYTES * len(reading.values)
            if self._bytes + size > BYTES_MAX:
                self.dropped += 1
                continue
            self._bytes += size
            self._readings.append(reading)

    def frame(self, now_ms: float, wall_ms: float) -> SensorFrame | None:
        """The frame that is to be closed now; None before its time. It may hold no readings."""
        slot = int((now_ms - AFTER_MS) // self._period_ms)
        if self._slot is None:
            self._slot = slot
        if slot <= self._slot:
            return None
        self._slot = slot
        return self.close(now_ms, wall_ms)

    def close(self, now_ms: float, wall_ms: float) -> SensorFrame:
        """The frame as it is now, due or not."""
        frame = SensorFrame(
            robot_id=self.robot_id,
            boot_id=self.boot_id,
            seq=self._seq,
            stamp_ms=round(now_ms, 3),
            wall_ms=round(wall_ms, 3),
            readings=self._readings,
            dropped=self.dropped,
        )
        self._seq += 1
        self._readings, self._bytes = [], 0
        return frame
