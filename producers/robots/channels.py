"""The channels of a simulated robot: when each measures, and when a reading arrives."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from producers.robots.noise import Errors
from schemas.acting import Reading
from schemas.robots import ChannelSpec, DriverSpec
from schemas.worlds import Sensor

WAITING_MAX = 4096
"""Readings of a channel that nobody fetches; then the oldest is lost, which its `seq` shows."""

_EARLY_MS = 1e-6
_DIGITS = {"scan": 3}
"""Resolution of a kind's values; 6 digits after the point are enough for all others."""


class Channel:
    """One channel: a reading each period, with errors, some time late, or never."""

    def __init__(self, spec: ChannelSpec, sensor: Sensor, *key: object) -> None:
        self.spec, self.seq = spec, 0
        self._period_ms, self._delay_ms = 1000 / sensor.rate_hz, sensor.delay_ms
        self._errors = Errors(sensor, len(spec.fields), *key, spec.name)
        self._digits = _DIGITS.get(spec.kind, 6)
        self._next_ms: float | None = None
        self._waiting: deque[tuple[float, Reading]] = deque(maxlen=WAITING_MAX)

    def due(self, now_ms: float) -> bool:
        """Whether it is to measure now: at the multiples of its period, or the first time after."""
        if self._next_ms is None:
            self._next_ms = math.ceil(now_ms / self._period_ms - _EARLY_MS) * self._period_ms
        return now_ms >= self._next_ms - _EARLY_MS

    def measure(self, now_ms: float, values: Sequence[float]) -> None:
        """Measure these true values."""
        self._next_ms = (math.floor(now_ms / self._period_ms + _EARLY_MS) + 1) * self._period_ms
        seq, self.seq = self.seq, self.seq + 1
        if self._errors.dropped(seq):
            return
        source = int(values[0]) if self.spec.kind == "range" else 0
        measured = self._errors.measured(seq, values, source)
        if self.spec.kind == "imu":
            measured = _unit_quaternion(measured)
        reading = Reading(
            channel=self.spec.name,
            seq=seq,
            stamp_ms=round(now_ms, 3),
            values=[round(value, self._digits) for value in measured],
        )
        self._waiting.append((now_ms + self._delay_ms, reading))

    def arrived(self, now_ms: float) -> list[Reading]:
        """What has arrived and was not fetched yet, oldest first."""
        found = []
        while self._waiting and self._waiting[0][0] <= now_ms + _EARLY_MS:
            found.append(self._waiting.popleft()[1])
        return found


def _unit_quaternion(values: list[float]) -> list[float]:
    length = math.hypot(*values[6:])
    return [*values[:6], *(value / length for value in values[6:])]


@dataclass(frozen=True)
class Channels:
    """All channels of one robot, with what each of them would measure without errors."""

    channels: Sequence[Channel]
    true: Mapping[str, Callable[[int], Sequence[float]]]
    """By channel: the true values of the reading with this number."""

    @classmethod
    def of(
        cls,
        spec: DriverSpec,
        sensors: Mapping[str, Sensor],
        true: Mapping[str, Callable[[int], Sequence[float]]],
        *key: object,
    ) -> "Channels":
        """Those channels of a driver that have something to measure; `key` is (seed, robot).

        The key decides all errors. Raises `SensorError`.
        """
        measured = [c for c in spec.channels if c.name in true]
        return cls([Channel(c, sensors[c.name], *key) for c in measured], true)

    def measure(self, now_ms: float) -> None:
        """Have each channel measure whose time it is."""
        for channel in self.channels:
            if channel.due(now_ms):
                channel.measure(now_ms, self.true[channel.spec.name](channel.seq))

    def arrived(self, now_ms: float) -> list[Reading]:
        """What has arrived of all channels, oldest first per channel."""
        return [reading for channel in self.channels for reading in channel.arrived(now_ms)]
