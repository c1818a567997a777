"""What robots did, from the log alone: ways, errors, commands, swaps, safety, returns.

Pure: it is given decoded records, of each partition in order, and of several partitions in any
order; what belongs together is joined at the end, by the robot's clock within each boot.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pydantic import BaseModel

from consumers.tracks import Errors, Track, dead_reckoned
from schemas.acting import (
    Command,
    Feedback,
    FusedState,
    LoopHealth,
    PolicyRef,
    Reading,
    Release,
    SafetyEvent,
    SensorFrame,
)
from schemas.missions import RobotMissionResult
from schemas.records import Record
from schemas.topics import (
    COMMANDS,
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
    COMMANDS,
    FEEDBACK,
    SAFETY_EVENTS,
    RELEASES,
    MISSION_RESULTS,
)
"""What a report is made from."""

SAFETY_LISTED = 50
PURE_SHARE = 0.9
"""An episode is a version's own where that acted in so many of its steps."""


class VersionReport(BaseModel):
    """What one version of a policy did."""

    policy: str
    version: int
    sha256: str
    commands: int
    """Applied."""
    episodes: int = 0
    """Whole ones that it acted in by itself."""
    mean_return: float | None = None


class SafetyLine(BaseModel):
    """One safety event."""

    wall_ms: float
    before: str
    after: str
    cause: str
    detail: str


class LoopReport(BaseModel):
    """How the control loop kept its periods, over all boots."""

    rate_hz: float
    periods: int
    missed: int
    missed_share: float
    lateness_p99_ms: float
    """The worst that was said."""
    lateness_max_ms: float
    realtime: str


class RobotReport(BaseModel):
    """One robot; positions only where a simulator tells the truth."""

    robot_id: str
    boots: int = 0
    outcome: str = ""
    reason: str = ""
    waypoints: int = 0
    seconds: float = 0.0
    """Of the mission; of the whole time where none is asked for."""
    distance_m: float = 0.0
    rmse_fused_m: float | None = None
    rmse_odometry_m: float | None = None
    rmse_second_m: float | None = None
    """Of a second opinion on the same frames, where one was asked for."""
    contacts: int = 0
    commands: dict[str, int] = {}
    """Issued, and how many had which outcome."""
    longest_gap_ms: float | None = None
    """Between two commands that were applied one after the other."""
    swaps: int = 0
    rollbacks: int = 0
    """After they had come to act."""
    refused: int = 0
    """Offers that never came to act."""
    versions: list[VersionReport] = []
    """In the order in which they first acted."""
    acting: PolicyRef | None = None
    """What acted last, which after a rollback is an older one."""
    mode: str = ""
    modes: dict[str, int] = {}
    """How often each was entered."""
    safety_events: int = 0
    safety: list[SafetyLine] = []
    """The first of them."""
    loop: LoopReport | None = None


Opinion = Callable[[SensorFrame], Sequence[float]]
"""Another filter: given the frames of one boot as they came, it answers x, y, … after each."""


@dataclass
class _Boot:
    """What came of one life of a robot's actuator, by its clock."""

    truth: Track = field(default_factory=Track)
    odometry: Track = field(default_factory=Track)
    """Speed and yaw rate in place of x and y."""
    fused: Track = field(default_factory=Track)
    second: Track = field(default_factory=Track)
    opinion: "Opinion | None" = None
    applied: list[tuple[float, PolicyRef]] = field(default_factory=list)
    rewards: list[tuple[float, int, float, float]] = field(default_factory=list)
    """Time, number, reward, episode."""
    commanded_ms: list[float] = field(default_factory=list)
    """Stamps of the mission's commands."""
    contacts: tuple[float, float] | None = None
    """The first and the greatest count."""
    seqs: dict[str, int] = field(default_factory=dict)
    loop: LoopHealth | None = None
    lateness_ms: tuple[float, float] = (0.0, 0.0)
    """The greatest p99 and the greatest of all."""
    feedback_next: int = 0

    def is_new(self, reading: Reading) -> bool:
        """Whether a reading is no copy of one before."""
        if reading.seq <= self.seqs.get(reading.channel, -1):
            return False
        self.seqs[reading.channel] = reading.seq
        return True

    def window_ms(self, missions_only: bool) -> tuple[float, float] | None:
        """The time to report about; None where the mission was not in this boot."""
        if not missions_only:
            return float("-inf"), float("inf")
        return (min(self.commanded_ms), max(self.commanded_ms)) if self.commanded_ms else None


@dataclass
class _Robot:
    boots: dict[str, _Boot] = field(default_factory=dict)
    issued: dict[int, int] = field(default_factory=dict)
    """One past the last command, of each epoch; each is numbered from 0."""
    counts: Counter[str] = field(default_factory=Counter)
    stages: dict[str, list[str]] = field(default_factory=dict)
    safety_next: int = 0
    safety: list[SafetyEvent] = field(default_factory=list)
    safety_count: int = 0
    modes: Counter[str] = field(default_factory=Counter)
    mode: str = ""
    result: RobotMissionResult | None = None

    def boot(self, boot_id: str) -> _Boot:
        return self.boots.setdefault(boot_id, _Boot())


class ActingReport:
    """Takes in records; `robots` then says what there was, of the mission where one is named."""

    def __init__(
        self,
        robots: Iterable[str] = (),
        mission: str | None = None,
        second: Callable[[], Opinion] | None = None,
    ) -> None:
        self._only = frozenset(robots)
        self._mission, self._second = mission, second
        self._robots: dict[str, _Robot] = {robot: _Robot() for robot in self._only}

    def observe(self, record: Record) -> None:
        """Take in one decoded record."""
        event = record.event
        robot_id = getattr(event, "robot_id", None)
        if robot_id is None or (self._only and robot_id not in self._only):
            return
        robot = self._robots.setdefault(robot_id, _Robot())
        match event:
            case SensorFrame():
                boot = robot.boot(event.boot_id)
                if self._second is not None:
                    boot.opinion = boot.opinion or self._second()
                _frame(boot, event)
            case FusedState():
                _state(robot.boot(event.boot_id), event)
            case Command():
                self._command(robot, event)
            case Feedback():
                _feedback(robot, event)
            case SafetyEvent():
                _safety(robot, event)
            case Release():
                stages = robot.stages.setdefault(event.release_id, [])
                if event.stage not in stages:
                    stages.append(event.stage)
            case RobotMissionResult() if self._mission in (None, event.mission_id):
                robot.result = event

    def _command(self, robot: _Robot, command: Command) -> None:
        if command.seq < robot.issued.get(command.controller_epoch, 0):
            return
        robot.issued[command.controller_epoch] = command.seq + 1
        robot.counts["issued"] += 1
        if self._mission is not None and command.mission_id == self._mission:
            robot.boot(command.boot_id).commanded_ms.append(command.stamp_ms)

    def robots(self) -> dict[str, RobotReport]:
        """The report of each robot, by its id."""
        return {name: self._report(name, robot) for name, robot in sorted(self._robots.items())}

    def _report(self, name: str, robot: _Robot) -> RobotReport:
        windows = {
            id_: window
            for id_, boot in robot.boots.items()
            if (window := boot.window_ms(self._mission is not None)) is not None
        }
        parts = {id_: robot.boots[id_] for id_ in windows}
        found = RobotReport(robot_id=name, boots=len(robot.boots))
        _way(found, parts, windows)
        _acts(found, parts, windows)
        _ended(found, robot)
        found.commands = dict(sorted(robot.counts.items()))
        found.contacts = round(
            sum(
                most - first for b in robot.boots.values() for first, most in [b.contacts or (0, 0)]
            )
        )
        found.loop = _loop(robot.boots.values())
        return found


def acting_report(
    records: Iterable[Record], robots: Iterable[str] = (), mission: str | None = None
) -> dict[str, RobotReport]:
    """What these robots (all, by default) did, as these decoded records tell."""
    report = ActingReport(robots, mission)
    for record in records:
        report.observe(record)
    return report.robots()


# -- taking in ----------------------------------------------------------------------------------


def _frame(boot: _Boot, frame: SensorFrame) -> None:
    if boot.opinion is not None:
        x_m, y_m, *_ = boot.opinion(frame)
        boot.second.add(frame.stamp_ms, x_m, y_m)
    for reading in frame.readings:
        if not boot.is_new(reading):
            continue
        match reading.channel, reading.values:
            case "truth", [x_m, y_m, heading_rad, *_]:
                boot.truth.add(reading.stamp_ms, x_m, y_m, heading_rad)
            case "odometry", [v_mps, yaw_rate_radps]:
                boot.odometry.add(reading.stamp_ms, v_mps, yaw_rate_radps)
            case "contact", [count, *_]:
                first, most = boot.contacts or (count, count)
                boot.contacts = first, max(most, count)
            case "reward", [reward, episode, *_]:
                boot.rewards.append((reading.stamp_ms, reading.seq, reward, episode))


def _state(boot: _Boot, state: FusedState) -> None:
    named = dict(zip(state.names, state.mean, strict=False))
    if "x_m" in named and "y_m" in named:
        boot.fused.add(state.stamp_ms, named["x_m"], named["y_m"])


def _feedback(robot: _Robot, feedback: Feedback) -> None:
    boot = robot.boot(feedback.boot_id)
    if feedback.seq < boot.feedback_next:
        return
    boot.feedback_next = feedback.seq + 1
    robot.mode = feedback.mode
    for outcome in feedback.outcomes:
        robot.counts[outcome.outcome] += 1
        if outcome.outcome == "applied":
            boot.applied.append((outcome.at_ms, outcome.policy))
    if feedback.loop is not None:
        p99_ms, most_ms = boot.lateness_ms
        boot.loop = feedback.loop
        boot.lateness_ms = (
            max(p99_ms, feedback.loop.lateness_p99_ms),
            max(most_ms, feedback.loop.lateness_max_ms),
        )


def _safety(robot: _Robot, event: SafetyEvent) -> None:
    if event.seq < robot.safety_next:
        return
    robot.safety_next = event.seq + 1
    robot.safety_count += 1
    if event.after != event.before:
        robot.modes[event.after] += 1
    if len(robot.safety) < SAFETY_LISTED:
        robot.safety.append(event)


# -- telling ------------------------------------------------------------------------------------

Windows = Mapping[str, tuple[float, float]]
Boots = Mapping[str, _Boot]


def _way(found: RobotReport, boots: Boots, windows: Windows) -> None:
    """How far it went, and how far from the truth it was believed to be."""
    fused, odometry, second = Errors(), Errors(), Errors()
    for id_, boot in boots.items():
        window = windows[id_]
        truth = boot.truth.within(*window)
        believed = boot.fused.within(*window)
        found.distance_m += (truth if len(truth) else believed).length_m()
        fused.add(believed, truth)
        second.add(boot.second.within(*window), truth)
        odometry.add(dead_reckoned(boot.odometry.within(*window), truth), truth)
        times = truth.at_ms if len(truth) else believed.at_ms
        found.seconds += (times[-1] - times[0]) / 1000 if len(times) else 0.0
    found.rmse_fused_m, found.rmse_odometry_m = fused.rmse_m, odometry.rmse_m
    found.rmse_second_m = second.rmse_m


def _acts(found: RobotReport, boots: Boots, windows: Windows) -> None:
    """Which versions acted, how long a command was waited for, and what it was worth."""
    versions: dict[PolicyRef, VersionReport] = {}
    returns: dict[PolicyRef, list[float]] = {}
    gaps = []
    for id_, boot in boots.items():
        start_ms, stop_ms = windows[id_]
        applied = [(at, ref) for at, ref in boot.applied if start_ms <= at <= stop_ms]
        gaps += [b - a for (a, _), (b, _) in pairwise(applied)]
        if applied:
            found.acting = applied[-1][1]
        for _, ref in applied:
            known = versions.setdefault(ref, VersionReport(**ref.model_dump(), commands=0))
            known.commands += 1
        for ref, total in _episodes(boot):
            returns.setdefault(ref, []).append(total)
    for ref, version in versions.items():
        of = returns.get(ref, [])
        version.episodes, version.mean_return = len(of), sum(of) / len(of) if of else None
    found.versions = list(versions.values())
    found.longest_gap_ms = max(gaps, default=None)


def _episodes(boot: _Boot) -> Iterable[tuple[PolicyRef, float]]:
    """The return of each episode that was seen whole, with the version that acted in it."""
    times = [at for at, _ in boot.applied]
    episodes: list[list[tuple[float, int, float, float]]] = []
    for row in boot.rewards:
        if not episodes or episodes[-1][0][3] != row[3]:
            episodes.append([])
        episodes[-1].append(row)
    for rows in episodes[1:-1]:  # The first was joined in its midst, the last is not over.
        acting: Counter[PolicyRef] = Counter()
        for at_ms, *_ in rows:
            index = bisect_right(times, at_ms) - 1
            if index >= 0:
                acting[boot.applied[index][1]] += 1
        whole = rows[-1][1] - rows[0][1] == len(rows) - 1
        ref, steps = next(iter(acting.most_common(1)), (None, 0))
        if ref is not None and whole and steps >= PURE_SHARE * len(rows):
            yield ref, sum(reward for _, _, reward, _ in rows)


def _ended(found: RobotReport, robot: _Robot) -> None:
    """The mission's result, releases and safety."""
    if robot.result is not None:
        found.outcome, found.reason = robot.result.outcome, robot.result.reason
        found.waypoints = robot.result.waypoints
        found.seconds = robot.result.seconds or found.seconds
    for stages in robot.stages.values():
        swapped, back = "SWAPPED" in stages, "ROLLED_BACK" in stages
        found.swaps += swapped
        found.rollbacks += swapped and back
        found.refused += back and not swapped
    found.mode, found.modes = robot.mode, dict(robot.modes)
    found.safety_events = robot.safety_count
    found.safety = [
        SafetyLine(**event.model_dump(include=set(SafetyLine.model_fields)))
        for event in robot.safety
    ]


def _loop(boots: Iterable[_Boot]) -> LoopReport | None:
    """The sums over all boots, each as it was last said."""
    loops = [(boot.loop, boot.lateness_ms) for boot in boots if boot.loop is not None]
    if not loops:
        return None
    periods = sum(loop.periods for loop, _ in loops)
    missed = sum(loop.missed for loop, _ in loops)
    newest = loops[-1][0]
    return LoopReport(
        rate_hz=newest.rate_hz,
        periods=periods,
        missed=missed,
        missed_share=missed / periods if periods else 0.0,
        lateness_p99_ms=max(p99 for _, (p99, _) in loops),
        lateness_max_ms=max(most for _, (_, most) in loops),
        realtime=newest.realtime,
    )
