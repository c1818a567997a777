"""The environments that control policies learn in."""

import itertools
import math
from typing import Any

import gymnasium
import numpy as np
import pytest

from producers.robots.drivers import RoverDriver
from schemas.worlds import Rover

REACHER = "producers.robots.envs:ReacherDelayed-v0"
WAYPOINTS = "producers.robots.envs:RoverWaypoints-v0"


def played(env: Any, seed: int, steps: int = 20) -> list[tuple[bytes, float]]:
    rng, found = np.random.default_rng(seed), []
    env.reset(seed=seed)
    for _ in range(steps):
        low, high = env.action_space.low, env.action_space.high
        obs, reward, ended, cut, _ = env.step(rng.uniform(low, high).astype(np.float32))
        found.append((obs.tobytes(), reward))
        if ended or cut:
            break
    return found


@pytest.mark.parametrize("name", [REACHER, WAYPOINTS])
def test_an_episode_is_its_seed(name: str) -> None:
    env, other = gymnasium.make(name), gymnasium.make(name)
    first = played(env, 1)
    assert played(env, 2) != first
    assert played(env, 1) == played(other, 1) == first
    assert len(env.unwrapped.observation_names) == env.observation_space.shape[0]
    assert len(env.unwrapped.action_names) == env.action_space.shape[0]


def test_without_a_delay_it_is_reacher_v5() -> None:
    ours, theirs = gymnasium.make(REACHER), gymnasium.make("Reacher-v5")
    ours.reset(seed=3)
    theirs.reset(seed=3)
    state = ours.unwrapped.data
    theirs.unwrapped.set_state(state.qpos.copy(), state.qvel.copy())
    for n in range(50):
        action = np.sin([0.3 * n, 0.2 * n])
        mine, yours = ours.step(action), theirs.step(action)
        assert np.array_equal(mine[0], yours[0])
        assert mine[1:4] == yours[1:4]
    assert mine[3], "episodes have 50 steps"


def test_a_delayed_action_takes_effect_so_many_steps_later() -> None:
    now, late = gymnasium.make(REACHER), gymnasium.make(REACHER, action_delay=2)
    now.reset(seed=4)
    late.reset(seed=4)
    actions = [np.array([math.sin(n), math.cos(n)]) for n in range(10)]
    prompt = [now.step(a) for a in [np.zeros(2)] * 2 + actions]
    delayed = [late.step(a) for a in actions + [np.zeros(2)] * 2]
    assert [s[1] for s in prompt] == [s[1] for s in delayed]
    late.reset(seed=4)
    assert late.step(np.ones(2))[1] == prompt[0][1], "what was on its way is forgotten"


def test_a_negative_delay_is_refused() -> None:
    with pytest.raises(ValueError, match="action_delay is -1"):
        gymnasium.make(REACHER, action_delay=-1)


@pytest.mark.parametrize("task", [{"gear_scale": 0.5}, {"mass_scale": 30.0}])
def test_arms_of_a_family_move_otherwise(task: dict[str, float]) -> None:
    def moved(**make: float) -> Any:
        env = gymnasium.make(REACHER, **make)
        env.reset(seed=0)
        for _ in range(5):
            obs, *_ = env.step(np.ones(2))
        return obs[6:8]

    assert abs(moved(**task)[0]) < 0.97 * abs(moved()[0])


def test_targets_lie_within_the_radius_and_joints_anywhere_if_so_asked() -> None:
    env = gymnasium.make(REACHER, target_radius_m=0.1, anywhere=True)
    observations = [env.reset(seed=n)[0] for n in range(50)]
    radii = [math.hypot(*obs[4:6]) for obs in observations]
    assert 0.05 < max(radii) <= 0.1
    assert min(obs[0] for obs in observations) < -0.5


def toward_goal(obs: Any) -> Any:
    forward, left = obs[:2]
    turn = math.atan2(left, forward)
    return np.array([0.5 * max(0.0, math.cos(turn)), 2 * turn], np.float32)


def test_progress_is_rewarded_and_a_waypoint_follows_another() -> None:
    env, reached = gymnasium.make(WAYPOINTS, obstacles=0), 0
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        for _ in itertools.count():
            before = math.hypot(*obs[:2])
            obs, reward, ended, cut, info = env.step(
                np.clip(toward_goal(obs), env.action_space.low, env.action_space.high)
            )
            if info["reached"]:
                reached += 1
                assert reward > 1.0
                assert math.hypot(*obs[:2]) != pytest.approx(before, abs=0.2)
            elif not ended:
                progress = before - math.hypot(*obs[:2])
                assert reward == pytest.approx(progress, abs=1e-5)
            if ended or cut:
                break
    assert reached >= 2


def test_a_collision_ends_an_episode_and_costs() -> None:
    env = gymnasium.make(WAYPOINTS)
    env.reset(seed=0)
    while True:
        _, reward, ended, cut, info = env.step(np.array([1.0, 0.0], np.float32))
        if ended or cut:
            break
    assert ended and info["collision"] and reward < -4


def test_nothing_stands_where_the_rover_starts() -> None:
    env = gymnasium.make(WAYPOINTS)
    for seed in range(30):
        obs, _ = env.reset(seed=seed)
        assert obs[4:].min() > 0.5
        _, _, ended, *_ = env.step(np.zeros(2, np.float32))
        assert not ended


@pytest.mark.parametrize(
    "task", [{"wheel_slip": 0.3}, {"mass_scale": 5.0}, {"wheel_error": (0.1, -0.1)}]
)
def test_rovers_of_a_family_drive_otherwise(task: dict[str, Any]) -> None:
    def at(**make: Any) -> Any:
        env = gymnasium.make(WAYPOINTS, obstacles=0, **make)
        env.reset(seed=2)
        for _ in range(10):
            env.step(np.array([0.4, 0.0], np.float32))
        return env.unwrapped._rover.pose()

    assert math.dist(at(**task), at()) > 0.02


def test_what_it_observes_is_what_a_robot_has_under_the_same_names() -> None:
    env = gymnasium.make(WAYPOINTS).unwrapped
    spec = RoverDriver().spec
    assert env.observation_names[4:] == spec.channel("scan").fields
    assert list(env.action_names) == [field.name for field in spec.set_point]
    assert env.action_space.low.tolist() == [field.low for field in spec.set_point]
    assert env.action_space.high.tolist() == [field.high for field in spec.set_point]
    obs, _ = env.reset(seed=1)
    pose = env._rover.pose()
    bearing = math.atan2(env.goal[1] - pose[1], env.goal[0] - pose[0]) - pose[2]
    distance = math.dist(env.goal, pose[:2])
    seen = (distance * math.cos(bearing), distance * math.sin(bearing))
    assert obs[:2] == pytest.approx(seen, abs=1e-4)
    assert len(Rover().scan_rad) == len(obs) - 4
