"""A rover by filterpy's extended Kalman filter, set up as a `FusionSpec` says: a peer beside ours.

As one writes it with filterpy: readings in the order of arrival, no gate, no history. It comes with
the development packages.
"""

import importlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from schemas.acting import Reading, SensorFrame
from schemas.fusion import FusedChannel, FusionSpec
from streams.acting.fusion.model import wrapped
from streams.acting.fusion.planar import CORE, INITIAL_STD, PROCESS_STD
from streams.acting.fusion.rotation import yaw_of

_HEADING, _SPEED, _YAW_RATE, _BIAS = 2, 3, 4, 5
_BIAS_WALK = 0.001


class FilterpyRover:
    """Predicts and updates reading by reading, with the models and noise of our planar filter."""

    def __init__(self, spec: FusionSpec) -> None:
        kalman: Any = importlib.import_module("filterpy.kalman")
        self._channels = {n: c for n, c in spec.channels.items() if c.kind != "held"}
        self._beacons = {int(number): place for number, place in spec.beacons.items()}
        self._bias_at = {number: _BIAS + k for k, number in enumerate(sorted(self._beacons))}
        self._size = _BIAS + len(self._beacons)
        self._filter = kalman.ExtendedKalmanFilter(dim_x=self._size, dim_z=1)
        biases = len(self._beacons)
        self._filter.x = np.array([spec.initial_mean.get(n, 0.0) for n in CORE] + [0.0] * biases)
        first = INITIAL_STD | spec.initial_std
        bias_std = spec.beacon_bias_std_m or 1e-9
        self._filter.P = np.diag(np.square([first[n] for n in CORE] + [bias_std] * biases))
        walk = PROCESS_STD | spec.process_std
        drift = spec.process_std.get("range_bias_m", _BIAS_WALK)
        self._noise_per_s = np.diag(np.square([walk[n] for n in CORE] + [drift] * biases))
        self._stamp_ms: float | None = None

    def take(self, frame: SensorFrame) -> np.ndarray:
        """Fuse a frame; answers the mean."""
        for reading in frame.readings:
            if reading.channel in self._channels:
                self._predict(reading.stamp_ms)
                self._update(reading, self._channels[reading.channel])
        mean: np.ndarray = self._filter.x
        return mean

    def opinion(self, frame: SensorFrame) -> list[float]:
        """Fuse a frame; answers the mean as plain numbers."""
        values: list[float] = self.take(frame).tolist()
        return values

    def _predict(self, stamp_ms: float) -> None:
        # A reading that comes late is taken as if it were of now.
        dt_s = 0.0 if self._stamp_ms is None else max(0.0, stamp_ms - self._stamp_ms) / 1000
        self._stamp_ms = max(stamp_ms, self._stamp_ms or stamp_ms)
        if dt_s == 0.0:
            return
        mean = self._filter.x
        _, _, heading, speed, yaw_rate = mean[:5]
        midway = heading + yaw_rate * dt_s / 2
        along, across = dt_s * math.cos(midway), dt_s * math.sin(midway)
        jacobian = np.eye(self._size)
        jacobian[0, 2:5] = -speed * across, along, -speed * across * dt_s / 2
        jacobian[1, 2:5] = speed * along, across, speed * along * dt_s / 2
        jacobian[2, 4] = dt_s
        mean[:3] += speed * along, speed * across, yaw_rate * dt_s
        self._filter.P = jacobian @ self._filter.P @ jacobian.T + self._noise_per_s * dt_s

    def _update(self, reading: Reading, channel: FusedChannel) -> None:
        values, mask = reading.values, channel.mask or [True] * len(reading.values)
        match channel.kind:
            case "imu":
                parts = [(2, _YAW_RATE, values[2])] if mask[2] else []
                if len(values) == 10 and len(mask) == 10 and mask[6]:
                    parts.append((6, _HEADING, yaw_of(values[6:])))
                self._direct(parts, channel)
            case "odometry":
                self._direct([(0, _SPEED, values[0]), (1, _YAW_RATE, values[1])], channel)
            case "position":
                self._direct([(0, 0, values[0]), (1, 1, values[1])], channel)
            case "range":
                self._range(int(values[0]), values[1], _std(channel, -1))

    def _direct(self, parts: Iterable[tuple[int, int, float]], channel: FusedChannel) -> None:
        for at, component, value in parts:
            row = np.zeros((1, self._size))
            row[0, component] = 1.0
            noise = np.array([[_std(channel, at) ** 2]])
            angle = component == _HEADING
            self._apply(np.array([value]), row, lambda x, row=row: row @ x, noise, angle)

    def _range(self, number: int, distance_m: float, std_m: float) -> None:
        place, bias = self._beacons[number][:2], self._bias_at[number]
        apart = self._filter.x[:2] - place
        row = np.zeros((1, self._size))
        row[0, :2] = apart / max(math.hypot(*apart), 1e-6)
        row[0, bias] = 1.0

        def expected(mean: np.ndarray) -> np.ndarray:
            return np.array([math.hypot(*(mean[:2] - place)) + mean[bias]])

        self._apply(np.array([distance_m]), row, expected, np.array([[std_m**2]]))

    def _apply(
        self, values: np.ndarray, row: np.ndarray, expected: Any, noise: Any, angle: bool = False
    ) -> None:
        def residual(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.array([wrapped(float(a[0] - b[0]))]) if angle else a - b

        self._filter.update(values, lambda _: row, expected, R=noise, residual=residual)


def _std(channel: FusedChannel, at: int) -> float:
    return channel.std[at] if len(channel.std) > 1 else (channel.std or [1.0])[0]
