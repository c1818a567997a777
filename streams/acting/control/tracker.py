"""Version 0 of a policy: the classical controllers `waypoints` and `rest`."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, pi, sin, sqrt

import numpy as np

from schemas.acting import PolicyRef
from schemas.control import ControllerSpec, Steering
from schemas.ids import digest
from schemas.robots import DriverSpec
from streams.acting.control.avoidance import Way, choose_way
from streams.acting.control.situation import Points, Scanner, Situation

TRACKER = "tracker"
_SCAN_EVERY_MS = 200.0
_CHOOSE_EVERY_MS = 150.0
Pose = tuple[float, float, float]
_SPEED, _YAW_RATE = "v_mps", "yaw_rate_radps"


def tracker_ref(spec: ControllerSpec) -> PolicyRef:
    """How commands name the tracker: its hash is over its settings, for it has no tensors."""
    text = f"{spec.tracker} {spec.steering.model_dump_json()}"
    return PolicyRef(policy=TRACKER, version=0, sha256=digest(text.encode()))


class Obstacles:
    """What the scans of the last seconds hit, in the world frame."""

    def __init__(self, scanner: Scanner | None, range_max_m: float, memory_s: float) -> None:
        self._scanner, self._range_m = scanner, range_max_m
        size = 1 + int(memory_s * 1000 / _SCAN_EVERY_MS)
        self._seen: deque[tuple[float, Points]] = deque(maxlen=size)

    def scans(self, situation: Situation) -> int | None:
        """How many scans have come so far; None where the robot is blind."""
        scanner = self._scanner
        if scanner is None or situation.held(scanner.channel) is None:
            return None
        health = situation.state.channels.get(scanner.channel)
        return health.applied if health else None

    def look(self, situation: Situation) -> Points | None:
        """Take the scan in; all that is near in the body frame, what is out of sight included.

        None where the robot is blind: its scan does not come, or not any more.
        """
        if self._scanner is None or situation.pose is None:
            return np.empty((0, 2))
        here = self._scanner.points(situation, self._range_m)
        if here is None:
            return None
        x, y, heading = situation.pose
        turn = np.array([[cos(heading), sin(heading)], [-sin(heading), cos(heading)]])
        stamp_ms = situation.state.stamp_ms
        remembered = [(points - (x, y)) @ turn.T for _, points in self._seen]
        if not self._seen or abs(stamp_ms - self._seen[-1][0]) >= _SCAN_EVERY_MS:
            self._seen.append((stamp_ms, here @ turn + (x, y)))
        everything: Points = np.concatenate([here, *remembered])
        return everything[np.hypot(everything[:, 0], everything[:, 1]) < self._range_m]


@dataclass(frozen=True)
class _Chosen:
    """A way as it was chosen: when, where, and from which scan to which goal."""

    key: tuple[int | None, tuple[float, float]]
    stamp_ms: float
    pose: Pose
    way: Way

    def holds_at(self, situation: Situation) -> bool:
        """Whether it is fresh, and the robot has gone on since and not back in time."""
        age_ms = situation.state.stamp_ms - self.stamp_ms
        return self.key[0] is not None and 0 <= age_ms <= _CHOOSE_EVERY_MS

    def seen_from(self, pose: Pose) -> Way:
        """The same way from a place a little further on: turned, and so much shorter."""
        gone_m = hypot(pose[0] - self.pose[0], pose[1] - self.pose[1])
        turned = self.way.direction_rad + self.pose[2] - pose[2]
        return Way(
            (turned + pi) % (2 * pi) - pi,
            max(0.0, self.way.free_m - gone_m),
            max(0.0, self.way.ahead_m - gone_m),
            self.way.blocked,
        )


class WaypointTracker:
    """Drives to a goal around obstacles; stops where there is no way."""

    def __init__(self, spec: Steering, driver: DriverSpec) -> None:
        self._spec = spec
        names = [field.name for field in driver.set_point]
        if _SPEED not in names or _YAW_RATE not in names:
            raise ValueError(
                f"controller.tracker: waypoints needs the set-points {_SPEED} and {_YAW_RATE}, "
                f"driver {driver.name} has {', '.join(names)}"
            )
        self._at = names.index(_SPEED), names.index(_YAW_RATE)
        self._driver = driver
        reach_m = spec.look_ahead_m + spec.radius_m + spec.margin_m
        self._obstacles = Obstacles(Scanner.of(driver), reach_m, spec.memory_s)
        self._chosen: _Chosen | None = None

    def set_point(
        self, situation: Situation, goal: tuple[float, float], speed_max_mps: float
    ) -> list[float]:
        """The set-point that leads to a goal in the world; rest where it is blind or lost."""
        pose, spec = situation.pose, self._spec
        if pose is None or situation.position_std_m > spec.position_std_max_m:
            return list(self._driver.rest)
        way = self._way(situation, pose, goal)
        if way is None:
            return list(self._driver.rest)
        speed_mps = 0.0
        if not way.blocked and abs(way.direction_rad) < spec.turn_on_the_spot_rad:
            most_mps = min(speed_max_mps, self._driver.set_point[self._at[0]].high)
            stopping_mps = sqrt(2 * spec.brake_mps2 * min(way.ahead_m, 1e3))
            speed_mps = min(most_mps * cos(way.direction_rad), stopping_mps)
        return self._within(speed_mps, spec.turn_gain * way.direction_rad)

    def _way(self, situation: Situation, pose: Pose, goal: tuple[float, float]) -> Way | None:
        """The way from here; chosen anew with each scan, for between two nothing new is seen."""
        key = (self._obstacles.scans(situation), goal)
        chosen = self._chosen
        if chosen is not None and chosen.key == key and chosen.holds_at(situation):
            return chosen.seen_from(pose)
        points, seen = self._obstacles.look(situation), situation.in_body(goal)
        if points is None or seen is None:
            self._chosen = None
            return None
        last_rad = 0.0 if chosen is None else chosen.seen_from(pose).direction_rad
        look_ahead_m = self._spec.look_ahead_m
        way = choose_way(points, seen, last_rad, self._radius_m(points), look_ahead_m)
        self._chosen = _Chosen(key, situation.state.stamp_ms, pose, way)
        return way

    def _radius_m(self, points: Points) -> float:
        """The disc to keep free: no larger than there is room now, or there would be no way out."""
        spec = self._spec
        nearest = float(np.hypot(points[:, 0], points[:, 1]).min(initial=np.inf))
        return max(spec.radius_m, min(spec.radius_m + spec.margin_m, nearest - 0.01))

    def _within(self, speed_mps: float, yaw_rate_radps: float) -> list[float]:
        values: Sequence[float] = self._driver.rest
        answer = list(values)
        for at, value in zip(self._at, (speed_mps, yaw_rate_radps), strict=True):
            field = self._driver.set_point[at]
            answer[at] = float(min(max(value, field.low), field.high))
        return answer
