"""`ralo mission`: submit, list, show, pause, resume, cancel."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from infra.cli import PLAIN
from infra.cli.mission_file import load_mission
from infra.cli.mission_view import MissionView, View, missions, with_progress
from infra.log import Log
from producers.missions import publish
from schemas.missions import Mission, MissionControl, MissionReport, RobotMission

app = typer.Typer(no_args_is_help=True, **PLAIN)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
MissionId = Annotated[str, typer.Argument(metavar="ID", help="The mission's id.")]

MaybeId = Annotated[str | None, typer.Argument(metavar="[ID]", help="The mission's id.")]

LOOK_EVERY_S = 0.5
SAY_EVERY_S = 5.0


class MissionError(Exception):
    """The mission is not there, or not in a state for this."""


@app.callback()
def mission() -> None:
    """Submit missions, and see and steer what becomes of them."""


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="The mission in YAML.")],
    mission_id: Annotated[
        str | None, typer.Option("--id", help="Its id; the file's name and the time by default.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="The policy, instead of the file's.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Replace a field; may be repeated."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is prepared or rejected.")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Submit a mission; exits 1 when it is rejected."""
    sets = list(overrides or []) + ([f"policy={json.dumps(policy)}"] if policy else [])
    submitted = load_mission(file, mission_id=mission_id, policy=_default_policy(), overrides=sets)
    log = open_log()
    _refuse_used_id(log, submitted)
    publish(log, submitted)
    say(f"submitted {submitted.mission_id} for {_whom(submitted)}")
    wait = wait and isinstance(submitted, Mission)
    report = _await_answer(log, submitted.mission_id, timeout_s) if wait else None
    _print_answer(submitted, report, as_json)
    if report is not None and report.stage == "rejected":
        raise typer.Exit(1)


def _whom(submitted: Mission | RobotMission) -> str:
    if isinstance(submitted, RobotMission):
        return ", ".join(submitted.robots)
    return f"policy {submitted.policy}"


def _refuse_used_id(log: Log, submitted: Mission | RobotMission) -> None:
    used = missions(log, submitted.mission_id).get(submitted.mission_id)
    if used is not None and used.mission != submitted:
        raise MissionError(
            f"{submitted.mission_id} is the id of another mission ({used.phase}): take another --id"
        )


def _await_answer(log: Log, mission_id: str, timeout_s: float) -> MissionReport:
    """The provider's first report; says every few seconds that it is being waited for."""
    began = said = time.monotonic()
    while True:
        view = missions(log, mission_id).get(mission_id)
        for stage in ("rejected", "prepared"):
            if isinstance(view, MissionView) and stage in view.reports:
                return view.reports[stage]
        now = time.monotonic()
        if now - began >= timeout_s:
            raise MissionError(
                f"{mission_id} is submitted, but no provider answered in {timeout_s:g} s: "
                "is one running (`ralo status`)? It will take the mission when it does"
            )
        if now - said >= SAY_EVERY_S:
            said = now
            say(f"waiting for the provider to prepare it ({now - began:.0f} s)")
        time.sleep(min(LOOK_EVERY_S, timeout_s))


def _print_answer(
    submitted: Mission | RobotMission, report: MissionReport | None, as_json: bool
) -> None:
    stage = report.stage if report else "submitted"
    if as_json:
        ids = {"mission_id": submitted.mission_id, "policy": submitted.policy, "stage": stage}
        sizes = {"train_size", "heldout_size", "reason"}
        print(json.dumps(ids | (report.model_dump(include=sizes) if report else {})))
    elif report is None:
        print(submitted.mission_id)
    elif report.stage == "rejected":
        say(f"rejected: {report.reason}")
    else:
        print(
            f"{submitted.mission_id}  prepared: {report.train_size} questions to train on, "
            f"{report.heldout_size} held out ({report.reason})"
        )


@app.command("list")
def list_(
    policy: Annotated[str | None, typer.Option(help="Only this policy's.")] = None,
    as_json: AsJson = False,
) -> None:
    """List missions and where they stand."""
    rows = [view.summary() for view in missions(open_log()).values()]
    rows = [row for row in rows if policy in (None, row["policy"])]
    if as_json:
        print(json.dumps(rows))
        return
    if not rows:
        say("no missions; submit one with `ralo mission submit FILE`")
    widths = {name: max([len(row[name] or "") for row in rows] or [0]) for name in _COLUMNS}
    for row in rows:
        columns = "  ".join(f"{row[name] or '':{widths[name]}}" for name in _COLUMNS)
        print(f"{_time(row['submitted_ms'])}  {columns}  {row['reason']}".rstrip())


_COLUMNS = ("mission_id", "policy", "phase", "outcome")


@app.command()
def show(mission_id: MissionId, as_json: AsJson = False) -> None:
    """Show a mission, what was said of it, and how far it is."""
    log = open_log()
    details = with_progress(log, _find(log, mission_id)).details()
    if as_json:
        print(json.dumps(details))
        return
    import yaml

    details["submitted"] = _time(details.pop("submitted_ms"))
    known = {name: value for name, value in details.items() if value not in (None, [], "")}
    print(yaml.safe_dump(known, sort_keys=False, allow_unicode=True), end="")


@app.command()
def pause(mission_id: MissionId, as_json: AsJson = False) -> None:
    """Stop feeding problems.

    What is in flight goes on for some seconds; then the processors stop, and the rest waits.
    """
    _order(mission_id, "pause", as_json)


@app.command()
def resume(mission_id: MaybeId = None, as_json: AsJson = False) -> None:
    """Feed problems again; without an id, of the newest paused mission.

    Where none is paused, the newest that is not over goes on by itself, and this says so.
    """
    if mission_id is None:
        mission_id = _newest(lambda view: view.phase == "paused", lambda view: not view.over)
    _order(mission_id, "resume", as_json)


@app.command()
def watch(mission_id: MaybeId = None) -> None:
    """Show a mission as it goes, until it ends; without an id, the newest."""
    from infra.cli import live

    log = open_log()
    found = _find(log, mission_id) if mission_id else _find(log, _newest(_is_learning))
    if not _is_learning(found):
        raise MissionError(f"{found.mission.mission_id} is for robots: `ralo robot list` shows it")
    live.watch(log, found.mission.mission_id, live.beginnings(log))


@app.command()
def cancel(
    mission_id: MissionId,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """End a mission for good, paused or not.

    Problems that are not sampled yet are cancelled, sampled groups are learnt from.
    """
    _order(mission_id, "cancel", as_json, reason)


Action = Literal["pause", "resume", "cancel"]


def _order(mission_id: str, action: Action, as_json: bool, reason: str = "") -> None:
    log = open_log()
    view = _find(log, mission_id)
    if view.over or (action == "pause" and view.phase in ("ending", "cancelling")):
        outcome = f" ({view.result.outcome})" if view.result else ""
        raise MissionError(f"{mission_id} is {view.phase}{outcome}: nothing to {action}")
    goes_on = action == "resume" and view.phase != "paused"
    if not goes_on:
        publish(log, MissionControl(mission_id=mission_id, action=action, reason=reason))
    if as_json:
        print(json.dumps({"mission_id": mission_id, "action": action, "phase": view.phase}))
    elif goes_on:
        say(f"{mission_id} is not paused: it goes on ({view.phase}), `ralo mission watch` shows it")
    else:
        say(f"{mission_id}: {action} requested")


def _newest(*wishes: Callable[[View], bool]) -> str:
    """The id of the mission submitted last, of those that the first wish finds that finds any."""
    views = missions(open_log()).values()
    for wish in wishes or (lambda view: True,):
        if found := [view for view in views if wish(view)]:
            return max(found, key=lambda view: view.submitted_ms).mission.mission_id
    raise MissionError("no mission goes on or is paused: `ralo mission list` shows all")


def _is_learning(view: View) -> bool:
    return isinstance(view, MissionView)


def _find(log: Log, mission_id: str) -> View:
    found: Mapping[str, View] = missions(log, mission_id)
    if mission_id not in found:
        raise MissionError(f"no mission {mission_id!r}: `ralo mission list` shows them")
    return found[mission_id]


def open_log() -> Log:
    """The log of the settings."""
    from infra.connect import connect_log
    from infra.settings import settings

    return connect_log(settings())


def _default_policy() -> str:
    from infra.settings import settings

    return settings().policy


def _time(stamp_ms: int) -> str:
    return datetime.fromtimestamp(stamp_ms / 1000).isoformat(" ", "seconds")


def say(line: str) -> None:
    """Print a line of progress on stderr, which leaves stdout to results."""
    print(line, file=sys.stderr, flush=True)
