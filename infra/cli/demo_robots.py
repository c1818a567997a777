"""What the demos of robots share: have them run for a while, and see them through a mission."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from consumers.read import decoded, read_until
from consumers.robots_view import RobotsView
from infra import robots, supervision
from infra.cli import robots_live
from infra.cli.stack import say
from infra.embedded.process import tail
from infra.envelope import message
from infra.log import Log
from infra.settings import Settings
from producers.missions import publish
from schemas.acting import OperatorOrder
from schemas.missions import Mission, MissionControl, RobotMission
from schemas.records import Partition, Record

if TYPE_CHECKING:
    from consumers.acting_report import Opinion

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
READY_S = 60.0
RESET_EVERY_S = 2.0

Ends = Mapping[Partition, int]


class NotReady(Exception):
    """A robot does not report; the message has the end of its logs."""


def mission_name(kind: str) -> str:
    """A name for this run's mission and policy."""
    return f"demo-{kind}-{datetime.now():%Y%m%d-%H%M%S}"


def files_for(
    config: Settings, template: Path, ids: Sequence[str], policy: str | None = None
) -> list[Path]:
    """A file for each of several robots that differ in nothing but their names."""
    folder = config.state_dir / "robots"
    folder.mkdir(parents=True, exist_ok=True)
    document = yaml.safe_load(template.read_text())
    if policy is not None:
        document["controller"]["policy"] = policy
    paths = [folder / f"{id_}.yaml" for id_ in ids]
    for id_, path in zip(ids, paths, strict=True):
        path.write_text(yaml.safe_dump({**document, "robot_id": id_}, sort_keys=False))
    return paths


def world_for(config: Settings, template: Path, kind: str, ids: Sequence[str]) -> Path:
    """A world like that of a file, whose robots of one kind have these ids."""
    document = yaml.safe_load(template.read_text())
    document[kind] = dict(zip(ids, document[kind].values(), strict=True))
    path = config.state_dir / "robots" / f"world-{ids[0]}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@contextlib.contextmanager
def running(
    config: Settings, log: Log, files: Sequence[Path], world: Path
) -> Iterator[tuple[RobotsView, Ends]]:
    """Robots that report, in a world, as long as this lasts; and where the log was before them."""
    start = ends(log)
    kept = [robot.robot_id for robot in robots.keep(config, files, [world])]
    try:
        say(f"starting {', '.join(kept)} in the world {world.stem}")
        view = RobotsView(tuple(kept))
        with_limit = Deadline(READY_S)
        robots_live.watch(log, view, start, lambda v: all_report(v) or with_limit.over())
        if not all_report(view):
            raise NotReady(_why(config, view))
        yield RobotsView(tuple(kept)), start
    finally:
        robots.release(config, kept)


class Operator:
    """Who resets robots that hold because commands came late: on a laptop that does all, they may.

    Whatever else they hold for is theirs to show.
    """

    def __init__(self, log: Log) -> None:
        self._log, self.resets = log, 0
        self._next_s: dict[str, float] = {}

    def look(self, view: RobotsView) -> None:
        """Reset those that hold for silence, each every other second at most."""
        now_s = time.monotonic()
        for robot in view.robots.values():
            holds = robot.mode in ("HOLD", "SAFE_STOP") and robot.cause.startswith("silence")
            if holds and now_s >= self._next_s.get(robot.robot_id, 0.0):
                self._next_s[robot.robot_id] = now_s + RESET_EVERY_S
                self._reset(robot.robot_id)

    def _reset(self, robot_id: str) -> None:
        order = OperatorOrder(
            robot_id=robot_id,
            order_id=f"reset-{uuid.uuid4().hex[:8]}",
            action="reset",
            reason="commands came late while all ran on one machine",
        )
        self._log.append([message(order)])
        self.resets += 1


def all_report(view: RobotsView) -> bool:
    """Whether every robot has said its mode, and fusion where it is."""
    return all(robot.mode is not None and robot.pose for robot in view.robots.values())


def all_through(view: RobotsView, mission_id: str) -> bool:
    """Whether this mission has ended for every robot."""
    results = [robot.result for robot in view.robots.values()]
    return all(result is not None and result.mission_id == mission_id for result in results)


def _why(config: Settings, view: RobotsView) -> str:
    silent = [r.robot_id for r in view.robots.values() if r.mode is None or not r.pose]
    logs = [supervision.log_file(config, f"actuator@{robot}") for robot in silent]
    words = "\n".join(f"{log}:\n{tail(log)}" for log in logs if log.exists())
    return f"{', '.join(silent)} did not report within {READY_S:.0f} s\n{words}"


@contextlib.contextmanager
def submitted(log: Log, mission: Mission | RobotMission) -> Iterator[None]:
    """A mission that is cancelled when this ends before it."""
    publish(log, mission)
    say(f"submitted {mission.mission_id}")
    try:
        yield
    finally:
        control = MissionControl(mission_id=mission.mission_id, action="cancel", reason="the end")
        publish(log, control)


class Deadline:
    """A moment after which there is no more waiting."""

    def __init__(self, seconds: float) -> None:
        self._began_s, self._seconds = time.monotonic(), seconds

    def elapsed_s(self) -> float:
        """How long it has been."""
        return time.monotonic() - self._began_s

    def over(self) -> bool:
        """Whether it has passed."""
        return self.elapsed_s() > self._seconds


def figures(
    log: Log,
    mission_id: str,
    start: Ends,
    ids: Sequence[str],
    second: Callable[[], Opinion] | None = None,
) -> dict[str, Any]:
    """What the log says of these robots since `start`."""
    from consumers.acting_report import ActingReport

    report = ActingReport(ids, mission_id, second)
    for record in since(log, start):
        report.observe(record)
    rows = {name: robot.model_dump() for name, robot in report.robots().items()}
    return {
        "mission": mission_id,
        "robots": rows,
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
    }


def ends(log: Log) -> Ends:
    """Where all topics of a report end now."""
    from consumers.acting_report import TOPICS

    return {p: end for topic in TOPICS for p, (_, end) in log.ends(topic.name).items()}


def since(log: Log, start: Ends) -> Iterator[Record]:
    """The decoded records from `start` on, as far as the log goes now."""
    now = ends(log)
    return map(decoded, read_until(log, {p: (first, now[p]) for p, first in start.items()}))


def write(figures: Mapping[str, Any], report: Path | None) -> None:
    """Write the figures where they are wanted."""
    if report is not None:
        report.write_text(json.dumps(figures, indent=2) + "\n")
        say(f"figures: {report}")
