"""What a report says of made records, and that it does not depend on how topics are interleaved."""

import math
import random
from typing import Any

import pytest
from acting_books import (
    REACH_1,
    REACH_2,
    TRACKER,
    WALL_MS,
    feedback,
    frame,
    release,
    safety,
    valid,
)
from hypothesis import given
from hypothesis import strategies as st

from consumers.acting_report import ActingReport, RobotReport, acting_report
from consumers.tracks import Errors, Track, dead_reckoned
from schemas.acting import (
    Command,
    CommandOutcome,
    Feedback,
    FusedState,
    LoopHealth,
    PolicyRef,
    Reading,
    SensorFrame,
)
from schemas.base import Event
from schemas.missions import RobotMissionResult
from schemas.records import Partition, Record


def records(*events: Event) -> list[Record]:
    return [
        Record(Partition(event.topic, 0), offset, b"rover", None, event=event)
        for offset, event in enumerate(events)
    ]


def told(*events: Event, **more: Any) -> RobotReport:
    return acting_report(records(*events), **more)["rover"]


def sensed(seq: int, boot: str = "b1", **channels: list[float]) -> SensorFrame:
    """A frame each 20 ms with one reading of each of these channels."""
    at_ms = 20.0 * seq
    readings = [
        Reading(channel=name, seq=seq, stamp_ms=at_ms, values=values)
        for name, values in channels.items()
    ]
    return frame(seq, boot, stamp_ms=at_ms, readings=readings)


def fused(seq: int, x_m: float, y_m: float, boot: str = "b1") -> FusedState:
    return FusedState(
        robot_id="rover",
        boot_id=boot,
        stamp_ms=20.0 * seq,
        wall_ms=WALL_MS,
        frame_seq=seq,
        filter="planar",
        names=["x_m", "y_m", "heading_rad"],
        mean=[x_m, y_m, 0.0],
        covariance=[1.0],
        source={"sensor-frames-0": (seq, seq + 1)},
    )


def command(seq: int, at_ms: float, mission: str = "m1", boot: str = "b1") -> Command:
    return Command(
        robot_id="rover",
        boot_id=boot,
        controller_epoch=0,
        seq=seq,
        stamp_ms=at_ms,
        deadline_ms=at_ms + 150,
        frame_seq=seq,
        set_point=[0.0, 0.0],
        policy=TRACKER,
        mission_id=mission,
        source={"fused-states-0": (seq, seq + 1)},
    )


def became(
    seq: int, at_ms: float, what: Any = "applied", policy: PolicyRef = TRACKER
) -> CommandOutcome:
    return CommandOutcome(
        controller_epoch=0,
        seq=seq,
        outcome=what,
        at=f"commands[0]@{seq}",
        at_ms=at_ms,
        deadline_ms=at_ms + 100,
        policy=policy,
    )


def driven(count: int, off_m: float = 0.1, odometry: float = 1.0) -> list[Event]:
    """1 m/s along x for so many frames; fused beside it, odometry a share of it."""
    events: list[Event] = []
    for seq in range(count):
        x_m = 0.02 * seq
        truth = [x_m, 0.0, 0.0, 1.0, 0.0]
        events.append(sensed(seq, truth=truth, odometry=[odometry, 0.0], contact=[0.0]))
        events.append(fused(seq, x_m, off_m))
    return events


# -- ways and errors ----------------------------------------------------------------------------


def test_errors_are_told_beside_those_of_odometry_alone() -> None:
    report = told(*driven(101, odometry=1.1))
    assert report.distance_m == pytest.approx(2.0)
    assert report.seconds == pytest.approx(2.0)
    assert report.rmse_fused_m == pytest.approx(0.1)
    # A tenth too fast: off by 0.1 t, whose root mean square over 2 s is 0.2 / sqrt(3).
    assert report.rmse_odometry_m == pytest.approx(0.2 / math.sqrt(3), rel=0.01)


def test_without_truth_there_are_no_errors() -> None:
    report = told(*(fused(seq, 0.1 * seq, 0.0) for seq in range(11)))
    assert report.distance_m == pytest.approx(1.0)
    assert report.rmse_fused_m is None and report.rmse_odometry_m is None


def test_only_the_time_of_the_mission_counts() -> None:
    events = driven(101)
    for state in (e for e in events if isinstance(e, FusedState) and e.frame_seq < 50):
        events[events.index(state)] = fused(state.frame_seq, 9.0, 9.0)
    orders = [command(seq, 20.0 * seq, "m1" if 50 <= seq <= 80 else "") for seq in range(101)]
    gone = [feedback(0, *(became(seq, 20.0 * seq + 1) for seq in range(101) if seq != 60))]
    report = told(*events, *orders, *gone, mission="m1")
    assert report.rmse_fused_m == pytest.approx(0.1)
    assert report.distance_m == pytest.approx(0.6)
    assert report.longest_gap_ms == pytest.approx(40)
    assert report.commands == {"issued": 101, "applied": 100}
    other = told(*events, *orders, *gone, mission="m2")
    assert (other.distance_m, other.longest_gap_ms) == (0.0, None)


def test_boots_have_clocks_of_their_own() -> None:
    again = [
        e.model_copy(update={"boot_id": "b2"})
        for e in driven(51)
        if isinstance(e, SensorFrame | FusedState)
    ]
    report = told(*driven(101), *again)
    assert report.boots == 2
    assert report.distance_m == pytest.approx(3.0)
    assert report.rmse_fused_m == pytest.approx(0.1)


def test_contacts_are_counted_from_the_first_frame() -> None:
    report = told(*(sensed(seq, contact=[3.0 + (seq > 4) + (seq > 7)]) for seq in range(10)))
    assert report.contacts == 2


# -- commands, versions, returns ----------------------------------------------------------------


def test_outcomes_are_counted_once() -> None:
    first = feedback(0, became(0, 5.0), became(1, 6.0, "expired"))
    second = feedback(1, became(2, 65.0), became(3, 70.0, "old-epoch"), mode="HOLD")
    orders = [command(seq, 20.0 * seq) for seq in range(4)]
    report = told(*orders, orders[3], first, first, second)
    assert report.commands == {"issued": 4, "applied": 2, "expired": 1, "old-epoch": 1}
    assert report.longest_gap_ms == pytest.approx(60)
    assert report.mode == "HOLD"


def test_the_return_of_a_version_is_that_of_its_own_episodes() -> None:
    """Episodes of 10 steps; REACH_2 comes in amid episode 3, and rewards are -1 and -0.5."""
    events: list[Event] = []
    for step in range(70):
        reward = -1.0 if step < 34 else -0.5
        events.append(sensed(step, reward=[reward, float(step // 10)]))
    applied = [became(i, 20.0 * i - 1, policy=REACH_1 if i < 35 else REACH_2) for i in range(70)]
    report = told(*events, feedback(0, *applied))
    assert [(v.version, v.commands, v.episodes) for v in report.versions] == [
        (1, 35, 2),
        (2, 35, 2),
    ]
    assert [v.mean_return for v in report.versions] == [-10.0, -5.0]


def test_an_episode_with_a_reading_lost_has_no_return() -> None:
    events = [sensed(s, reward=[-1.0, float(s // 10)]) for s in range(40) if s != 15]
    report = told(*events, feedback(0, *(became(i, 20.0 * i, policy=REACH_1) for i in range(40))))
    assert [(v.episodes, v.mean_return) for v in report.versions] == [(1, -10.0)]


def test_what_acts_last_is_told_apart_from_what_came_last() -> None:
    policies = [REACH_1, REACH_2, REACH_1]
    report = told(feedback(0, *(became(i, 20.0 * i, policy=p) for i, p in enumerate(policies))))
    assert [v.version for v in report.versions] == [1, 2]
    assert report.acting == REACH_1


def test_swaps_and_rollbacks_are_told_from_refusals() -> None:
    report = told(*(slot.event for slot in valid().slots.values()))
    assert (report.swaps, report.rollbacks, report.refused) == (2, 1, 1)
    assert [(v.policy, v.version) for v in report.versions] == [
        ("tracker", 0),
        ("reach", 2),
        ("reach", 1),
    ]


# -- safety, the loop, the mission --------------------------------------------------------------


def test_safety_events_are_listed_once() -> None:
    hold, stop = safety(0, "NORMAL", "HOLD"), safety(1, "HOLD", "SAFE_STOP", cause="tilt")
    alarm = safety(2, "SAFE_STOP", "SAFE_STOP")
    report = told(hold, stop, stop, alarm)
    assert report.safety_events == 3
    assert report.modes == {"HOLD": 1, "SAFE_STOP": 1}
    assert [(line.after, line.cause) for line in report.safety] == [
        ("HOLD", "silence"),
        ("SAFE_STOP", "tilt"),
        ("SAFE_STOP", "silence"),
    ]


def _loop(periods: int, missed: int, p99_ms: float) -> LoopHealth:
    return LoopHealth(
        rate_hz=200,
        periods=periods,
        missed=missed,
        lateness_p50_ms=0.1,
        lateness_p99_ms=p99_ms,
        lateness_max_ms=2 * p99_ms,
    )


def test_the_loop_is_summed_over_boots() -> None:
    report = told(
        feedback(0, loop=_loop(100, 1, 3.0)),
        feedback(1, loop=_loop(1000, 2, 1.0)),
        feedback(0, boot="b2", loop=_loop(500, 1, 2.0)),
    )
    assert report.loop is not None
    assert (report.loop.periods, report.loop.missed) == (1500, 3)
    assert (report.loop.lateness_p99_ms, report.loop.lateness_max_ms) == (3.0, 6.0)
    assert report.loop.missed_share == pytest.approx(0.002)


def test_the_result_is_of_the_mission() -> None:
    done = RobotMissionResult(
        mission_id="m1", robot_id="rover", outcome="done", waypoints=4, seconds=12.5
    )
    failed = done.model_copy(update={"mission_id": "m2", "outcome": "failed", "reason": "stuck"})
    report = told(done, failed, mission="m1")
    assert (report.outcome, report.waypoints, report.seconds) == ("done", 4, 12.5)
    assert told(done, failed, mission="m2").reason == "stuck"


def test_robots_are_told_apart_and_those_asked_for_are_there() -> None:
    other = frame(0, robot="other")
    assert set(acting_report(records(frame(0), other))) == {"rover", "other"}
    assert set(acting_report(records(frame(0), other), ["other", "third"])) == {"other", "third"}
    assert acting_report(records(other), ["third"])["third"].commands == {}


def test_a_report_is_the_same_however_topics_are_interleaved() -> None:
    orders = [command(seq, 20.0 * seq) for seq in range(60)]
    gone = [feedback(i, became(i, 20.0 * i + 1)) for i in range(60)]
    swapped = [release("r1", stage, 1, REACH_1) for stage in ("OFFERED", "FETCHED", "SWAPPED")]
    lanes: list[list[Event]] = [
        [e for e in driven(60) if isinstance(e, SensorFrame)],
        [e for e in driven(60) if isinstance(e, FusedState)],
        list(orders),
        list(gone),
        list(swapped),
        [safety(0, "NORMAL", "HOLD")],
    ]
    reports = set()
    for seed in range(5):
        choice, left = random.Random(seed), [list(lane) for lane in lanes]
        mixed = []
        while any(left):
            mixed.append(choice.choice([lane for lane in left if lane]).pop(0))
        reports.add(told(*mixed, mission="m1").model_dump_json())
    assert len(reports) == 1


# -- tracks -------------------------------------------------------------------------------------


def line(count: int = 11) -> Track:
    track = Track()
    for i in range(count):
        track.add(100.0 * i, float(i), 2.0 * i)
    return track


def test_a_place_lies_between_its_neighbours() -> None:
    assert line().at(250.0) == pytest.approx((2.5, 5.0))
    assert line().at(0.0) == (0.0, 0.0) and line().at(1000.0) == (10.0, 20.0)
    assert line().at(-0.1) is None and line().at(1000.1) is None
    assert Track().at(0.0) is None


def test_nothing_is_known_inside_a_gap() -> None:
    track = line()
    track.add(2000.0, 20.0, 40.0)
    assert track.at(1500.0) is None
    assert track.at(2000.0) == (20.0, 40.0)


def test_a_track_does_not_go_back_in_time() -> None:
    track = line()
    track.add(1000.0, 0.0, 0.0)
    track.add(500.0, 0.0, 0.0)
    assert len(track) == 11
    assert list(track.within(200.0, 400.0).at_ms) == [200.0, 300.0, 400.0]


def test_dead_reckoning_follows_an_arc() -> None:
    """1 m/s and 1 rad/s: a circle of radius 1 m, read ten times a second."""
    speeds, truth = Track(), Track()
    for i in range(63):
        t = 0.1 * i
        speeds.add(1000 * t, 1.0, 1.0)
        truth.add(1000 * t, math.sin(t), 1 - math.cos(t), t)
    errors = Errors()
    errors.add(dead_reckoned(speeds, truth), truth)
    assert errors.count == 63 and errors.rmse_m == pytest.approx(0.0, abs=1e-9)


def test_dead_reckoning_starts_again_behind_a_gap() -> None:
    speeds, truth = Track(), Track()
    for i in [*range(10), *range(40, 50)]:
        speeds.add(100.0 * i, 1.1, 0.0)
        truth.add(100.0 * i, 0.1 * i, 0.0)
    way = dead_reckoned(speeds, truth)
    assert way.x_m[9] == pytest.approx(0.99) and way.x_m[10] == pytest.approx(4.0)
    assert way.x_m[-1] == pytest.approx(4.99) and len(way) == 20


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_the_error_of_a_track_moved_aside_is_how_far_it_was_moved(dx: float, dy: float) -> None:
    moved, errors = Track(), Errors()
    for at_ms, x_m, y_m in zip(line().at_ms, line().x_m, line().y_m, strict=True):
        moved.add(at_ms, x_m + dx, y_m + dy)
    errors.add(moved, line())
    assert errors.rmse_m == pytest.approx(math.hypot(dx, dy), abs=1e-9)


def test_a_report_grows_as_records_come() -> None:
    report = ActingReport()
    assert report.robots() == {}
    for record in records(*driven(2)):
        report.observe(record)
    assert report.robots()["rover"].distance_m == pytest.approx(0.02)


def test_feedback_of_no_command_is_fine() -> None:
    quiet: Feedback = feedback(0)
    assert told(quiet).longest_gap_ms is None
