"""The rover of `rover_frames` by filterpy's extended Kalman filter: a peer to measure beside."""

import importlib
import math
from typing import Any

import numpy as np

from infra.cli.rover_frames import (
    BEACONS,
    IMU_STD_RADPS,
    ODOMETRY_STD,
    POSITION_STD_M,
    RANGE_STD_M,
    ROVER,
)
from schemas.acting import Reading, SensorFrame

_BIAS_AT = 5


class FilterpyRover:
    """Predicts and updates reading by reading in the order of arrival: no gate, no history."""

    def __init__(self) -> None:
        kalman: Any = importlib.import_module("filterpy.kalman")
        size = _BIAS_AT + len(BEACONS)
        self._filter = kalman.ExtendedKalmanFilter(dim_x=size, dim_z=1)
        names = ("x_m", "y_m", "heading_rad", "v_mps", "yaw_rate_radps")
        mean = [ROVER.initial_mean.get(name, 0.0) for name in names]
        self._filter.x = np.array(mean + [0.0] * len(BEACONS))
        std = [ROVER.initial_std[name] for name in names]
        bias_std = [ROVER.beacon_bias_std_m or 0.0] * len(BEACONS)
        self._filter.P = np.diag(np.square(std + bias_std))
        walk = [ROVER.process_std[name] for name in names]
        drift = [ROVER.process_std["range_bias_m"]] * len(BEACONS)
        self._noise_per_s = np.diag(np.square(walk + drift))
        self._stamp_ms: float | None = None
        self._rates = np.zeros((1, size)), np.zeros((2, size)), np.zeros((2, size))
        imu, odometry, position = self._rates
        imu[0, 4] = odometry[0, 3] = odometry[1, 4] = position[0, 0] = position[1, 1] = 1.0

    def take(self, frame: SensorFrame) -> np.ndarray:
        """Fuse a frame; answers the mean."""
        for reading in frame.readings:
            if reading.channel in ROVER.channels:
                self._predict(reading.stamp_ms)
                self._update(reading)
        mean: np.ndarray = self._filter.x
        return mean

    def _predict(self, stamp_ms: float) -> None:
        dt_s = 0.0 if self._stamp_ms is None else (stamp_ms - self._stamp_ms) / 1000
        self._stamp_ms = stamp_ms
        if dt_s == 0.0:
            return
        mean = self._filter.x
        _, _, heading, speed, yaw_rate = mean[:5]
        midway = heading + yaw_rate * dt_s / 2
        along, across = dt_s * math.cos(midway), dt_s * math.sin(midway)
        jacobian = np.eye(len(mean))
        jacobian[0, 2:5] = -speed * across, along, -speed * across * dt_s / 2
        jacobian[1, 2:5] = speed * along, across, speed * along * dt_s / 2
        jacobian[2, 4] = dt_s
        mean[:3] += speed * along, speed * across, yaw_rate * dt_s
        half = self._noise_per_s * (dt_s / 2)
        self._filter.P = jacobian @ (self._filter.P + half) @ jacobian.T + half

    def _update(self, reading: Reading) -> None:
        imu, odometry, position = self._rates
        values = np.array(reading.values)
        match reading.channel:
            case "imu":
                self._linear(values[2:3], imu, np.array([[IMU_STD_RADPS**2]]))
            case "odometry":
                self._linear(values, odometry, np.diag(np.square(ODOMETRY_STD)))
            case "position":
                self._linear(values, position, np.eye(2) * POSITION_STD_M**2)
            case _:
                self._range(int(values[0]), values[1:])

    def _linear(self, values: np.ndarray, jacobian: np.ndarray, noise: np.ndarray) -> None:
        self._filter.update(values, lambda _: jacobian, lambda x: jacobian @ x, R=noise)

    def _range(self, number: int, values: np.ndarray) -> None:
        place, bias = BEACONS[number], _BIAS_AT + number

        def jacobian(mean: np.ndarray) -> np.ndarray:
            row = np.zeros((1, len(mean)))
            apart = mean[:2] - place
            row[0, :2] = apart / math.hypot(*apart)
            row[0, bias] = 1.0
            return row

        def expected(mean: np.ndarray) -> np.ndarray:
            return np.array([math.hypot(*(mean[:2] - place)) + mean[bias]])

        self._filter.update(values, jacobian, expected, R=np.array([[RANGE_STD_M**2]]))
