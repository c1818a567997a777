"""The simulated rover and arm do what rovers and arms do."""

import math
from itertools import pairwise

import gymnasium
import numpy as np
import pytest

from producers.robots.arena import Arena
from producers.robots.drivers import ArmDriver, RoverDriver
from producers.robots.simulation import Simulation
from schemas.worlds import Box, Cylinder, Rover, RoverPlacement, Sensor, World

FAR = {"gate_timeout_ms": 1e9}


def world(**more: object) -> World:
    robots = {"r": RoverPlacement(start=(6, 6, 0))}
    return World.model_validate({"name": "w", "rovers": robots, **FAR, **more})


def driven(arena: Arena, v: float, yaw: float, seconds: float) -> None:
    arena.rovers["r"].drive(v, yaw)
    for _ in range(round(seconds * 1000 / arena.step_ms)):
        arena.step()


def test_a_rover_drives_as_it_is_told() -> None:
    arena = Arena(world())
    driven(arena, 0.5, 0.0, 2.0)
    rover = arena.rovers["r"]
    assert rover.twist() == pytest.approx((0.5, 0.0), abs=0.02)
    assert rover.pose()[1] == pytest.approx(6.0, abs=0.01)
    driven(arena, 0.5, 1.0, 1.0)
    assert rover.twist() == pytest.approx((0.5, 1.0), abs=0.05)
    assert rover.odometry() == pytest.approx(rover.twist(), abs=0.02)
    assert rover.contacts == 0


def test_odometry_does_not_know_of_wrong_wheels_and_slip() -> None:
    arena = Arena(world(rover={"wheel_error": [0.05, 0.0], "slip": 0.02}))
    driven(arena, 0.5, 0.0, 2.0)
    rover = arena.rovers["r"]
    v, yaw = rover.odometry()
    assert (v, yaw) == pytest.approx((0.5, 0.0), abs=0.02)
    assert rover.twist()[0] == pytest.approx(v * 0.98 * 1.025, rel=0.02)
    # The left wheel goes further: it turns to the right.
    assert rover.twist()[1] == pytest.approx(-0.05 * v * 0.98 / 0.34, rel=0.15)


def test_an_imu_feels_gravity_turns_and_the_way_into_them() -> None:
    arena = Arena(world())
    driven(arena, 0.0, 0.0, 0.5)
    rover = arena.rovers["r"]
    rover.imu()
    driven(arena, 0.5, 1.0, 1.0)
    rover.imu()
    driven(arena, 0.5, 1.0, 0.5)
    wx, wy, wz, ax, ay, az, qw, qx, qy, qz = rover.imu()
    assert (wx, wy, wz) == pytest.approx((0, 0, 1.0), abs=0.05)
    assert (ax, ay, az) == pytest.approx((0, 0.5, 9.81), abs=0.1)
    assert 2 * math.atan2(qz, qw) == pytest.approx(rover.pose()[2], abs=0.01)
    assert abs(qx) + abs(qy) < 0.01


def test_a_scan_meets_walls_obstacles_and_other_rovers() -> None:
    quarter = [-math.pi, -math.pi / 2, 0.0, math.pi / 2]
    arena = Arena(
        world(
            rover=Rover(scan_rad=quarter, scan_max_m=5.0),
            rovers={
                "r": RoverPlacement(start=(6, 6, 0)),
                "s": RoverPlacement(start=(6, 8, 0)),
            },
            obstacles=[Cylinder(at=(8, 6), radius_m=0.5), Box(at=(6, 4), size_m=(1, 0.4))],
        )
    )
    behind, right, ahead, left = arena.rovers["r"].scan()
    assert ahead == pytest.approx(1.5, abs=0.01)
    assert right == pytest.approx(1.8, abs=0.01)
    assert left == pytest.approx(2 - 0.17 - 0.04, abs=0.01)
    assert behind == 5.0, "the wall is 6 m away, out of its sight"


def test_touching_an_obstacle_is_one_contact_until_it_is_left() -> None:
    arena = Arena(world(obstacles=[Cylinder(at=(7, 6), radius_m=0.3)]))
    driven(arena, 0.5, 0.0, 3.0)
    rover = arena.rovers["r"]
    assert rover.contacts == 1
    assert rover.pose()[0] < 6.7
    driven(arena, -0.5, 0.0, 1.0)
    driven(arena, 0.5, 0.0, 2.0)
    assert rover.contacts == 2


def test_rovers_push_each_other() -> None:
    arena = Arena(
        world(
            rovers={
                "r": RoverPlacement(start=(5, 6, 0)),
                "s": RoverPlacement(start=(6, 6, 0)),
            }
        )
    )
    driven(arena, 0.8, 0.0, 2.0)
    assert arena.rovers["s"].pose()[0] > 6.05
    assert arena.rovers["r"].contacts >= 1 and arena.rovers["s"].contacts >= 1


def test_ranges_are_of_one_beacon_after_the_other() -> None:
    exact = {"range": Sensor(rate_hz=20)}
    driver = RoverDriver(world(rover={"sensors": exact}, beacons={"3": (6, 2), "7": (9, 10)}), "r")
    driver.connect()
    driver.step(400.0)
    ranges = [r.values for r in driver.read() if r.channel == "range"]
    assert [number for number, _ in ranges] == [3.0, 7.0] * 4
    assert [d for _, d in ranges] == pytest.approx([4.0, 5.0] * 4, abs=0.01)


def test_a_world_without_beacons_has_no_ranges() -> None:
    driver = RoverDriver(world(), "r")
    driver.connect()
    driver.step(200.0)
    assert "range" not in {r.channel for r in driver.read()}


def test_the_same_seed_gives_the_same_readings_and_another_one_others() -> None:
    def readings(seed: int) -> list[object]:
        driver = RoverDriver(world(seed=seed), "r")
        driver.connect()
        driver.apply([0.4, 0.3])
        driver.step(500.0)
        return list(driver.read())

    assert readings(1) == readings(1)
    assert readings(1) != readings(2)


def test_how_often_one_reads_changes_no_reading() -> None:
    often, once = RoverDriver(world(), "r"), RoverDriver(world(), "r")
    for driver in (often, once):
        driver.connect()
        driver.apply([0.5, 0.0])
    found = []
    for _ in range(200):
        often.step(2.5)
        found += often.read()
    once.step(500.0)

    def key(reading: object) -> tuple[str, int]:
        return reading.channel, reading.seq  # type: ignore[attr-defined]

    assert sorted(found, key=key) == sorted(once.read(), key=key)


def test_an_arm_is_reacher_v5() -> None:
    """Joints and rewards of 120 steps, over two new targets, equal the environment's."""
    driver = ArmDriver(seed=5, gate_timeout_ms=1e9)
    driver.connect()
    reacher = driver.simulation.robots["arm"].reacher  # type: ignore[attr-defined]
    env = gymnasium.make("Reacher-v5").unwrapped
    env.reset(seed=1)
    env.set_state(reacher.data.qpos.copy(), reacher.data.qvel.copy())
    rng, targets = np.random.default_rng(0), set()
    for step in range(120):
        torques = rng.uniform(-1, 1, size=2)
        driver.apply(torques.tolist())
        driver.step(20.0)
        _, reward, *_ = env.step(np.array(driver.simulation.robots["arm"].gate.passes(0.0)))
        by = {r.channel: r.values for r in driver.read()}
        assert by["joints"] == pytest.approx([*env.data.qpos[:2], *env.data.qvel[:2]], abs=2e-6)
        assert by["reward"] == pytest.approx([reward, step // 50], abs=2e-6)
        targets.add(tuple(by["target"]))
        if (step + 1) % 50 == 0:
            env.set_state(reacher.data.qpos.copy(), reacher.data.qvel.copy())
    assert len(targets) == 3
    assert all(math.hypot(*target) <= 0.2 for target in targets)
    env.close()


def test_a_torque_waits_for_the_next_step_of_the_arm() -> None:
    driver = ArmDriver(gate_timeout_ms=1e9)
    driver.connect()
    driver.step(20.0)
    driver.step(5.0)
    driver.apply([1.0, 0.0])
    data = driver.simulation.robots["arm"].reacher.data  # type: ignore[attr-defined]
    driver.step(15.0)
    assert data.ctrl.tolist() == [0.0, 0.0] and driver.now_ms() == 40.0
    driver.step(10.0)
    assert data.ctrl.tolist() == [1.0, 0.0]


def test_heavier_and_weaker_arms_are_slower() -> None:
    speeds = []
    for arm in ({}, {"gear_scale": 0.5}, {"mass_scale": 50.0}):
        simulation = Simulation(World.model_validate({"name": "w", "arms": {"a": arm}, **FAR}))
        simulation.robots["a"].apply((1.0, 0.0), 0.0)
        simulation.advance(100.0)
        speeds.append(simulation.robots["a"].reacher.joints()[2])  # type: ignore[attr-defined]
    assert speeds[0] > speeds[2] > 0 and speeds[1] == pytest.approx(speeds[0] / 2, rel=0.05)


def test_one_world_may_hold_rovers_and_arms() -> None:
    simulation = Simulation(world(arms={"a": {}, "b": {}}), origin_ms=1000.0)
    simulation.advance(1100.0)
    assert set(simulation.robots) == {"r", "a", "b"}
    assert simulation.steps == 40 + 10 + 10
    stamps = [r.stamp_ms for r in simulation.robots["a"].arrived(1100.0) if r.channel == "joints"]
    assert stamps == [1020.0, 1040.0, 1060.0, 1080.0, 1100.0]
    a, b = (simulation.robots[name].reacher.target() for name in "ab")  # type: ignore[attr-defined]
    assert a != b


def test_a_trot_over_a_long_time_keeps_its_periods() -> None:
    simulation = Simulation(world(), origin_ms=0.0)
    simulation.advance(5000.0)
    stamps = [r.stamp_ms for r in simulation.robots["r"].arrived(5000.0) if r.channel == "truth"]
    assert [b - a for a, b in pairwise(stamps)] == [20.0] * 249
