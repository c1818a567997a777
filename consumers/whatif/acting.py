"""Recorded frames fused again with other settings, and the commands that would have followed.

Open loop: the robot went where its recorded commands took it, whatever others would have done.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from consumers.selection import Range, Selection
from consumers.whatif.errors import BadWhatIf
from infra.log import Log
from schemas.acting import Command, FusedState, SensorFrame
from schemas.fusion import FusionSpec
from schemas.missions import RobotMissionReport, RobotMissionResult
from schemas.records import Partition, Record
from schemas.robot_file import RobotFile
from schemas.robots import DriverSpec
from schemas.topics import (
    COMMANDS,
    FEEDBACK,
    FUSED_STATES,
    MISSION_RESULTS,
    MISSIONS,
    SAFETY_EVENTS,
    SENSOR_FRAMES,
)

Key = tuple[str, int]
"""A state's boot and frame, which its commands name too."""
E = TypeVar("E")


@dataclass(frozen=True)
class RobotLog:
    """What the log has of one robot: frames, and what was made of them; in order."""

    robot_id: str
    frames: Sequence[Record]
    states: Sequence[Record]
    commands: Sequence[Record] = ()
    others: Sequence[Record] = ()
    """What its controller reads beside states."""


def read_robot_log(log: Log, robot_id: str, range: Range, commands: bool) -> RobotLog:
    """Read a robot's frames of a range, and all that followed from them; raises `BadWhatIf`."""
    frames = list(_records(log, SENSOR_FRAMES.name, robot_id, range))
    if not frames:
        raise BadWhatIf(f"{robot_id}: no sensor frames of it in that range of the log")
    keys = {(f.boot_id, f.seq) for f in events(frames, SensorFrame)}
    states = [
        record
        for record in _records(log, FUSED_STATES.name, robot_id)
        if isinstance(record.event, FusedState) and _key(record.event) in keys
    ]
    if not commands:
        return RobotLog(robot_id, frames, states)
    followed = [
        record
        for record in _records(log, COMMANDS.name, robot_id)
        if isinstance(record.event, Command) and _key(record.event) in keys
    ]
    return RobotLog(robot_id, frames, states, followed, list(_others(log, robot_id, frames)))


def robots_of(log: Log, range: Range) -> list[str]:
    """The robots that have frames in a range."""
    frames = Selection((SENSOR_FRAMES.name,), range, raw=True).records(log)
    return sorted({(record.key or b"").decode(errors="replace") for record in frames})


def events(records: Iterable[Record], kind: type[E]) -> list[E]:
    """The events of a kind."""
    return [record.event for record in records if isinstance(record.event, kind)]


def _records(log: Log, topic: str, key: str | None, range: Range | None = None) -> Iterator[Record]:
    return Selection((topic,), range or Range(), key=key).records(log)


def _others(log: Log, robot_id: str, frames: Sequence[Record]) -> Iterator[Record]:
    """What a controller reads beside states; its own word of missions only before the frames."""
    since_ms = frames[0].timestamp_ms
    own = (RobotMissionReport, RobotMissionResult)
    for topic in (MISSIONS.name, MISSION_RESULTS.name):
        for record in _records(log, topic, None):
            if record.timestamp_ms < since_ms or not isinstance(record.event, own):
                yield record
    for topic in (FEEDBACK.name, SAFETY_EVENTS.name):
        yield from _records(log, topic, robot_id)


def _key(event: FusedState | Command) -> Key:
    return event.boot_id, event.frame_seq


# -- fusion ---------------------------------------------------------------------------------


def fuse_again(frames: Iterable[Record], robot_id: str, spec: FusionSpec) -> list[FusedState]:
    """The states that the product's fusion makes of these frames; raises `FusionError`."""
    from streams.acting.fusion import SensorFusion

    fusion = SensorFusion({robot_id: spec})
    return [state for record in frames for state in fusion.take(record)]


@dataclass(frozen=True)
class Fused:
    """How well one side knew where the robot was; distances in metres, None without a truth."""

    states: int
    rmse_m: float | None
    largest_m: float | None
    points: int
    channels: Mapping[str, Mapping[str, float]]
    """Of each channel: readings applied and rejected, mean normalised innovation squared."""

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {**vars(self), "channels": {n: dict(c) for n, c in self.channels.items()}}


def fused(states: Sequence[FusedState], frames: Sequence[SensorFrame]) -> Fused:
    """The figures of these states against the truth in the frames, over all boots."""
    from streams.acting.fusion.score import score, track_of_channel, track_of_states

    squares, largest, points = 0.0, 0.0, 0
    for boot in dict.fromkeys(state.boot_id for state in states):
        track = track_of_states(s for s in states if s.boot_id == boot)
        truth = track_of_channel(f for f in frames if f.boot_id == boot)
        try:
            found = score(track, truth)
        except ValueError:
            continue  # This boot has no truth.
        squares += found.rmse_m**2 * found.points
        largest, points = max(largest, found.largest_m), points + found.points
    rmse = math.sqrt(squares / points) if points else None
    return Fused(len(states), rmse, largest if points else None, points, _channels(states))


def _channels(states: Sequence[FusedState]) -> dict[str, dict[str, float]]:
    newest = {state.boot_id: state for state in states}.values()
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for state in newest for name in state.channels):
        health = [state.channels[name] for state in newest if name in state.channels]
        applied = sum(one.applied for one in health)
        nis = sum((one.nis_mean or 0.0) * one.applied for one in health)
        rejected = sum(one.rejected for one in health)
        found[name] = {"applied": applied, "rejected": rejected}
        if any(one.nis_mean is not None for one in health):
            found[name]["nis_mean"] = nis / max(applied, 1)
    return found


@dataclass(frozen=True)
class Refused:
    """The recorded states beside those of other settings.

    `same` states are equal to the last bit; `apart_m` is how far two states of one frame are
    apart at most.
    """

    recorded: Fused
    whatif: Fused
    same: int
    apart_m: float

    def to_json(self) -> dict[str, Any]:
        """Both sides."""
        both = {"recorded": self.recorded.to_json(), "whatif": self.whatif.to_json()}
        return {**both, "states_same": self.same, "apart_m": self.apart_m}


def compare_states(robot: RobotLog, again: Sequence[FusedState]) -> Refused:
    """Both sides of a re-fusion."""
    frames, recorded = events(robot.frames, SensorFrame), events(robot.states, FusedState)
    theirs = {_key(state): state for state in recorded}
    pairs = [(theirs[_key(state)], state) for state in again if _key(state) in theirs]
    same = sum((a.mean, a.covariance) == (b.mean, b.covariance) for a, b in pairs)
    apart = max((math.dist(a.mean[:2], b.mean[:2]) for a, b in pairs), default=0.0)
    return Refused(fused(recorded, frames), fused(again, frames), same, apart)


# -- control --------------------------------------------------------------------------------


def decide_again(
    robot: RobotLog, file: RobotFile, driver: DriverSpec, states: Sequence[FusedState]
) -> list[Command]:
    """The commands that the product's controller gives for these states, told what it was told.

    A state comes when the recorded one of its frame came. Raises `BadWhatIf` for a robot that acts
    under a learnt policy: which version, and what noise it explored with, are not in its states.
    """
    from streams.acting.control.controller import Controller

    if file.controller.policy:
        raise BadWhatIf(
            f"{robot.robot_id} acts under the policy {file.controller.policy}: only the commands "
            "of a tracker can be decided again; leave `controller` out"
        )
    controller = Controller(file, driver, epoch=0)
    since_ms = robot.frames[0].timestamp_ms
    commands: list[Command] = []
    next_tick_ms = float(since_ms)
    for record in _in_time(robot, states):
        if record.timestamp_ms < since_ms:
            controller.replay(record)
            continue
        while controller.tick_ms and next_tick_ms <= record.timestamp_ms:
            commands += (c for c in controller.tick(next_tick_ms) if isinstance(c, Command))
            next_tick_ms += controller.tick_ms
        commands += (c for c in controller.take(record) if isinstance(c, Command))
    return commands


def _in_time(robot: RobotLog, states: Sequence[FusedState]) -> list[Record]:
    came: dict[Key, int] = {}
    for record in (*robot.frames, *robot.states):
        match record.event:
            case SensorFrame() as frame:
                came[frame.boot_id, frame.seq] = record.timestamp_ms
            case FusedState() as state:
                came[_key(state)] = record.timestamp_ms
    at = Partition(FUSED_STATES.name, 0)
    records = [
        Record(at, n, None, None, {}, came[_key(state)], state) for n, state in enumerate(states)
    ]
    return sorted([*robot.others, *records], key=lambda record: record.timestamp_ms)


@dataclass(frozen=True)
class Decided:
    """The recorded commands beside others, matched by the frame that they follow from.

    `first` is where the first recorded command lies that would differ; `largest` is the largest
    difference of each part of the set-point, in its unit.
    """

    recorded: int
    whatif: int
    same: int
    differ: int
    first: str | None
    largest: Sequence[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {**vars(self), "largest": list(self.largest)}


def compare_commands(recorded: Sequence[Record], again: Sequence[Command]) -> Decided:
    """How many commands would differ, where first, and by how much."""
    theirs: dict[Key, tuple[Record, Command]] = {}
    for record in recorded:
        if isinstance(record.event, Command):
            theirs.setdefault(_key(record.event), (record, record.event))
    ours = {_key(command): command for command in again}
    differ, first, largest = 0, None, list[float]()
    for key, (record, command) in theirs.items():
        other = ours.get(key)
        if other is None or other.set_point == command.set_point:
            continue
        differ, first = differ + 1, first or record.at
        gaps = [abs(a - b) for a, b in zip(command.set_point, other.set_point, strict=True)]
        largest = [max(pair) for pair in zip(largest or gaps, gaps, strict=True)]
    both = len(theirs.keys() & ours.keys())
    return Decided(len(theirs), len(ours), both - differ, differ, first, largest)
