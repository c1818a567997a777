"""What-ifs of fusion and control: recorded frames fused again, commands decided again."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consumers.whatif.errors import BadWhatIf
from infra.cli.whatif import Progress, read_yaml
from infra.settings import Settings, settings

if TYPE_CHECKING:
    from consumers.selection import Selection
    from consumers.whatif.acting import Decided, Fused, Refused, RobotLog
    from infra.log import Log
    from schemas.robot_file import RobotFile

Found = dict[str, Any]


def acting(
    selection: Selection,
    through: Sequence[str],
    changes: Sequence[str],
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Fuse recorded frames again, and with `controller` decide again; print both sides."""
    from consumers.whatif.acting import robots_of
    from infra.connect import connect_log

    if selection.where or selection.mission or selection.headers:
        raise BadWhatIf("frames are selected by --key ROBOT and by a range: leave the rest out")
    config, progress = settings(), Progress()
    log = connect_log(config)
    ids = [selection.key] if selection.key else robots_of(log, selection.range)
    if not ids:
        raise BadWhatIf("no sensor frames in that range of the log; `ralo demo rovers` makes some")
    found = {}
    for n, robot_id in enumerate(ids):
        progress(f"{robot_id}, {n:,} of {len(ids):,} robots done")
        document, differences = _document(config, robot_id, changes, config_file)
        found[robot_id] = {
            "changed": differences,
            **_again(log, selection, robot_id, document, "controller" in through),
        }
    progress.end()
    if as_json:
        plain = {name: _plain(one) for name, one in found.items()}
        print(json.dumps({"robots": plain, "seconds": round(progress.elapsed_s, 1)}, indent=2))
    else:
        _show(found)


def _again(
    log: Log, selection: Selection, robot_id: str, document: Mapping[str, Any], controller: bool
) -> Found:
    from consumers.whatif.acting import compare_states, events, fuse_again, read_robot_log
    from schemas.acting import SensorFrame

    spec, file = _spec(robot_id, document, controller)
    robot = read_robot_log(log, robot_id, selection.range, controller)
    again = fuse_again(robot.frames, robot_id, spec)
    found: Found = {
        "frames": len(robot.frames),
        "first_frame": events(robot.frames, SensorFrame)[0].seq,
        "fusion": compare_states(robot, again),
    }
    return found | (_commands(robot, file, again) if file else {})


def _commands(robot: RobotLog, file: RobotFile, again: Sequence[Any]) -> Found:
    """What would differ; and what does so by itself, the same states being decided on again."""
    from consumers.whatif.acting import compare_commands, decide_again, events
    from infra.cli.robot_processes import driver_of
    from schemas.acting import FusedState

    driver = driver_of(file, settings()).spec
    recorded = events(robot.states, FusedState)
    sides = {"commands": again, "commands_on_recorded_states": recorded}
    return {
        name: compare_commands(robot.commands, decide_again(robot, file, driver, states))
        for name, states in sides.items()
    }


# -- settings -------------------------------------------------------------------------------


def _document(
    config: Settings, robot_id: str, changes: Sequence[str], config_file: Path | None
) -> tuple[dict[str, Any], list[str]]:
    """The robot's file with the changes, as a document, and what differs by them."""
    from consumers.whatif.changes import flat
    from infra.cli.mission_file import set_field

    known = _known_file(config, robot_id)
    base = read_yaml(known) if known else {}
    document = copy.deepcopy(base)
    if config_file:
        other = read_yaml(config_file)
        document |= other if "fusion" in other or "controller" in other else {"fusion": other}
    if not document.get("fusion"):
        raise BadWhatIf(
            f"the settings of {robot_id} are not on this machine: name its file by --config"
        )
    for text in changes:
        set_field(document, text)
    document["robot_id"] = robot_id
    before, after = flat(base), flat(document)
    names = [n for n in {**before, **after} if base and before.get(n) != after.get(n)]
    return document, [f"{n}: {before.get(n, '-')} -> {after.get(n, '-')}" for n in names]


def _known_file(config: Settings, robot_id: str) -> Path | None:
    """The file that this machine runs, or ran, the robot by."""
    from infra.robots import read_kept

    kept = read_kept(config).robots.get(robot_id)
    places = [Path(kept)] if kept else []
    places.append(config.state_dir / "robots" / f"{robot_id}.yaml")
    return next((path for path in places if path.is_file()), None)


def _spec(
    robot_id: str, document: Mapping[str, Any], controller: bool
) -> tuple[Any, RobotFile | None]:
    """The fusion part, and the whole file where a controller needs it; raises `BadWhatIf`."""
    from pydantic import ValidationError

    from schemas.fusion import FusionSpec
    from schemas.robot_file import RobotFile

    try:
        if not controller:
            return FusionSpec.model_validate(document["fusion"]), None
        file = RobotFile.model_validate(document)
        return file.fusion, file
    except ValidationError as error:
        prefix = [] if controller else ["fusion"]
        wrong = (f"{'.'.join([*prefix, *map(str, e['loc'])])}: {e['msg']}" for e in error.errors())
        raise BadWhatIf(f"{robot_id}: {'; '.join(wrong)}") from None


# -- output ---------------------------------------------------------------------------------


def _plain(one: Found) -> Found:
    return {n: v.to_json() if hasattr(v, "to_json") else v for n, v in one.items()}


def _show(found: Mapping[str, Found]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for robot_id, one in found.items():
        console.print(f"{robot_id}: {one['frames']:,} frames", markup=False)
        for line in one["changed"] or ["no setting is changed"]:
            console.print(f"  {line}", markup=False)
        console.print(_table(one["fusion"]))
        for line in _lines(one):
            console.print(line, markup=False)


def _table(both: Refused) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("recorded", justify="right")
    table.add_column("what if", justify="right")
    rows = {**dict(_rows(both.recorded))}
    other = dict(_rows(both.whatif))
    for name in {**rows, **other}:
        table.add_row(name, rows.get(name, "-"), other.get(name, "-"))
    return table


def _rows(side: Fused) -> Iterator[tuple[str, str]]:
    yield "states", f"{side.states:,}"
    yield "RMSE from the truth, m", _number(side.rmse_m)
    yield "largest distance, m", _number(side.largest_m)
    for name, counts in side.channels.items():
        yield f"{name}: applied", f"{counts['applied']:,.0f}"
        yield f"{name}: rejected", f"{counts['rejected']:,.0f}"
        if "nis_mean" in counts:
            yield f"{name}: NIS, mean", f"{counts['nis_mean']:.3f}"


def _number(value: float | None) -> str:
    return "no truth" if value is None else f"{value:.4f}"


def _lines(one: Found) -> Iterator[str]:
    both: Refused = one["fusion"]
    if one["first_frame"]:
        yield (
            f"the range begins at frame {one['first_frame']:,} of a boot: there the filter starts "
            "anew, and recorded counts go back further; compare whole boots"
        )
    same = f"{both.same:,} of {both.recorded.states:,} states are the recorded ones"
    yield f"{same}, to the last bit; two of one frame are {both.apart_m:.4f} m apart at most"
    if "commands" not in one:
        return
    yield f"commands: {_differs(one['commands'])}"
    alone: Decided = one["commands_on_recorded_states"]
    yield f"on the recorded states, so without the change: {_differs(alone)}"


def _differs(found: Decided) -> str:
    both = found.same + found.differ
    text = f"{found.differ:,} of {both:,} would differ ({found.recorded:,} recorded)"
    if not found.differ:
        return text
    largest = ", ".join(f"{gap:.4f}" for gap in found.largest)
    return f"{text}, first that of {found.first}, by at most [{largest}]"
