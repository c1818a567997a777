"""Fusion of recordings with truth, which come with the `gtsam` package.

`pytest -s tests/unit/test_fusion_real_data.py` prints the figures in the docstrings.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import gtsam
import numpy as np
import pytest
from fusion_world import frame, reading
from scipy.io import loadmat

from schemas.acting import FusedState, Reading, SensorFrame
from schemas.fusion import FusedChannel, FusionSpec
from streams.acting.fusion import fuse
from streams.acting.fusion.score import Track, score, track_of_channel, track_of_states

DATA = Path(gtsam.__file__).parent / "Data"


def framed(readings: list[Reading], stamps_ms: np.ndarray) -> list[SensorFrame]:
    """Frames closed at these times, with what was measured until then."""
    readings = sorted(readings, key=lambda r: r.stamp_ms)
    ends = np.searchsorted([r.stamp_ms for r in readings], stamps_ms, side="right")
    begins = [0, *ends[:-1]]
    return [
        frame(k, float(stamp), readings[begin:end])
        for k, (stamp, begin, end) in enumerate(zip(stamps_ms, begins, ends, strict=True))
    ]


@functools.cache
def plaza() -> list[SensorFrame]:
    """Plaza1: odometry and ultra-wideband ranges of a lawn mower, with its truth by GPS.

    Djugash, Hamner & Roth, Navigating with ranging radios: five data sets with ground truth,
    Journal of Field Robotics 26(9), 2009. An increment of odometry is the mean rate between two
    rows, so it is stamped in their middle.
    """
    recorded = loadmat(DATA / "Plaza1_.mat")
    truth, steps, ranges = recorded["GT"], recorded["DR"], recorded["TD"]
    stamps_ms = truth[:, 0] * 1000
    rates = steps[:, 1:] / np.diff(truth[:, 0])[:, None]
    middles_ms = (stamps_ms[:-1] + stamps_ms[1:]) / 2
    readings = [reading("odometry", k, middles_ms[k], *map(float, r)) for k, r in enumerate(rates)]
    readings += [reading("truth", k, stamps_ms[k], *map(float, t[1:])) for k, t in enumerate(truth)]
    readings += [
        reading("range", k, float(row[0]) * 1000, float(row[2]), float(row[3]))
        for k, row in enumerate(ranges)
    ]
    return framed(readings, stamps_ms[::5])


def plaza_spec(**changes: Any) -> FusionSpec:
    beacons = loadmat(DATA / "Plaza1_.mat")["TL"]
    x, y, heading = next(r.values for r in plaza()[0].readings if r.channel == "truth")
    spec = FusionSpec(
        window_s=2.0,  # a frame is one second long here
        channels={
            "odometry": FusedChannel(kind="odometry", std=[0.05, 0.01]),
            "range": FusedChannel(kind="range", std=[1.0]),
        },
        process_std={"x_m": 0.01, "y_m": 0.01, "heading_rad": 0.002}
        | {"v_mps": 0.3, "yaw_rate_radps": 0.1},
        initial_mean={"x_m": x, "y_m": y, "heading_rad": heading},
        initial_std={"x_m": 0.1, "y_m": 0.1, "heading_rad": 0.02},
        beacons={str(int(number)): [x, y] for number, x, y in beacons},
        beacon_bias_std_m=5.0,
    )
    return spec.model_copy(update=changes)


def plaza_rmse_m(spec: FusionSpec) -> float:
    frames = plaza()
    return score(track_of_states(fuse(frames, spec)), track_of_channel(frames)).rmse_m


@pytest.mark.slow
def test_ranges_with_biases_beat_odometry() -> None:
    """Plaza1, 9,657 steps and 3,529 ranges in 32 minutes, RMSE of the position in metres:

    1.19 with a bias a beacon, 0.87 with biases that drift, 3.07 without biases, 1.96 by odometry
    alone. The noise is in round numbers; others within a factor of two make 1.14 to 1.28 of 1.19.
    """
    spec = plaza_spec()
    odometry = {"odometry": spec.channels["odometry"]}
    drift = {**spec.process_std, "range_bias_m": 0.02}
    rmse_m = {
        "with a bias a beacon": plaza_rmse_m(spec),
        "with biases that drift 2 cm a root second": plaza_rmse_m(plaza_spec(process_std=drift)),
        "without biases": plaza_rmse_m(plaza_spec(beacon_bias_std_m=None)),
        "odometry alone": plaza_rmse_m(plaza_spec(channels=odometry)),
    }
    print("\nPlaza1, RMSE in metres:", {name: round(value, 3) for name, value in rmse_m.items()})
    assert rmse_m["with a bias a beacon"] <= 1.25, rmse_m
    assert rmse_m["with biases that drift 2 cm a root second"] <= 1.0, rmse_m
    assert rmse_m["odometry alone"] == pytest.approx(1.94, abs=0.05), rmse_m
    assert rmse_m["without biases"] > rmse_m["odometry alone"], "the trap that biases avoid"


class Drive(NamedTuple):
    """The KITTI recording: times in milliseconds since 10 s before the first fix."""

    readings: list[Reading]
    kept: Track
    left_out: Track


@functools.cache
def kitti() -> Drive:
    """An IMU at 100 Hz and GPS fixes at 1 Hz over 468 s; every second fix is left out.

    Geiger, Lenz, Stiller & Urtasun, Vision meets robotics: the KITTI dataset, IJRR 32(11), 2013.
    The first fix is 2 s before the IMU begins and is not used.
    """
    imu = np.loadtxt(DATA / "KittiEquivBiasedImu.txt", skiprows=1)
    gps = np.loadtxt(DATA / "KittiGps_converted.txt", skiprows=1, delimiter=",")[1:]
    begin_s = gps[0, 0] - 10.0
    stamps_ms = (gps[:, 0] - begin_s) * 1000
    imu = imu[imu[:, 0] >= gps[0, 0]]
    readings = [
        reading("imu", k, (row[0] - begin_s) * 1000, *row[5:8].tolist(), *row[2:5].tolist())
        for k, row in enumerate(imu)
    ]
    kept = Track(stamps_ms[::2], gps[::2, 1:])
    left_out = Track(stamps_ms[1::2], gps[1::2, 1:])
    fixes = zip(kept.stamps_ms, kept.places_m, strict=True)
    readings += [reading("gps", k, float(ms), *at.tolist()) for k, (ms, at) in enumerate(fixes)]
    return Drive(readings, kept, left_out)


def kitti_spec() -> FusionSpec:
    """It begins at the first fix, with the direction and speed from there to the second kept.

    The noise is ten times what the data's sheet says of the sensors (0.01 m/s² and 0.000175 rad/s
    per root hertz): with it the NIS of the kept fixes is 3.8, of three numbers.
    """
    kept = kitti().kept
    seconds = (kept.stamps_ms[1] - kept.stamps_ms[0]) / 1000
    vx, vy, _ = (kept.places_m[1] - kept.places_m[0]) / seconds
    x, y, z = kept.places_m[0]
    return FusionSpec(
        filter="spatial",
        gravity_mps2=9.8,
        window_s=3.0,  # a frame is two seconds long here
        channels={
            "imu": FusedChannel(kind="imu", std=[1.0]),
            "gps": FusedChannel(kind="position", std=[0.07], timeout_s=3.0),
        },
        process_std={
            "velocity_mps": 0.1,
            "orientation_rad": 0.00175,
            "gyro_bias_radps": 2.91e-5,
            "accel_bias_mps2": 0.00167,
        },
        initial_mean={"x_m": x, "y_m": y, "z_m": z, "vx_mps": vx, "vy_mps": vy}
        | {"yaw_rad": float(np.arctan2(vy, vx))},
        initial_std={
            "position_m": 0.1,
            "velocity_mps": 1.0,
            "orientation_rad": 0.05,
            "gyro_bias_radps": 0.01,
            "accel_bias_mps2": 0.1,
        },
    )


def rmse_m(track: Track, truth: Track) -> float:
    return score(track, truth).rmse_m


def at_constant_velocity(kept: Track, stamps_ms: np.ndarray) -> np.ndarray:
    """Where the last two kept fixes point: what is known at that time without an IMU."""
    after = np.searchsorted(kept.stamps_ms, stamps_ms)
    one, two = kept.places_m[after - 2], kept.places_m[after - 1]
    t_one, t_two = kept.stamps_ms[after - 2], kept.stamps_ms[after - 1]
    return two + (two - one) * ((stamps_ms - t_two) / (t_two - t_one))[:, None]


@pytest.mark.slow
def test_an_imu_carries_the_position_between_fixes() -> None:
    """KITTI, judged by the 234 fixes it never saw, each 1 s after the last one that it did.

    RMSE of the position, in three dimensions, in metres: 0.30 fused, 0.69 interpolated between the
    kept fixes (which knows the next one, as fusion does not), 2.00 at constant velocity.
    """
    drive, spec = kitti(), kitti_spec()
    frames = framed(drive.readings, drive.left_out.stamps_ms)
    states: list[FusedState] = list(fuse(frames, spec))
    predicted = track_of_states(states, dimensions=3)
    assert np.array_equal(predicted.stamps_ms, drive.left_out.stamps_ms), "no time to interpolate"
    stamps_ms = drive.left_out.stamps_ms[1:]
    ahead = Track(stamps_ms, at_constant_velocity(drive.kept, stamps_ms))
    figures = {
        "fused": rmse_m(predicted, drive.left_out),
        "interpolated between kept fixes": rmse_m(drive.kept, drive.left_out),
        "at constant velocity": rmse_m(ahead, drive.left_out),
        "nis of kept fixes": states[-1].channels["gps"].nis_mean or 0.0,
    }
    print("\nKITTI, RMSE in metres:", {name: round(value, 3) for name, value in figures.items()})
    assert figures["fused"] <= 0.35, figures
    assert figures["fused"] < 0.5 * figures["interpolated between kept fixes"], figures
    assert figures["fused"] < 0.2 * figures["at constant velocity"], figures
    assert 1.5 < figures["nis of kept fixes"] < 6.0, figures
