"""Late, early, twice, too late, another boot: what reaches the filter, and in which order."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from fusion_world import PLANAR, frame, reading
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.cli.rover_frames import ROVER, rover_frames
from schemas.acting import FusedState, SensorFrame
from schemas.fusion import FusedChannel, FusionSpec
from streams.acting.fusion import fuse

SPATIAL = FusionSpec(
    filter="spatial",
    channels={
        "imu": FusedChannel(kind="imu", std=[0.01]),
        "range": FusedChannel(kind="range", std=[0.1]),
        "position": FusedChannel(kind="position", std=[0.2], gate=0.5, rejects_max=2),
    },
    beacons={"1": [5.0, 0.0, 1.0], "2": [0.0, 5.0, 2.0]},
    beacon_bias_std_m=0.3,
)


def content(state: FusedState) -> tuple[object, ...]:
    """All that must not depend on the order of arrival: to the last bit, signs of zeros too."""
    numbers = np.array([*state.mean, *state.covariance, state.stamp_ms]).tobytes()
    channels = {
        name: health.model_dump(exclude={"late"}) for name, health in state.channels.items()
    }
    return numbers, state.frame_seq, state.held, channels


def spatial_frames(count: int, seed: int) -> list[SensorFrame]:
    """Random readings at random times: the filter's sense is not asked for, only its order."""
    random = np.random.default_rng(seed)
    frames, seqs = [], {"imu": 0, "range": 0, "position": 0}
    for k in range(count):
        readings = []
        for channel in random.permutation(sorted(seqs))[: random.integers(0, 4)].tolist():
            stamp_ms = 1000.0 + 10 * k - float(random.integers(0, 20))
            values = {
                "imu": [*random.normal(size=5), 9.8],
                "range": [float(random.integers(1, 3)), 5 + random.normal()],
                "position": random.normal(size=3).tolist(),
            }[channel]
            readings.append(reading(channel, seqs[channel], stamp_ms, *map(float, values)))
            seqs[channel] += 1
        frames.append(frame(k, 1000.0 + 10 * k, readings))
    return frames


def last(frames: Sequence[SensorFrame], spec: FusionSpec) -> FusedState:
    return list(fuse(frames, spec))[-1]


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.permutations(range(30)), st.integers(0, 5))
def test_any_order_inside_the_window_ends_in_the_same_bits(order: list[int], seed: int) -> None:
    """30 frames of a rover with gates and bias states, in all orders, at 200 Hz."""
    frames = list(rover_frames(30, seed=seed))
    in_order = last(frames, ROVER)
    assert in_order.channels["range"].applied == 8
    assert content(last([frames[k] for k in order], ROVER)) == content(in_order)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.permutations(range(25)), st.integers(0, 5))
def test_the_same_of_the_spatial_filter_with_gates_that_give_in(
    order: list[int], seed: int
) -> None:
    frames = spatial_frames(25, seed)
    assert content(last([frames[k] for k in order], SPATIAL)) == content(last(frames, SPATIAL))


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0, 190), min_size=120, max_size=120), st.data())
def test_the_same_when_frames_come_late_and_the_window_moves_on(
    delays_ms: list[float], data: st.DataObject
) -> None:
    """0.6 s of frames, each delayed by less than the window of 0.2 s, some sent twice."""
    spec = ROVER.model_copy(update={"window_s": 0.2})
    frames = list(rover_frames(120, seed=9))
    late = sorted(frames, key=lambda f: f.stamp_ms + delays_ms[f.seq])
    twice = data.draw(st.lists(st.sampled_from(late), max_size=5))
    newest = max(late[-10:], key=lambda f: f.stamp_ms).stamp_ms
    again = [f for f in twice if newest - f.stamp_ms < 200]
    assert content(last([*late, *again], spec)) == content(last(frames, spec))


def test_what_came_late_is_counted_and_applied_in_its_place() -> None:
    frames = list(rover_frames(40))
    moved = [*frames[:20], *frames[21:], frames[20]]
    state = last(moved, ROVER)
    assert state.channels["position"].late == 1, "frame 20 has a position"
    assert state.channels["imu"].late == 1
    assert content(state) == content(last(frames, ROVER))


def test_what_is_older_than_the_window_is_reported_and_changes_nothing() -> None:
    frames = list(rover_frames(300))
    held_back = frames[:20] + frames[21:]
    before, after = list(fuse([*held_back, frames[20]], ROVER))[-2:]
    assert after.channels["position"].too_old == after.channels["imu"].too_old == 1
    assert (after.mean, after.covariance) == (before.mean, before.covariance)
    assert {n: h.applied for n, h in after.channels.items()} == {
        n: h.applied for n, h in before.channels.items()
    }


def test_at_the_edge_of_the_window_is_inside() -> None:
    frames = [frame(0, 1000.0), frame(1, 2000.0, [reading("heading", 0, 1000.0, 0.1)])]
    assert last(frames, PLANAR).channels["heading"].applied == 1
    frames = [frame(0, 1000.0), frame(1, 2000.0, [reading("heading", 0, 999.9, 0.1)])]
    assert last(frames, PLANAR).channels["heading"].too_old == 1


def test_a_frame_that_comes_twice_makes_no_second_state() -> None:
    frames = list(rover_frames(10))
    assert list(fuse([*frames, *frames[3:8]], ROVER)) == list(fuse(frames, ROVER))


def test_a_reading_that_comes_twice_is_applied_once() -> None:
    one = reading("heading", 0, 990.0, 0.5)
    once = last([frame(0, 1000.0, [one]), frame(1, 1010.0)], PLANAR)
    twice = last([frame(0, 1000.0, [one, one]), frame(1, 1010.0, [one])], PLANAR)
    assert content(twice) == content(once)
    assert twice.channels["heading"].applied == 1


def test_a_new_boot_begins_anew_and_the_old_one_is_over() -> None:
    frames = list(rover_frames(20))
    rebooted = [f.model_copy(update={"boot_id": "2"}) for f in frames]
    states = list(fuse([*frames, *rebooted[:5], frames[10], *rebooted[5:]], ROVER))
    assert len(states) == 40, "the old boot's late frame makes no state"
    assert content(states[-1]) == content(states[19])
    assert [s.boot_id for s in states] == ["1"] * 20 + ["2"] * 20


def test_the_state_is_for_the_time_of_its_frame() -> None:
    """It drives on at the speed that it last knew, without a reading."""
    readings = [reading("odometry", k, 1000.0 + 10 * k, 2.0, 0.0) for k in range(20)]
    state = last([frame(0, 1190.0, readings), frame(1, 1690.0)], PLANAR)
    assert state.stamp_ms == 1690.0
    assert state.mean[0] == pytest.approx(2.0 * 0.69, abs=0.05)
    assert state.mean[3] == pytest.approx(2.0, abs=0.01)
    before = last([frame(0, 1190.0, readings)], PLANAR)
    assert state.covariance[0] > before.covariance[0], "it is less sure"


def test_a_silent_channel_is_stale_and_the_others_go_on() -> None:
    slow = {
        **PLANAR.channels,
        "position": PLANAR.channels["position"].model_copy(update={"timeout_s": 2.0}),
    }
    spec = PLANAR.model_copy(update={"channels": slow})
    first = [reading("odometry", 0, 1000.0, 1.0, 0.0), reading("position", 0, 1000.0, 0.0, 0.0)]
    frames = [
        frame(0, 1000.0, [*first, reading("scan", 0, 1000.0, 3.0)]),
        frame(1, 1099.0, [reading("heading", 0, 1099.0, 0.0)]),
        frame(2, 1101.0),
    ]
    stale = [{n for n, h in s.channels.items() if h.stale} for s in fuse(frames, spec)]
    assert stale == [{"heading"}, set(), {"odometry", "scan"}]


def test_what_is_held_is_the_newest_and_the_rest_is_ignored() -> None:
    frames = [
        frame(0, 1000.0, [reading("scan", 1, 990.0, 1.0, 2.0), reading("truth", 0, 990.0, 9.0)]),
        frame(1, 1010.0, [reading("scan", 0, 980.0, 3.0, 4.0)]),
    ]
    state = last(frames, PLANAR)
    assert state.held == {"scan": [1.0, 2.0]}
    assert state.channels["scan"].applied == 1
    assert set(state.channels) == set(PLANAR.channels)


@pytest.mark.parametrize(
    ("channel", "stamp_ms", "values"),
    [
        ("heading", 1000.0, [0.1, 0.2]),
        ("heading", 1011.0, [0.1]),
        ("heading", 1000.0, [1e10]),
        ("range", 1000.0, [7.0, 1.0]),
        ("range", 1000.0, [1.5, 1.0]),
    ],
)
def test_what_makes_no_sense_is_rejected(
    channel: str, stamp_ms: float, values: list[float]
) -> None:
    ranges = FusedChannel(kind="range", std=[0.1])
    spec = PLANAR.model_copy(
        update={"channels": {**PLANAR.channels, "range": ranges}, "beacons": {"1": [5.0, 0.0]}}
    )
    odd = last([frame(0, 1000.0, [reading(channel, 0, stamp_ms, *values)])], spec)
    none = last([frame(0, 1000.0)], spec)
    assert odd.channels[channel].rejected == 1
    assert (odd.mean, odd.covariance) == (none.mean, none.covariance)


def test_states_come_at_the_rate_asked_for() -> None:
    spec = ROVER.model_copy(update={"rate_hz": 50.0})
    states = list(fuse(rover_frames(200), spec))
    assert len(states) == 50
    assert np.diff([s.stamp_ms for s in states]) == pytest.approx(20.0)
    uneven = [
        f.model_copy(update={"stamp_ms": f.stamp_ms + math.sin(f.seq)}) for f in rover_frames(200)
    ]
    assert 48 <= len(list(fuse(uneven, spec))) <= 50
