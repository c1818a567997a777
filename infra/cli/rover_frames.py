"""Frames of a rover that drives loops on a floor, with seeded noise: what fusion is measured on."""

import math
from collections.abc import Iterator

import numpy as np

from schemas.acting import Reading, SensorFrame
from schemas.fusion import FusedChannel, FusionSpec

BEACONS = {0: (-6.0, -6.0), 1: (6.0, -6.0), 2: (6.0, 6.0), 3: (-6.0, 6.0)}
RANGE_BIAS_M = {0: 0.4, 1: -0.3, 2: 0.8, 3: 0.1}
IMU_STD_RADPS, RANGE_STD_M, POSITION_STD_M = 0.02, 0.1, 0.15
ODOMETRY_STD = (0.05, 0.03)
"""Metres a second, radians a second."""
MOTION_STD = {"v_mps": 0.4, "yaw_rate_radps": 0.5}
"""Of the random walks that speed and yaw rate take, per square root of a second."""

ROVER = FusionSpec(
    channels={
        "imu": FusedChannel(kind="imu", std=[IMU_STD_RADPS]),
        "odometry": FusedChannel(kind="odometry", std=[*ODOMETRY_STD]),
        "range": FusedChannel(kind="range", std=[RANGE_STD_M], gate=0.9999),
        "position": FusedChannel(kind="position", std=[POSITION_STD_M], gate=0.9999),
    },
    process_std={"x_m": 1e-3, "y_m": 1e-3, "heading_rad": 1e-3, "range_bias_m": 1e-4} | MOTION_STD,
    initial_mean={"v_mps": 1.0, "yaw_rate_radps": 0.3},
    initial_std={"x_m": 0.1, "y_m": 0.1, "heading_rad": 0.05, "v_mps": 0.1, "yaw_rate_radps": 0.1},
    beacons={str(number): [*place] for number, place in BEACONS.items()},
    beacon_bias_std_m=0.5,
    sensor_timeout_s=0.25,
)


def rover_frames(count: int, rate_hz: float = 200.0, seed: int = 0) -> Iterator[SensorFrame]:
    """So many frames: IMU and odometry in each, a range in every 4th, a position in every 20th.

    The motion is the filter's own model, so that what it says of its certainty can be tested.
    """
    random = np.random.default_rng(seed)
    first = ROVER.initial_mean | dict.fromkeys(("x_m", "y_m", "heading_rad"), 0.0)
    state = np.array([random.normal(first[name], std) for name, std in ROVER.initial_std.items()])
    dt_s = 1 / rate_hz
    walk = np.array([ROVER.process_std[name] for name in ROVER.initial_std]) * math.sqrt(dt_s)
    seqs = dict.fromkeys((*ROVER.channels, "truth"), 0)
    for k in range(count):
        stamp_ms = 1000.0 + 1000 * k / rate_hz
        readings = []
        for channel, values in _measured(state, k, random):
            reading = Reading(channel=channel, seq=seqs[channel], stamp_ms=stamp_ms, values=values)
            readings.append(reading)
            seqs[channel] += 1
        yield SensorFrame(
            robot_id="rover",
            boot_id="1",
            seq=k,
            stamp_ms=stamp_ms,
            wall_ms=1.7e12 + stamp_ms,
            readings=readings,
        )
        state = _driven(state, dt_s) + walk * random.normal(size=5)


def _driven(state: np.ndarray, dt_s: float) -> np.ndarray:
    x, y, heading, speed, yaw_rate = state
    midway = heading + yaw_rate * dt_s / 2
    by = [speed * math.cos(midway), speed * math.sin(midway), yaw_rate, 0.0, 0.0]
    return np.array([x, y, heading, speed, yaw_rate]) + np.array(by) * dt_s


def _measured(
    state: np.ndarray, k: int, random: np.random.Generator
) -> Iterator[tuple[str, list[float]]]:
    x, y, _, speed, yaw_rate = state.tolist()
    noise = random.normal(size=7).tolist()
    yield "truth", [*state.tolist()]
    yield "imu", [0.0, 0.0, yaw_rate + IMU_STD_RADPS * noise[0], 0.0, 0.0, 9.81]
    along, around = ODOMETRY_STD
    yield "odometry", [speed + along * noise[1], yaw_rate + around * noise[2]]
    if k % 4 == 0:
        number = k // 4 % 4
        place = BEACONS[number]
        distance_m = math.hypot(x - place[0], y - place[1]) + RANGE_BIAS_M[number]
        yield "range", [float(number), distance_m + RANGE_STD_M * noise[3]]
    if k % 20 == 0:
        yield "position", [x + POSITION_STD_M * noise[4], y + POSITION_STD_M * noise[5]]
