"""`ralo robot`: check a robot's file, see robots, and give them a person's orders."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli import PLAIN
from infra.cli.robot_keep import down, start
from infra.cli.stack import say
from infra.log import LogError
from infra.settings import Settings, SettingsError, settings

if TYPE_CHECKING:
    from consumers.robots_view import RobotView
    from infra.log import Log
    from schemas.acting import OperatorOrder, SafetyEvent

app = typer.Typer(no_args_is_help=True, **PLAIN)

RobotId = Annotated[str, typer.Argument(metavar="ID", help="The robot's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the log.")]

LOCAL_S = 2.0
"""An actuator on this machine looks for orders many times a second."""
LOG_S = 15.0
LOOK_EVERY_S = 0.1
RECENT_S = 5.0
EVENTS_SHOWN = 5


class RobotError(Exception):
    """The robot did not confirm, or is not there; says what to look at."""


@app.callback()
def robot() -> None:
    """Check robots' files, run robots, see them, stop and reset them."""


app.command()(start)
app.command()(down)


# --- orders


@app.command()
def stop(robot_id: RobotId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Stop a robot: SAFE_STOP until it is reset."""
    _order(robot_id, "stop", reason, as_json)


@app.command()
def reset(robot_id: RobotId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Let a robot that was stopped go on with its next command; refused while a cause persists."""
    _order(robot_id, "reset", reason, as_json)


@app.command()
def terminate(
    robot_id: RobotId,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop a robot for good: nothing leads out of TERMINATED, and a mended robot gets a new id."""
    if not yes:
        typer.confirm(f"{robot_id} will never act again under this id. Terminate it?", abort=True)
    _order(robot_id, "terminate", reason, as_json)


def _order(robot_id: str, action: str, reason: str, as_json: bool) -> None:
    from schemas.acting import OperatorOrder

    order = OperatorOrder.model_validate(
        {
            "robot_id": robot_id,
            "order_id": f"{action}-{uuid.uuid4().hex[:8]}",
            "action": action,
            "reason": reason,
        }
    )
    config = settings()
    event = _by_disk(order, config) or _by_log(order, config)
    if as_json:
        print(event.model_dump_json())
    else:
        print(f"{robot_id}: {event.before} → {event.after}: {event.cause}, {event.detail}")
    if event.cause == "reset-refused":
        raise typer.Exit(1)


def _by_disk(order: OperatorOrder, config: Settings) -> SafetyEvent | None:
    """Give the order to an actuator of this machine, whatever the log does; None without one."""
    from infra.robot.orders import give, robot_folder, take_back
    from infra.robot.spool import newest_event

    folder = robot_folder(config, order.robot_id)
    if not folder.is_dir():
        return None
    give(folder, order)

    def confirmed() -> SafetyEvent | None:
        return newest_event(folder, order.order_id)

    event = _until(confirmed, LOCAL_S)
    if event is None and not take_back(folder, order):
        event = _until(confirmed, LOCAL_S)
    return event


def _by_log(order: OperatorOrder, config: Settings) -> SafetyEvent:
    """Give the order by the log; raises `RobotError` where no robot confirms it."""
    from infra.connect import connect_log
    from infra.envelope import message

    log = connect_log(config)
    say(f"{order.robot_id} runs not on this machine: the order goes by the log")
    log.append([message(order)])
    event = _until(lambda: _confirmed(log, order), LOG_S)
    if event is None:
        raise RobotError(
            f"{order.robot_id} has not confirmed the order within {LOG_S:.0f} s; it lies in the "
            "log, and a stop is carried out when the actuator comes back: look at "
            f"`ralo robot show {order.robot_id}`"
        )
    return event


def _confirmed(log: Log, order: OperatorOrder) -> SafetyEvent | None:
    found = (e for e in _safety_events(log, order.robot_id, 50) if order.order_id in e.detail)
    return next(found, None)


def _safety_events(log: Log, robot_id: str, count: int) -> list[SafetyEvent]:
    from infra.robot.delivery import newest_records
    from schemas.acting import SafetyEvent
    from schemas.topics import SAFETY_EVENTS, decode

    records = newest_records(log, SAFETY_EVENTS, robot_id, count)
    events = (decode(SAFETY_EVENTS.name, record.value) for record in records)
    return [event for event in events if isinstance(event, SafetyEvent)]


def _until(look: Callable[[], SafetyEvent | None], limit_s: float) -> SafetyEvent | None:
    until_s = time.monotonic() + limit_s
    while True:
        event = look()
        if event is not None or time.monotonic() > until_s:
            return event
        time.sleep(LOOK_EVERY_S)


# --- what is there


@app.command("list")
def list_robots(as_json: AsJson = False) -> None:
    """List the robots that the log or this machine knows, and how they are."""
    from infra.connect import connect_log
    from infra.robots import read_kept

    config = settings()
    log = connect_log(config)
    names = sorted({*read_kept(config).robots, *_seen(log)})
    rows = [_view(log, name) for name in names]
    if as_json:
        print(json.dumps([_document(row) for row in rows]))
        return
    for row in rows:
        print(_line(row))
    if not rows:
        say("no robots: `ralo robot start FILE` starts one")


@app.command()
def show(robot_id: RobotId, as_json: AsJson = False) -> None:
    """Show a robot: mode, place, what acts, how its loop keeps time, its last safety events."""
    from infra.connect import connect_log

    log = connect_log(settings())
    view = _view(log, robot_id)
    events = _safety_events(log, robot_id, EVENTS_SHOWN)
    if view.mode is None and not events:
        raise RobotError(f"the log knows no robot {robot_id}: `ralo robot list` shows all")
    if as_json:
        said = [event.model_dump(mode="json") for event in events]
        print(json.dumps({**_document(view), "safety_events": said}))
        return
    print(_line(view))
    if view.loop and view.loop.realtime:
        print(f"  loop at {view.loop.rate_hz:g} Hz: {view.loop.realtime}")
    for event in events:
        print(f"  {event.seq}: {event.before} → {event.after}: {event.cause}, {event.detail}")


def _seen(log: Log) -> set[str]:
    """Robots that gave feedback of late, in each partition."""
    from infra.robot.delivery import records_between
    from schemas.topics import FEEDBACK

    found: set[str] = set()
    for partition, (first, end) in log.ends(FEEDBACK.name).items():
        start = max(first, end - 2000)
        if start < end:
            records = records_between(log, partition, start)
            found |= {record.key.decode() for record in records if record.key}
    return found


def _view(log: Log, robot_id: str) -> RobotView:
    from consumers.read import decoded
    from consumers.robots_view import RobotsView
    from infra.robot.delivery import newest_records
    from schemas.topics import FEEDBACK, FUSED_STATES, RELEASES, SAFETY_EVENTS

    view = RobotsView((robot_id,))
    # Health comes once a second: so much feedback has it.
    for topic, count in ((FUSED_STATES, 1), (FEEDBACK, 50), (SAFETY_EVENTS, 1), (RELEASES, 1)):
        for record in newest_records(log, topic, robot_id, count):
            view.observe(decoded(record))
    return view.robots[robot_id]


def _line(view: RobotView) -> str:
    from infra.cli.robots_live import line_of

    ago_s = time.time() - view.seen_ms / 1000
    silent = f"  silent for {ago_s:,.0f} s" if view.mode and ago_s > RECENT_S else ""
    return line_of(view) + silent


def _document(view: RobotView) -> dict[str, Any]:
    return {
        "robot_id": view.robot_id,
        "boot_id": view.boot_id,
        "mode": view.mode,
        "cause": view.cause,
        "pose": view.pose,
        "policy": view.policy.model_dump() if view.policy else None,
        "commands_hz": view.commands_hz,
        "loop": view.loop.model_dump() if view.loop else None,
        "release": view.release,
        "seen_s_ago": round(time.time() - view.seen_ms / 1000, 1) if view.mode else None,
    }


# --- files


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The robot's file.")], as_json: AsJson = False
) -> None:
    """Check a robot's file: its fields, placement, driver, safety watches and fusion."""
    try:
        document = _checked(file, settings())
    except (SettingsError, LogError) as error:
        raise RobotError(str(error)) from error
    if as_json:
        print(json.dumps(document))
        return
    print(f"{file}: robot {document['robot_id']} is sound")
    print(f"  driver {document['driver']}: {', '.join(document['channels'])}")
    print(
        f"  places: {', '.join(f'{name} on the {at}' for name, at in document['places'].items())}"
    )
    for name, seconds in document["holds_after_s"].items():
        print(f"  HOLD when {name} is silent for {seconds:g} s")


def _checked(file: Path, config: Settings) -> dict[str, Any]:
    from infra.cli.robot_processes import check_fusion, check_watches, driver_of, usable
    from streams.acting.placement import places
    from streams.acting.watches import stale_limits_s

    robot = usable(file)
    driver = driver_of(robot, config)
    check_watches(robot, driver)
    check_fusion(robot)
    safety = robot.safety
    silence = {"the controller": safety.scaled_ms(safety.silence_hold_s) / 1000}
    sources = stale_limits_s(safety, driver.spec)
    stale = {name: safety.scaled_ms(seconds) / 1000 for name, seconds in sources.items()}
    return {
        "robot_id": robot.robot_id,
        "driver": driver.spec.name,
        "channels": [channel.name for channel in driver.spec.channels],
        "set_point": [field.name for field in driver.spec.set_point],
        "places": places(robot.placement),
        "holds_after_s": silence | stale,
    }
