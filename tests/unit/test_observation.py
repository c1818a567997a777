"""What a policy is shown on a robot is what it was shown where it was learnt, to the last digit."""

from typing import Any

import gymnasium
import numpy as np
from release_world import ARM, state

from producers.robots import envs
from producers.robots.specs import rover_spec
from schemas.worlds import Rover
from streams.acting.control.observation import ARM_NAMES, Observer
from streams.acting.control.situation import Situation


def test_an_arm_shows_what_reacher_shows() -> None:
    env = gymnasium.make("Reacher-v5")
    names = envs.ARM_OBSERVATION
    assert list(ARM_NAMES) == names
    observer = Observer(names, ARM)
    for seed in range(5):
        expected, _ = env.reset(seed=seed)
        for _ in range(10):
            expected, *_ = env.step(env.action_space.sample())
        bare: Any = env.unwrapped
        joints = [*bare.data.qpos[:2], *bare.data.qvel[:2]]
        fused = state(0, mean=joints, held={"target": list(bare.data.qpos[2:])})
        seen = observer(Situation.of(fused), None)
        assert seen is not None and seen.dtype == np.float32
        # The fingertip's place is that of the last stage of the integration there, of the end here.
        np.testing.assert_allclose(seen[:8], expected[:8], rtol=0, atol=1e-6)
        np.testing.assert_allclose(seen[8:], expected[8:], rtol=0, atol=0.02)
    env.close()


def rover_state(env: Any) -> Situation:
    body = env._rover
    fused = state(
        0,
        filter="planar",
        names=["x_m", "y_m", "heading_rad", "v_mps", "yaw_rate_radps"],
        mean=[*body.pose(), *body.twist()],
        held={"scan": body.scan()},
    )
    return Situation.of(fused)


def test_a_rover_shows_what_its_environment_shows() -> None:
    env = gymnasium.make("producers.robots.envs:RoverWaypoints-v0", disable_env_checker=True)
    bare: Any = env.unwrapped
    observer = Observer(bare.observation_names, rover_spec(Rover()))
    expected, _ = env.reset(seed=1)
    for _ in range(5):
        seen = observer(rover_state(bare), bare.goal)
        assert seen is not None
        np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-5)
        expected, *_ = env.step(np.array([0.4, 0.3], np.float32))
    assert observer(rover_state(bare), None) is None
    env.close()


def test_nothing_is_shown_while_some_of_it_is_not_known() -> None:
    observer = Observer(ARM_NAMES, ARM)
    assert observer(Situation.of(state(0, held={})), None) is None
    assert observer(Situation.of(state(0, filter="planar")), None) is None
    assert observer(Situation.of(state(0)), None) is not None
    assert observer(Situation.of(state(0), {"target"}), None) is None
