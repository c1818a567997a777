"""The classical tracker: to the goal, around what stands there, and not into it."""

from math import cos, hypot, pi, sin
from typing import Any

import numpy as np
import pytest
from release_world import state

from producers.robots.simulation import SimulatedRover, Simulation
from producers.robots.specs import rover_spec
from schemas.acting import ChannelHealth
from schemas.control import Steering
from schemas.worlds import Box, Cylinder, Rover, RoverPlacement, World
from streams.acting.control.avoidance import choose_way, free_distance
from streams.acting.control.situation import Hearing, Situation
from streams.acting.control.tracker import WaypointTracker

NOTHING = np.empty((0, 2))


def test_without_obstacles_the_way_is_straight_to_the_goal() -> None:
    way = choose_way(NOTHING, (1.0, 0.73), 0.0, 0.4, 1.5)
    assert way.direction_rad == pytest.approx(np.arctan2(0.73, 1.0), abs=1e-12)
    assert not way.blocked and way.ahead_m == np.inf


def test_a_disc_gets_as_far_as_where_it_touches() -> None:
    point = np.array([[1.0, 0.3]])
    [ahead, left, back] = free_distance(point, np.array([0.0, pi / 2, pi]), 0.5)
    assert ahead == pytest.approx(1.0 - 0.4)
    assert left == np.inf and back == np.inf


def test_it_goes_around_and_keeps_to_the_side_that_it_chose() -> None:
    wall = np.array([[1.0, y] for y in np.linspace(-0.3, 0.3, 7)])
    left = choose_way(wall, (2.0, 0.0), 0.5, 0.4, 1.5)
    right = choose_way(wall, (2.0, 0.0), -0.5, 0.4, 1.5)
    assert left.direction_rad > 0.3 and right.direction_rad < -0.3
    assert not left.blocked
    assert left.ahead_m < 1.0


def test_shut_in_it_is_blocked() -> None:
    ring = np.array([[cos(a), sin(a)] for a in np.linspace(-pi, pi, 60)])
    way = choose_way(ring, (3.0, 0.0), 0.0, 0.3, 1.5)
    assert way.blocked and way.free_m < 1.0


def tracker(**changes: Any) -> WaypointTracker:
    return WaypointTracker(Steering(**changes), rover_spec(Rover()))


def at(x: float, y: float, heading: float, scan: list[float], seq: int) -> Situation:
    fused = state(
        seq,
        filter="planar",
        names=["x_m", "y_m", "heading_rad"],
        mean=[x, y, heading],
        held={"scan": scan},
    )
    return Situation.of(fused)


def test_it_turns_on_the_spot_toward_what_is_behind() -> None:
    v, w = tracker().set_point(at(0, 0, 0, [8.0] * 36, 0), (-3.0, 0.1), 0.5)
    assert v == 0.0 and w == 2.0


def test_it_slows_so_as_to_stop_before_what_is_ahead() -> None:
    body, wall_m = Rover(), 0.6
    scan = [min(8.0, wall_m / cos(a)) if abs(a) < 0.6 else 8.0 for a in body.scan_rad]
    v, _ = tracker().set_point(at(0, 0, 0, scan, 0), (0.15, 0.0), 1.0)
    assert 0 < v <= (2 * 0.5 * 0.2) ** 0.5 + 1e-6


def test_a_blind_robot_rests() -> None:
    here = at(0, 0, 0, [8.0] * 36, 0)
    assert tracker().set_point(here, (3.0, 0.0), 0.5)[0] == 0.5
    unscanned = Situation.of(here.state.model_copy(update={"held": {}}))
    for blind in (unscanned, Situation.of(here.state, {"scan"})):
        assert tracker().set_point(blind, (3.0, 0.0), 0.5) == [0.0, 0.0]


def test_a_scan_of_which_nothing_new_comes_is_silent_after_three_of_its_periods() -> None:
    def told(seq: int, count: int, boot: str = "b") -> Any:
        channels = {"scan": ChannelHealth(applied=count), "truth": ChannelHealth()}
        return state(seq, stamp_ms=50.0 * seq, channels=channels, boot_id=boot)

    hearing = Hearing(rover_spec(Rover()))
    for seq in range(20):
        assert "scan" not in hearing.silent(told(seq, seq // 2))
    silent = ["scan" in hearing.silent(told(seq, 9)) for seq in range(20, 28)]
    assert silent == [False] * 5 + [True] * 3
    assert "scan" not in hearing.silent(told(28, 10))
    assert "scan" not in hearing.silent(told(0, 9, "another"))


def test_what_is_out_of_sight_is_remembered_for_a_while() -> None:
    seen = [0.9] * 36
    steers = tracker(memory_s=1.0)
    blocked, _ = steers.set_point(at(0, 0, 0, seen, 0), (3.0, 0.0), 0.5)
    still, _ = steers.set_point(at(0, 0, 0, [8.0] * 36, 1), (3.0, 0.0), 0.5)
    for seq in range(2, 100):
        free, _ = steers.set_point(at(0, 0, 0, [8.0] * 36, seq), (3.0, 0.0), 0.5)
    assert blocked == still == 0.0
    assert free == 0.5


COURSES = {
    "in the way": [Cylinder(at=(4.0, 4.0), radius_m=0.4)],
    "a wall": [Box(at=(4.0, 4.2), size_m=(0.3, 2.0))],
    "a gap": [Box(at=(4.0, 2.2), size_m=(0.3, 2.6)), Box(at=(4.0, 5.8), size_m=(0.3, 2.6))],
    "a wood": [
        Cylinder(at=(x, y), radius_m=0.25)
        for x, y in [(3.0, 3.6), (3.1, 5.1), (4.4, 4.3), (4.6, 2.8), (5.6, 3.9), (5.6, 5.2)]
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COURSES)
def test_it_drives_there_and_back_without_a_contact(name: str) -> None:
    world = World(
        name="course",
        high=(8.0, 8.0),
        obstacles=COURSES[name],
        rovers={"rover": RoverPlacement(start=(1.2, 4.0, pi / 2))},
    )
    simulation = Simulation(world)
    robot = simulation.robots["rover"]
    assert isinstance(robot, SimulatedRover)
    steers = tracker()
    goals = [(6.8, 4.0), (1.2, 4.0)]
    for step in range(20 * 90):
        now_ms = 50.0 * step
        x, y, heading = robot.body.pose()
        while goals and hypot(goals[0][0] - x, goals[0][1] - y) < 0.25:
            goals.pop(0)
        if not goals:
            break
        situation = at(x, y, heading, robot.body.scan(), step)
        robot.apply(steers.set_point(situation, goals[0], 0.5), now_ms)
        simulation.advance(now_ms + 50.0)
        assert robot.body.contacts == 0, f"at {x:.2f}, {y:.2f}"
    assert not goals, f"still at {x:.2f}, {y:.2f}"
