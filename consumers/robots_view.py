"""Robots as the log shows them now: mode, place, what acts, how far their mission is.

Pure: it is given decoded records in the order of the log and keeps the newest of each.
"""

from collections import deque
from dataclasses import dataclass, field

from schemas.acting import (
    Feedback,
    FusedState,
    LoopHealth,
    Mode,
    PolicyRef,
    Release,
    SafetyEvent,
    SensorFrame,
)
from schemas.missions import RobotMissionResult
from schemas.records import Record
from schemas.topics import (
    FEEDBACK,
    FUSED_STATES,
    MISSION_RESULTS,
    RELEASES,
    SAFETY_EVENTS,
    SENSOR_FRAMES,
    Topic,
)

TOPICS: tuple[Topic, ...] = (
    SENSOR_FRAMES,
    FUSED_STATES,
    FEEDBACK,
    SAFETY_EVENTS,
    RELEASES,
    MISSION_RESULTS,
)
TRACE = 4000
"""Places kept of each robot."""


@dataclass
class RobotView:
    """One robot."""

    robot_id: str
    boot_id: str = ""
    mode: Mode | None = None
    cause: str = ""
    pose: dict[str, float] = field(default_factory=dict)
    trace: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=TRACE))
    policy: PolicyRef | None = None
    applied: int = 0
    not_applied: int = 0
    commands_hz: float = 0.0
    loop: LoopHealth | None = None
    swaps: int = 0
    rollbacks: int = 0
    release: str = ""
    contacts: int = 0
    returns: dict[str, list[float]] = field(default_factory=dict)
    """Return of each whole episode, by the version that acted at its end."""
    result: RobotMissionResult | None = None
    seen_ms: float = 0.0
    _episode: tuple[float, float, int] = (-1.0, 0.0, 0)
    _applied_at_ms: deque[float] = field(default_factory=lambda: deque(maxlen=100))

    @property
    def acting(self) -> str:
        """The policy and version that acts."""
        return f"{self.policy.policy} {self.policy.version}" if self.policy else "-"

    def feedback(self, event: Feedback) -> None:
        """What it did."""
        self.boot_id, self.mode, self.seen_ms = event.boot_id, event.mode, event.wall_ms
        self.policy = event.policy or self.policy
        self.loop = event.loop or self.loop
        for outcome in event.outcomes:
            if outcome.outcome == "applied":
                self.applied += 1
                self._applied_at_ms.append(outcome.at_ms)
            else:
                self.not_applied += 1
        times = self._applied_at_ms
        if len(times) > 1 and times[-1] > times[0]:
            self.commands_hz = 1000 * (len(times) - 1) / (times[-1] - times[0])

    def state(self, event: FusedState) -> None:
        """Where it is."""
        self.pose = dict(zip(event.names, event.mean, strict=False))
        if "x_m" in self.pose and "y_m" in self.pose:
            self.trace.append((self.pose["x_m"], self.pose["y_m"]))

    def frame(self, event: SensorFrame) -> None:
        """What it touched, and what that was worth."""
        for reading in event.readings:
            if reading.channel == "contact":
                self.contacts = int(reading.values[0])
            elif reading.channel == "reward":
                self._reward(reading.values[0], reading.values[1])

    def _reward(self, reward: float, episode: float) -> None:
        """Add a step's reward; an episode that was seen from another's end to its own is whole."""
        current, total, wholes = self._episode
        if episode == current:
            self._episode = (current, total + reward, wholes)
            return
        if wholes > 0:
            self.returns.setdefault(self.acting, []).append(total)
        self._episode = (episode, reward, wholes + (current >= 0))

    def released(self, event: Release) -> None:
        """What comes to act, or went."""
        before, self.release = self.release, f"{event.version} {event.stage}"
        if self.release != before:  # Else it was said again, the log having been away.
            self.swaps += event.stage == "SWAPPED"
            self.rollbacks += event.stage == "ROLLED_BACK"


class RobotsView:
    """All robots, by id."""

    def __init__(self, robots: tuple[str, ...] = ()) -> None:
        self.robots: dict[str, RobotView] = {robot: RobotView(robot) for robot in robots}

    def observe(self, record: Record) -> None:
        """Take in one decoded record."""
        event = record.event
        robot = getattr(event, "robot_id", None)
        if robot is None:
            return
        view = self.robots.setdefault(robot, RobotView(robot))
        match event:
            case Feedback():
                view.feedback(event)
            case FusedState():
                view.state(event)
            case SensorFrame():
                view.frame(event)
            case SafetyEvent():
                view.cause = f"{event.cause} {event.detail}".strip()
            case Release():
                view.released(event)
            case RobotMissionResult():
                view.result = event
