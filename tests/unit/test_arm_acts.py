"""A policy in the example arm: fusion shows it what it is to see, and what it earned."""

from pathlib import Path

import numpy as np
import pytest
from release_world import POLICY, ROBOT, TRACKER, files, offer, workshop
from robot_chain import ChainedRobot, example_robot, example_world, run

from infra.memory.store import MemoryStore
from producers.robots.simulation import Simulation
from schemas.acting import STAGES, Release
from schemas.missions import Reach, RobotMission
from streams.acting.control.policy import load_policy
from streams.acting.release.folder import PolicyFolder
from streams.acting.release.machine import Releases

STILL = files(1, actor_2_weight=np.zeros((2, 8), np.float32), actor_2_bias=np.zeros(2, np.float32))
"""It lets the arm rest, and so earns less than nothing, but more than torques at random."""


@pytest.mark.slow
def test_policies_are_swapped_into_the_example_arm_between_its_episodes(tmp_path: Path) -> None:
    example, store = example_robot("arm", ROBOT), MemoryStore()
    spec = example.controller.model_copy(update={"policy": POLICY})
    robot = example.model_copy(update={"controller": spec})
    simulation = Simulation(example_world("arm"))
    shop = workshop(PolicyFolder(tmp_path), store.get, spec.release)
    chained = ChainedRobot(robot, simulation, Releases(ROBOT, POLICY, TRACKER, shop, lambda: 0.0))
    chained.tell(RobotMission(mission_id="m", robots={ROBOT: Reach()}, policy=POLICY))
    chained.tell(offer(store, 0))
    for now_ms in run(simulation, {ROBOT: chained}, 14):
        if now_ms == 6000.0:
            chained.tell(offer(store, 1, STILL))
    told = [event for event in chained.said if isinstance(event, Release)]
    for version in (0, 1):
        assert [r.stage for r in told if r.version == version] == list(STAGES[1:-1])
    done = next(r for r in told if (r.version, r.stage) == (1, "COMMITTED"))
    assert -3.0 < done.metrics["before"] < -0.5
    assert -0.4 < done.metrics["reward"] < -0.05
    acted = [o.policy for o in chained.outcomes if o.outcome == "applied"]
    changes = [ref for i, ref in enumerate(acted) if i == 0 or acted[i - 1] != ref]
    whole = [load_policy(POLICY, 0, content).ref for content in (files(0), STILL)]
    assert [ref.sha256 for ref in changes[1:]] == [ref.sha256 for ref in whole]
    assert len(acted) > 0.99 * len(chained.outcomes)
