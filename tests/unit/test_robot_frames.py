"""Readings packed into frames, recordings, and frames of made-up rovers."""

import math
from itertools import pairwise

import pytest

from producers.robots.frames import BYTES_MAX, FramePacker
from producers.robots.load import CirclingRover
from producers.robots.recording import Recording
from schemas.acting import Reading, SensorFrame
from schemas.topics import MAX_EVENT_BYTES
from schemas.worlds import RoverPlacement, World

WORLD = World(
    name="w",
    rovers={
        "r": RoverPlacement(start=(3, 3, 0), waypoints=[(6, 3), (6, 6), (3, 6), (3, 3)]),
        "s": RoverPlacement(start=(9, 9, 0)),
    },
    beacons={"1": (0, 0)},
)


def reading(seq: int, size: int = 1) -> Reading:
    values = [-math.pi * 1e-5] * size
    return Reading(channel="scan", seq=seq, stamp_ms=123456789.123, values=values)


def test_a_frame_is_closed_each_period_with_all_that_came() -> None:
    packer, frames = FramePacker("r", "b", 50), []
    for n, now_ms in enumerate(range(1000, 1101, 5)):
        packer.take([reading(n)])
        frame = packer.frame(float(now_ms), 5e12 + now_ms)
        if frame is not None:
            frames.append(frame)
    assert [f.stamp_ms for f in frames] == [1005.0, 1025.0, 1045.0, 1065.0, 1085.0]
    assert [f.seq for f in frames] == list(range(5))
    assert [r.seq for f in frames for r in f.readings] == list(range(18))
    assert {(f.robot_id, f.boot_id, f.wall_ms - f.stamp_ms) for f in frames} == {("r", "b", 5e12)}


def test_a_loop_that_was_late_closes_one_frame_for_the_time() -> None:
    packer = FramePacker("r", "b", 50)
    assert packer.frame(1000.0, 0.0) is None
    assert packer.frame(1300.0, 0.0) is not None
    assert packer.frame(1301.0, 0.0) is None


def test_a_frame_without_readings_is_a_sign_of_life() -> None:
    packer = FramePacker("r", "b", 50)
    packer.frame(1000.0, 0.0)
    frame = packer.frame(1025.0, 0.0)
    assert frame is not None and frame.readings == []


@pytest.mark.parametrize("size", [1, 36, 1000])
def test_what_finds_no_room_is_counted_and_the_event_stays_below_its_limit(size: int) -> None:
    packer = FramePacker("r", "b", 1)
    count = 2 * BYTES_MAX // (24 * size)
    packer.take(reading(n, size) for n in range(count))
    frame = packer.close(1.0, 1.0)
    assert frame.dropped == count - len(frame.readings) > 0
    assert BYTES_MAX / 4 < len(frame.to_bytes()) < MAX_EVENT_BYTES
    packer.take([reading(count, size)])
    again = packer.close(2.0, 2.0)
    assert (len(again.readings), again.dropped) == (1, frame.dropped)


def recorded(
    seconds: float, seed: int | None = None
) -> tuple[list[SensorFrame], list[dict[str, float]]]:
    frames, truths = [], []
    for some, true in Recording(WORLD, seconds, seed, 50.0):
        frames += some
        truths += true
    return frames, truths


def test_a_recording_is_the_same_each_time_and_another_with_another_seed() -> None:
    first, again, other = recorded(2.0), recorded(2.0), recorded(2.0, 3)
    assert [f.to_bytes() for f in first[0]] == [f.to_bytes() for f in again[0]]
    assert first[1] == again[1]
    assert [f.to_bytes() for f in first[0]] != [f.to_bytes() for f in other[0]]


def test_a_recording_drives_along_the_waypoints_and_tells_where_it_truly_was() -> None:
    frames, truths = recorded(12.0)
    way = [(t["x_m"], t["y_m"]) for t in truths if t["robot_id"] == "r"]
    for corner in [(6, 3), (6, 6)]:
        assert min(math.dist(at, corner) for at in way) < 0.35
    still = [(t["x_m"], t["y_m"]) for t in truths if t["robot_id"] == "s"]
    assert all(math.dist(at, (9, 9)) < 0.05 for at in still)
    for robot_id in ("r", "s"):
        seqs = [f.seq for f in frames if f.robot_id == robot_id]
        assert seqs == list(range(len(seqs))) and len(seqs) == pytest.approx(600, abs=2)
    told = [r.values for f in frames for r in f.readings if r.channel == "truth"]
    assert len(told) == len(truths) and all(v[:2] for v in told)


def test_made_up_rovers_measure_at_their_rate_what_fits_together() -> None:
    rover = CirclingRover("l", "b", rate_hz=200, frame_hz=50, seed=1)
    frames = [f for n in range(501) for f in rover.frames(1e6 + n * 20.0 + 3, 0.0)]
    assert len(frames) == 500
    imu = [r for f in frames for r in f.readings if r.channel == "imu"]
    truth = [r for f in frames for r in f.readings if r.channel == "truth"]
    assert len(imu) == pytest.approx(2000, abs=2) and len(truth) == pytest.approx(500, abs=2)
    assert [r.seq for r in imu] == list(range(len(imu)))
    for before, after in pairwise(truth):
        dt_s = (after.stamp_ms - before.stamp_ms) / 1000
        moved = math.dist(before.values[:2], after.values[:2])
        assert moved / dt_s == pytest.approx(before.values[3], rel=1e-3)
    yaw_rates = [r.values[2] for r in imu]
    assert sum(yaw_rates) / len(yaw_rates) == pytest.approx(truth[0].values[4], abs=0.02)


def test_each_made_up_rover_is_another() -> None:
    def first(seed: int) -> list[Reading]:
        rover = CirclingRover(f"l{seed}", "b", 200, 50, seed)
        return [r for n in range(5) for f in rover.frames(n * 20.0, 0.0) for r in f.readings]

    assert first(1) != first(2)
    assert first(1) == first(1)
