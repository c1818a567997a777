"""Fusion on the log: where its states come from, several robots, and a restart."""

import itertools
import math
import time

import numpy as np
import pytest
from fusion_world import records
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.cli.rover_frames import ROVER, rover_frames
from schemas.acting import FusedState
from schemas.fusion import FusedChannel
from schemas.records import Record
from schemas.topics import FUSED_STATES, SENSOR_FRAMES, decode
from streams.acting.fusion import SensorFusion, fuse

DEAD_RECKONING = ROVER.model_copy(
    update={
        "channels": {"odometry": FusedChannel(kind="odometry", std=[0.05, 0.03])},
        "window_s": 0.2,
    }
)
"""Without a fix, a place is only known from where one came from."""


def taken(fusion: SensorFusion, frames: list[Record]) -> list[FusedState]:
    return [state for record in frames for state in fusion.take(record)]


def apart(one: FusedState, other: FusedState) -> float:
    return float(np.abs(np.subtract(one.mean, other.mean)).max())


def test_it_answers_what_offline_fusion_does_with_where_it_comes_from() -> None:
    frames = list(rover_frames(50))
    states = taken(SensorFusion({"rover": ROVER}), records(frames, first=7))
    offline = list(fuse(frames, ROVER))
    assert [s.model_copy(update={"source": {}}) for s in states] == offline
    assert [s.source for s in states] == [{"sensor-frames-0": (7 + k, 8 + k)} for k in range(50)]


def test_sources_leave_no_gap_where_frames_make_no_state() -> None:
    spec = ROVER.model_copy(update={"rate_hz": 50.0})
    frames = list(rover_frames(40))
    mixed = records([*frames[:20], frames[3], *frames[20:]])
    ranges = [s.source["sensor-frames-0"] for s in taken(SensorFusion({"rover": spec}), mixed)]
    assert len(ranges) == 10
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(ranges))


def test_robots_do_not_mix() -> None:
    one = list(rover_frames(30, seed=1))
    other = [f.model_copy(update={"robot_id": "second"}) for f in rover_frames(30, seed=2)]
    unknown = [f.model_copy(update={"robot_id": "third"}) for f in one]
    woven = [f for three in zip(one, other, unknown, strict=True) for f in three]
    states = taken(SensorFusion({"rover": ROVER, "second": ROVER}), records(woven))
    for robot, frames in (("rover", one), ("second", other)):
        mine = [s.model_copy(update={"source": {}}) for s in states if s.robot_id == robot]
        assert mine == list(fuse(frames, ROVER))


def test_states_are_events_of_their_topic() -> None:
    for state in taken(SensorFusion({"rover": ROVER}), records(list(rover_frames(5)))):
        assert decode(FUSED_STATES.name, state.to_bytes()) == state


def test_it_reads_its_frames_and_its_own_states_of_the_past() -> None:
    fusion = SensorFusion({"rover": ROVER})
    assert list(fusion.robots) == ["rover"]
    assert [wanted.topic for wanted in fusion.inputs] == [SENSOR_FRAMES, FUSED_STATES]
    (state,) = fusion.take(records(list(rover_frames(1)))[0])
    assert list(fusion.take(records([state])[0])) == [], "its own states change nothing"


def restarted(crash: int, resume: int, keep_frames: int, keep_states: int) -> list[FusedState]:
    """Crashed after `crash` frames, back after `resume`, with so much of the past in the log."""
    frames = records(list(rover_frames(320)))
    states = taken(SensorFusion({"rover": DEAD_RECKONING}), frames[:crash])
    fusion = SensorFusion({"rover": DEAD_RECKONING})
    past = [*records(states)[-keep_states:], *frames[:resume][-keep_frames:]]
    for record in past:
        fusion.replay(record)
    return taken(fusion, frames[resume:])


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(60, 200), st.integers(0, 60))
def test_a_restart_goes_on_where_it_left(crash: int, away: int) -> None:
    """Where all is in order it goes on from the very same numbers, frames it missed included."""
    whole = taken(SensorFusion({"rover": DEAD_RECKONING}), records(list(rover_frames(320))))
    resume = crash + away
    again = restarted(crash, resume, keep_frames=resume, keep_states=crash)
    assert len(again) == 320 - resume
    assert again[0].source == {"sensor-frames-0": (crash, resume + 1)}
    assert apart(again[0], whole[resume]) < 1e-9
    assert apart(again[-1], whole[-1]) < 1e-9
    assert again[-1].channels["odometry"].applied == whole[-1].channels["odometry"].applied


def test_a_restart_with_a_short_past_goes_on_from_the_oldest_state_there_is() -> None:
    whole = taken(SensorFusion({"rover": DEAD_RECKONING}), records(list(rover_frames(320))))
    again = restarted(300, 310, keep_frames=20, keep_states=10)
    assert apart(again[-1], whole[-1]) < 1e-9


def test_a_restart_without_states_begins_with_the_first_frame_it_finds() -> None:
    frames = records(list(rover_frames(100)))
    fusion = SensorFusion({"rover": ROVER})
    for record in frames[:60]:
        fusion.replay(record)
    whole = taken(SensorFusion({"rover": ROVER}), frames)
    assert taken(fusion, frames[60:])[-1].mean == whole[-1].mean


def test_after_a_restart_in_another_boot_it_begins_anew() -> None:
    frames = list(rover_frames(100))
    states = records(taken(SensorFusion({"rover": ROVER}), records(frames)))
    rebooted = records([f.model_copy(update={"boot_id": "2"}) for f in frames], first=100)
    fusion = SensorFusion({"rover": ROVER})
    for record in [*records(frames), *states, *rebooted[:10]]:
        fusion.replay(record)
    fresh = taken(SensorFusion({"rover": ROVER}), rebooted)
    assert taken(fusion, rebooted[10:])[-1].mean == fresh[-1].mean
    assert taken(fusion, records(frames)) == [], "the old boot is over"


def test_after_a_change_of_filter_old_states_do_not_count() -> None:
    frames = records(list(rover_frames(100)))
    fusion = SensorFusion({"rover": ROVER})
    for record in [*records(taken(SensorFusion({"rover": DEAD_RECKONING}), frames)), *frames]:
        fusion.replay(
            record
            if not isinstance(record.event, FusedState)
            else Record(
                record.partition,
                record.offset,
                record.key,
                None,
                event=record.event.model_copy(update={"names": ["x_m"], "mean": [1.0]}),
            )
        )
    assert taken(fusion, frames[:1]) == []


def test_a_whole_turn_takes_well_under_half_a_millisecond_of_work() -> None:
    """The fastest of many, for other work on the machine only ever adds."""
    fusion, frames = SensorFusion({"rover": ROVER}), records(list(rover_frames(400)))
    took = []
    for record in frames:
        began = time.perf_counter()
        list(fusion.take(record))
        took.append(time.perf_counter() - began)
    assert min(took[100:]) < 0.5e-3
    assert math.isfinite(sum(took))


def test_two_of_the_same_make_the_same() -> None:
    frames = records(list(rover_frames(100)))
    one, other = (taken(SensorFusion({"rover": ROVER}), frames) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("rate_hz", [0.0, 25.0])
def test_tick_makes_nothing(rate_hz: float) -> None:
    fusion = SensorFusion({"rover": ROVER.model_copy(update={"rate_hz": rate_hz})})
    assert fusion.tick_ms is None
    assert list(fusion.tick(1.0)) == []
