"""The second gate: what a robot does when its control loop falls silent."""

import pytest

from producers.robots.gate import Gate
from producers.robots.simulation import Simulation
from schemas.worlds import Arm, RoverPlacement, World

HALF_TRACK_M = 0.17


def rover_gate() -> Gate:
    return Gate([0.0, 0.0], 100.0, 2.0, lambda s: abs(s[0]) + abs(s[1]) * HALF_TRACK_M)


def test_it_passes_on_what_it_hears_and_nothing_before() -> None:
    gate = rover_gate()
    assert gate.passes(0.0) == [0.0, 0.0]
    gate.heard((1.0, 0.5), 10.0)
    assert gate.passes(110.0) == (1.0, 0.5)
    assert gate.braked == 0


def test_it_brakes_at_the_stated_deceleration_on_the_same_curve() -> None:
    gate = rover_gate()
    gate.heard((1.0, 1.0), 0.0)
    rim = 1.0 + HALF_TRACK_M
    v, yaw = gate.passes(200.0)
    assert v + yaw * HALF_TRACK_M == pytest.approx(rim - 2.0 * 0.1)
    assert v == pytest.approx(yaw)
    assert gate.passes(100.0 + rim / 2.0 * 1000) == pytest.approx((0.0, 0.0))
    assert gate.passes(10_000.0) == (0.0, 0.0)
    assert gate.braked == 1


def test_a_step_does_not_know_what_is_said_after_it_began() -> None:
    gate = rover_gate()
    gate.heard((0.1, 0.0), 0.0)
    gate.heard((0.2, 0.0), 25.0)
    assert gate.passes(20.0) == (0.1, 0.0)
    assert gate.passes(30.0) == (0.2, 0.0)


def test_it_lets_go_when_it_hears_again() -> None:
    gate = rover_gate()
    gate.heard((1.0, 0.0), 0.0)
    gate.passes(300.0)
    gate.heard((0.5, 0.0), 310.0)
    assert gate.passes(320.0) == (0.5, 0.0)
    gate.passes(500.0)
    assert gate.braked == 2


def test_torques_are_cut_off_at_once() -> None:
    gate = Gate([0.0, 0.0], 50.0)
    gate.heard((1.0, -1.0), 0.0)
    assert gate.passes(50.0) == (1.0, -1.0)
    assert gate.passes(50.1) == [0.0, 0.0]


def test_a_rover_really_slows_down_so_and_stands() -> None:
    world = World(
        name="w", rovers={"r": RoverPlacement(start=(2, 6, 0))}, gate_timeout_ms=100, brake_mps2=2.4
    )
    simulation = Simulation(world)
    rover = simulation.robots["r"]
    rover.gate.timeout_ms = 1500.0
    rover.apply((1.0, 0.0), 0.0)
    simulation.advance(1600.0)
    body = simulation.arena.rovers["r"]
    before = body.twist()[0]
    simulation.advance(1800.0)
    assert (before - body.twist()[0]) / 0.2 == pytest.approx(2.4, rel=0.1)
    simulation.advance(2100.0)
    assert abs(body.twist()[0]) <= 0.02


def test_an_arm_gets_rest_in_the_middle_of_a_step() -> None:
    simulation = Simulation(World(name="w", arms={"a": Arm()}, gate_timeout_ms=65.0))
    arm = simulation.robots["a"]
    arm.apply((1.0, 1.0), 0.0)
    simulation.advance(70.0)
    data = arm.reacher.data  # type: ignore[attr-defined]
    assert data.ctrl.tolist() == [1.0, 1.0]
    simulation.advance(80.0)
    assert data.ctrl.tolist() == [0.0, 0.0]
