"""The environment `RoverWaypoints-v0`: to one waypoint after another among obstacles."""

import math
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box as Space
from numpy.typing import NDArray

from producers.robots.arena import Arena
from producers.robots.delay import ActionDelay
from producers.robots.specs import scan_fields
from schemas.worlds import Cylinder, Point, Rover, RoverPlacement, World

SIZE_M = 8.0
SEEN = ("goal_forward_m", "goal_left_m", "v_mps", "yaw_rate_radps")
"""What it observes before the scan, by the names that a robot's file has for it."""

Floats = NDArray[np.float32]


def in_body(pose: tuple[float, float, float], point: Point) -> Point:
    """A point of the world as the rover sees it: forward, left."""
    dx, dy = point[0] - pose[0], point[1] - pose[1]
    c, s = math.cos(pose[2]), math.sin(pose[2])
    return c * dx + s * dy, c * dy - s * dx


class RoverWaypoints(gymnasium.Env):  # type: ignore[misc]
    """Metres of progress a step, `reached` at each waypoint, `collision` at the end of an episode.

    Actions are set-points of the driver: speed and yaw rate within the body's limits. `wheel_slip`,
    `mass_scale` and `wheel_error` (left, right) make a family of tasks; the rover's own sensors do
    not show which it is. It sees the next waypoint, its speeds and its scan.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    action_names = ("v_mps", "yaw_rate_radps")

    def __init__(
        self,
        rate_hz: float = 10.0,
        step_ms: float = 5.0,
        wheel_slip: float = 0.0,
        mass_scale: float = 1.0,
        wheel_error: Point = (0.0, 0.0),
        action_delay: int = 0,
        reached: float = 1.0,
        collision: float = -5.0,
        tolerance_m: float = 0.3,
        obstacles: int = 6,
    ) -> None:
        mass = Rover().mass_kg * mass_scale
        body = Rover(mass_kg=mass, slip=wheel_slip, wheel_error=wheel_error)
        self._arena = Arena(_world(body, obstacles), step_ms, movable=True)
        self._rover = self._arena.rovers["rover"]
        self._steps = max(1, round(1000 / rate_hz / step_ms))
        self._reached, self._collision, self._tolerance = reached, collision, tolerance_m
        self._delay = ActionDelay(action_delay, (0.0, 0.0))
        self.observation_names = [*SEEN, *scan_fields(body)]
        shape = (len(self.observation_names),)
        self.observation_space = Space(-np.inf, np.inf, shape, np.float32)
        low = np.array([body.v_min_mps, -body.yaw_rate_max_radps], np.float32)
        high = np.array([body.v_max_mps, body.yaw_rate_max_radps], np.float32)
        self.action_space = Space(low, high, (2,), np.float32)
        self.goal: Point = (0.0, 0.0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Other obstacles, another start, another waypoint."""
        super().reset(seed=seed)
        self._arena.reset()
        self._delay.reset()
        at = self._arena.data.mocap_pos
        for i in range(len(at)):
            at[i, :2] = self._free([])
        self._rover.place(*self._free(at), self.np_random.uniform(-math.pi, math.pi))
        mujoco.mj_forward(self._arena.model, self._arena.data)
        self.goal = self._free(at)
        return self._observe(), {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Drive for one period; the episode ends where the rover touches something."""
        low, high = self.action_space.low, self.action_space.high
        set_point = np.clip(self._delay.after(action), low, high)
        before = math.dist(self._rover.pose()[:2], self.goal)
        self._rover.drive(*set_point)
        for _ in range(self._steps):
            self._arena.step()
        distance = math.dist(self._rover.pose()[:2], self.goal)
        reward, hit, there = before - distance, self._rover.contacts > 0, distance < self._tolerance
        if there:
            self.goal = self._free(self._arena.data.mocap_pos)
        reward += self._reached * there + self._collision * hit
        return self._observe(), float(reward), hit, False, {"reached": there, "collision": hit}

    def _free(self, obstacles: Any) -> Point:
        """A point that is clear of the walls and of the obstacles."""
        while True:
            x, y = self.np_random.uniform(0.8, SIZE_M - 0.8, size=2)
            if all(math.hypot(x - ox, y - oy) > 1.0 for ox, oy, _ in obstacles):
                return float(x), float(y)

    def _observe(self) -> Floats:
        rover = self._rover
        goal = in_body(rover.pose(), self.goal)
        return np.array([*goal, *rover.twist(), *rover.scan()], np.float32)


def _world(body: Rover, obstacles: int) -> World:
    middle = SIZE_M / 2
    return World(
        name="waypoints",
        high=(SIZE_M, SIZE_M),
        rover=body,
        rovers={"rover": RoverPlacement(start=(middle, middle, 0.0))},
        obstacles=[Cylinder(at=(middle, middle), radius_m=0.35) for _ in range(obstacles)],
    )
