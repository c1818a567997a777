"""The example patrol: sensors, fusion, controller, safety and actuator in virtual time."""

from math import hypot

import pytest
from robot_chain import ChainedRobot, example_mission, example_robot, example_world, run

from producers.robots.simulation import SimulatedRover, Simulation
from schemas.missions import RobotMissionResult


@pytest.mark.slow
def test_three_rovers_drive_their_patrol_without_a_contact_or_a_stop() -> None:
    world, mission = example_world("patrol"), example_mission("patrol")
    simulation = Simulation(world)
    robots = {name: ChainedRobot(example_robot("rover", name), simulation) for name in world.rovers}
    for robot in robots.values():
        robot.tell(mission)
    for _ in run(simulation, robots, 90):
        if all(any(isinstance(e, RobotMissionResult) for e in r.said) for r in robots.values()):
            break
    for name, robot in robots.items():
        assert isinstance(robot.body, SimulatedRover)
        assert robot.newest is not None
        x, y, _ = robot.body.body.pose()
        off_m = hypot(robot.newest.mean[0] - x, robot.newest.mean[1] - y)
        state = f"{name} at {x:.2f}, {y:.2f}, {off_m:.2f} m off, {robot.actuator.safety.mode}"
        changes = [(c.before, c.after, c.cause, c.detail) for c in robot.actuator.changes]
        assert robot.body.body.contacts == 0, state
        assert robot.actuator.safety.mode in ("NORMAL", "DEGRADED"), (state, changes)
        results = [event for event in robot.said if isinstance(event, RobotMissionResult)]
        assert len(results) == 1, (state, changes, robot.said)
        [result] = results
        assert (result.outcome, result.waypoints) == ("done", 4)
        applied = sum(o.outcome == "applied" for o in robot.outcomes)
        assert applied > 0.98 * len(robot.outcomes)
