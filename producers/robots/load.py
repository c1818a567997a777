"""Frames of many rovers without their physics, to load what reads them. Pure.

Each rover drives on a circle of its own, so what it measures is known in closed form at any time:
speed and yaw rate are constant, and the readings fit together as those of a real rover do.
"""

import math
from collections.abc import Iterator, Sequence

from producers.robots.channels import Channels
from producers.robots.frames import FramePacker
from producers.robots.specs import rover_spec
from schemas.acting import SensorFrame
from schemas.worlds import Rover, RoverSensors

GRAVITY_MPS2 = 9.81
BEACONS = ((0.0, 0.0), (12.0, 0.0), (12.0, 12.0), (0.0, 12.0))


class CirclingRover:
    """One rover; `rate_hz` is that of its IMU, the other channels are slower as usual."""

    def __init__(
        self, robot_id: str, boot_id: str, rate_hz: float, frame_hz: float, seed: int = 0
    ) -> None:
        sensors = RoverSensors()
        assert sensors.imu is not None
        fast = sensors.imu.model_copy(update={"rate_hz": rate_hz})
        body = Rover(sensors=sensors.model_copy(update={"imu": fast, "scan": None}))
        spec = rover_spec(body)
        by_name = {channel.name: getattr(body.sensors, channel.name) for channel in spec.channels}
        self._radius, self._speed, self._t_s = 1.0 + seed % 4, 0.5, 0.0
        true = {
            "imu": self._imu,
            "odometry": lambda seq: (self._speed, self._yaw_rate),
            "position": lambda seq: self._pose()[:2],
            "range": self._range,
            "truth": lambda seq: (*self._pose(), self._speed, self._yaw_rate),
        }
        self._channels = Channels.of(spec, by_name, true, seed, robot_id)
        self._packer = FramePacker(robot_id, boot_id, frame_hz)
        self._step_ms, self._last_ms = 1000 / rate_hz, -math.inf

    @property
    def _yaw_rate(self) -> float:
        return self._speed / self._radius

    def _pose(self) -> tuple[float, float, float]:
        angle = self._yaw_rate * self._t_s
        x, y = 6 + self._radius * math.cos(angle), 6 + self._radius * math.sin(angle)
        heading = angle + math.pi / 2
        return x, y, math.atan2(math.sin(heading), math.cos(heading))

    def _imu(self, seq: int) -> Sequence[float]:
        half, inward = self._pose()[2] / 2, self._speed * self._yaw_rate
        turn = (0.0, 0.0, self._yaw_rate)
        return (*turn, 0.0, inward, GRAVITY_MPS2, math.cos(half), 0.0, 0.0, math.sin(half))

    def _range(self, seq: int) -> Sequence[float]:
        number = seq % len(BEACONS)
        return number, math.dist(self._pose()[:2], BEACONS[number])

    def frames(self, now_ms: float, wall_ms: float) -> Iterator[SensorFrame]:
        """Measure all that is due up to now; the frame that is to be closed, if one is."""
        if self._last_ms == -math.inf:
            self._last_ms = now_ms
        while self._last_ms + self._step_ms <= now_ms:
            self._last_ms += self._step_ms
            self._t_s = self._last_ms / 1000
            self._channels.measure(self._last_ms)
        self._packer.take(self._channels.arrived(now_ms))
        frame = self._packer.frame(now_ms, wall_ms)
        if frame is not None:
            yield frame
