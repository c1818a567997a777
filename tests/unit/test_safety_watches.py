"""A robot under its control loop, with what may go wrong going wrong, in virtual time."""

import math
from random import Random

import pytest
from acting_world import ROVER, TinyRover, World, order, reading, safety_spec
from pydantic import ValidationError

from schemas.safety import Geofence, SafetySpec
from streams.acting.watches import Fence, Obstacles, Tilt, WatchError, watches

STOPPED_MPS = 0.02
"""What Nav2's collision monitor counts as standing still."""
STOP_S = 0.6


def stop_time_ms(world: World, limit_ms: float = 2000) -> float:
    """How long it takes until the robot stands still."""
    start_ms = world.rover.clock_ms
    while abs(world.rover.v_mps) > STOPPED_MPS:
        world.run(5)
        assert world.rover.clock_ms - start_ms < limit_ms
    return world.rover.clock_ms - start_ms


# --- silence


def test_silence_is_a_stop_within_its_time_and_a_command_alone_does_not_end_it() -> None:
    world = World()
    world.drive()
    assert world.rover.v_mps == 0.5
    world.commanding = False
    assert stop_time_ms(world) <= STOP_S * 1000
    world.run(500)
    assert world.causes() == [("silence", "NORMAL", "HOLD")]
    world.drive()
    assert world.rover.v_mps == 0 and world.mode == "HOLD"


def test_the_default_holds_in_time_on_a_shared_machine() -> None:
    world = World(SafetySpec())
    world.drive()
    world.commanding = False
    world.run(STOP_S * 1000)
    assert world.mode == "HOLD" and world.rover.v_mps == 0


def test_after_a_reset_nothing_moves_before_a_fresh_command() -> None:
    world = World()
    world.drive()
    world.commanding = False
    world.run(1000)
    world.link.publish(order("reset"))
    world.run(5000)
    assert world.mode == "NORMAL", "silence counts from the first command on"
    assert all(v == 0 for v, _ in world.rover.applied[-1000:])
    world.drive(500)
    assert world.rover.v_mps == 0.5


def test_a_command_made_before_the_reset_is_not_fresh() -> None:
    world = World()
    world.drive()
    world.link.publish(order("stop"))
    world.run(500)
    world.lag_ms = 100
    world.link.publish(order("reset", "o2"))
    world.run(95)
    assert world.mode == "NORMAL" and world.rover.v_mps == 0
    world.run(200)
    assert world.rover.v_mps > 0


def test_long_silence_is_a_safe_stop() -> None:
    world = World()
    world.drive()
    world.commanding = False
    world.run(11_000)
    assert world.causes() == [("silence", "NORMAL", "HOLD"), ("silence", "HOLD", "SAFE_STOP")]


def test_a_robot_that_was_never_commanded_rests_and_is_not_silent() -> None:
    world = World()
    world.run(20_000)
    assert world.mode == "NORMAL" and not any(v for v, _ in world.rover.applied)


# --- sources


@pytest.mark.parametrize("channel", ["scan", "odometry"])
def test_a_source_that_falls_silent_is_a_stop(channel: str) -> None:
    world = World(safety_spec(stale_hold_s={channel: 0.3}))
    world.drive()
    world.rover.silent.add(channel)
    world.run(305)
    assert world.mode == "HOLD" and world.causes()[-1][0] == "stale-source"
    assert stop_time_ms(world) + 300 <= STOP_S * 1000


def test_a_source_that_never_came_is_a_stop() -> None:
    world = World(safety_spec(stale_hold_s={"imu": 0.3}))
    world.rover.silent.add("imu")
    world.drive(500)
    assert world.mode == "HOLD"


def test_a_reset_is_refused_until_the_source_is_back() -> None:
    world = World(safety_spec(stale_hold_s={"imu": 0.3}))
    world.drive()
    world.rover.silent.add("imu")
    world.run(500)
    world.link.publish(order("reset", "first"))
    world.run(100)
    assert world.causes()[-1] == ("reset-refused", "HOLD", "HOLD")
    world.rover.silent.clear()
    world.run(50)
    world.link.publish(order("reset", "second"))
    world.run(300)
    assert world.causes()[-1] == ("reset", "HOLD", "NORMAL")
    assert world.rover.v_mps > 0, "resumes with the next command"


def test_a_watch_has_its_source_watched_too() -> None:
    world = World(safety_spec(obstacle_stop_m=0.3, stale_default_s=0.4))
    world.drive()
    world.rover.silent.add("scan")
    world.run(405)
    assert world.mode == "HOLD"


def test_a_watch_without_a_channel_is_refused() -> None:
    blind = ROVER.model_copy(update={"channels": ROVER.channels[:1]})
    for wanted in ({"obstacle_stop_m": 0.3}, {"tilt_stop_rad": 0.5}, {"stale_hold_s": {"gps": 1}}):
        with pytest.raises(WatchError, match=r"has no(ne| channel)"):
            watches(safety_spec(**wanted), blind)


# --- obstacles


def test_an_obstacle_slows_then_stops() -> None:
    world = World(safety_spec(obstacle_slow_m=2.0, obstacle_stop_m=0.5))
    world.rover.wall_m = 4.0
    world.set_point = [1.0, 0.0]
    speeds = {}
    world.commanding = True
    for _ in range(1200):
        world.run(5)
        speeds[world.mode] = max(speeds.get(world.mode, 0), world.rover.applied[-1][0])
    assert speeds["NORMAL"] == 1.0
    assert world.causes()[:2] == [
        ("obstacle", "NORMAL", "DEGRADED"),
        ("obstacle", "DEGRADED", "HOLD"),
    ]
    assert world.rover.v_mps == 0 and 0.3 < world.rover.wall_m - world.rover.x_m < 0.5
    slowed = [v for v, _ in world.rover.applied if 0 < v <= 0.5]
    assert len(slowed) > 100, "half of the limits when DEGRADED"


def test_an_outlier_stops_no_robot_and_a_ray_that_hits_nothing_is_far() -> None:
    watch = Obstacles(safety_spec(obstacle_stop_m=0.5))
    for distance in (3.0, 0.1, 3.0, -1.0, 3.0, 0.1, -1.0):
        watch.feed("scan", reading("scan", 0, distance))
        assert not list(watch.alarms(0))
    for _ in range(2):
        watch.feed("scan", reading("scan", 0, 0.1, 3.0))
    (alarm,) = watch.alarms(0)
    assert (alarm.mode, alarm.cause) == ("HOLD", "obstacle")


def test_false_stops_by_noise_are_rare() -> None:
    """Nav2 accepts 5 % of false stops; here one scan in twenty is an outlier."""
    watch, random = Obstacles(safety_spec(obstacle_stop_m=0.5)), Random(1)
    stops = 0
    for _ in range(10_000):
        watch.feed("scan", reading("scan", 0, 0.1 if random.random() < 0.05 else 2.0))
        stops += bool(list(watch.alarms(0)))
    assert 0 < stops / 10_000 <= 0.01


# --- geofence


def fence() -> Fence:
    return Fence(Geofence(low=(0, 0), high=(10, 10), margin_m=0.5), 2)


def modes_of(watch: Fence) -> list[str]:
    return [alarm.mode for alarm in watch.alarms(0)]


@pytest.mark.parametrize(
    "at, mode", [((5, 5), []), ((0.4, 5), ["DEGRADED"]), ((5, 10.1), ["SAFE_STOP"])]
)
def test_the_fence_by_fixes_alone(at: tuple[float, float], mode: list[str]) -> None:
    watch = fence()
    for stamp in (0, 200):
        watch.feed("position", reading("position", stamp, *at))
    assert modes_of(watch) == mode


def test_the_way_since_the_last_fix_counts_in_whatever_direction() -> None:
    watch = fence()
    watch.feed("odometry", reading("odometry", 0, 1.0, 0.0))
    watch.feed("position", reading("position", 0, 1.0, 5.0))
    seen = []
    for stamp in range(0, 1500, 20):
        watch.feed("odometry", reading("odometry", stamp, -1.0, 0.0))
        seen.append((modes_of(watch) or ["NORMAL"])[0])
    assert seen.index("DEGRADED") * 20 == pytest.approx(500, abs=40)
    assert seen.index("HOLD") * 20 == pytest.approx(1000, abs=40)


def test_a_fix_that_comes_late_counts_from_when_it_was_measured() -> None:
    watch = fence()
    for stamp in range(0, 1000, 20):
        watch.feed("odometry", reading("odometry", stamp, 1.0, 0.0))
    watch.feed("position", reading("position", 200, 1.0, 5.0))
    watch.feed("position", reading("position", 100, 9.9, 9.9))
    assert modes_of(watch) == ["DEGRADED"], "0.2 m are certain: 1 m less the 0.8 m since then"


# --- tilt


@pytest.mark.parametrize("oriented", [True, False])
def test_tilt_by_orientation_and_by_gravity(oriented: bool) -> None:
    watch = Tilt(0.5, 2)

    def lean(angle: float) -> list[str]:
        for stamp in range(0, 3000, 20):
            force = [9.81 * math.sin(angle), 0.0, 9.81 * math.cos(angle)]
            turn = [math.cos(angle / 2), 0.0, math.sin(angle / 2), 0.0] if oriented else []
            watch.feed("imu", reading("imu", stamp, 0, 0, 0, *force, *turn))
        return [alarm.mode for alarm in watch.alarms(0)]

    assert lean(0.4) == []
    assert lean(0.6) == ["SAFE_STOP"]


# --- driver, loop and people


def test_a_driver_that_fails_is_a_safe_stop_until_it_works_and_is_reset() -> None:
    world = World()
    world.drive()
    world.rover.broken = "no answer on the bus"
    world.run(50)
    assert world.mode == "SAFE_STOP" and "no answer" in world.spool.events[-1].detail
    world.link.publish(order("reset", "first"))
    world.run(50)
    assert world.mode == "SAFE_STOP"
    world.rover.broken = None
    world.run(700)
    assert world.mode == "SAFE_STOP", "that it is back clears nothing"
    world.link.publish(order("reset", "second"))
    world.run(100)
    assert world.mode == "NORMAL" and world.rover.v_mps > 0


def test_a_loop_that_stalls_while_the_robot_drives_holds() -> None:
    world = World()
    world.drive()
    world.rover.pass_time(150)
    world.run(5)
    assert world.causes() == [("loop-stall", "NORMAL", "HOLD")]


def test_a_loop_that_stalls_while_the_robot_rests_is_no_matter() -> None:
    world = World()
    world.run(100)
    world.rover.pass_time(150)
    world.run(100)
    assert world.causes() == []


def test_a_person_stops_and_terminates_with_the_log_away() -> None:
    world = World()
    world.drive()
    world.local.append((order("stop"), False))
    world.run(60)
    assert world.mode == "SAFE_STOP"
    world.local.append((order("terminate", "o2"), False))
    world.local.append((order("reset", "o3"), False))
    world.run(120)
    assert [after for _, _, after in world.causes()] == ["SAFE_STOP", "TERMINATED", "TERMINATED"]
    world.run(1000)
    assert world.rover.v_mps == 0


def test_an_order_that_comes_by_two_ways_is_carried_out_once() -> None:
    world = World()
    world.drive()
    world.local.append((order("stop"), False))
    world.run(60)
    world.local.append((order("reset", "o2"), False))
    world.run(60)
    world.link.publish(order("stop"))
    world.run(60)
    assert world.causes() == [
        ("operator", "NORMAL", "SAFE_STOP"),
        ("reset", "SAFE_STOP", "NORMAL"),
    ]


def test_a_reset_from_before_this_life_is_refused() -> None:
    world = World()
    world.link.publish(order("stop", "o1"))
    world.link.inbox.append((1, order("reset", "o2"), True))
    world.run(50)
    assert world.mode == "SAFE_STOP" and world.causes()[-1][0] == "reset-refused"


# --- limits that cannot be switched off


@pytest.mark.parametrize(
    "changes",
    [
        {"silence_hold_s": 0},
        {"silence_hold_s": 1e9},
        {"stale_hold_s": {"scan": 0}},
        {"stale_hold_s": {"scan": 1e9}},
        {"gate_timeout_ms": 1e9},
        {"silence_hold_s": 2, "silence_stop_s": 1},
        {"obstacle_slow_m": 0.2, "obstacle_stop_m": 0.5},
    ],
)
def test_no_time_out_can_be_switched_off(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        safety_spec(**changes)


@pytest.mark.parametrize("load, factor", [("dedicated", 1.0), ("shared", 1.5), ("busy", 2.0)])
def test_time_outs_follow_the_load(load: str, factor: float) -> None:
    world = World(safety_spec(load=load, silence_hold_s=0.5))
    world.drive()
    last_ms = world.spool and world.rover.clock_ms
    world.commanding = False
    while world.mode == "NORMAL":
        world.run(5)
    assert world.rover.clock_ms - last_ms == pytest.approx(500 * factor, abs=60)


def test_a_rover_measures_what_the_watches_need() -> None:
    rover = TinyRover()
    assert {r.channel for r in rover.read()} == {c.name for c in ROVER.channels}
