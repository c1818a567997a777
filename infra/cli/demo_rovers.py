"""`ralo demo rovers`: three rovers drive a patrol among obstacles, every step on the log."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.stack import say

if TYPE_CHECKING:
    from consumers.acting_report import Opinion
    from consumers.robots_view import RobotsView

ROBOTS = ("rover-1", "rover-2", "rover-3")


def rovers(
    report: Annotated[
        Path | None, typer.Option(help="Write the figures to this JSON file.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Give up after so long.")] = 300.0,
) -> None:
    """Start three simulated rovers, have them drive a patrol, and report from the log alone.

    What runs already is used. Ctrl-C stops the rovers and what was started for them.
    """
    from infra.cli.demo_stack import on_a_stack

    _tell(on_a_stack(lambda config, log: _patrol(config, log, seconds)), report)


def _patrol(config: Any, log: Any, seconds: float) -> dict[str, Any]:
    """The figures of a patrol, once all rovers are through or the time is over."""
    from infra.cli import demo_robots, robots_live
    from infra.cli.mission_file import load_mission

    examples = demo_robots.EXAMPLES
    files = demo_robots.files_for(config, examples / "robots" / "rover.yaml", ROBOTS)
    world = examples / "worlds" / "patrol.yaml"
    name = demo_robots.mission_name("patrol")
    mission = load_mission(examples / "missions" / "patrol.yaml", mission_id=name)
    with demo_robots.running(config, log, files, world) as (view, start):
        limit, operator = demo_robots.Deadline(seconds), demo_robots.Operator(log)

        def over(view: RobotsView) -> bool:
            operator.look(view)
            return demo_robots.all_through(view, name) or limit.over()

        with demo_robots.submitted(log, mission):
            robots_live.watch(log, view, start, over, area=_area(world))
    say("reading the log")
    figures = demo_robots.figures(log, name, start, ROBOTS, _filterpy(files[0]))
    rows = figures["robots"].values()
    done = all(row["outcome"] == "done" and not row["contacts"] for row in rows)
    return figures | {"ok": done, "resets": operator.resets}


def _filterpy(file: Path) -> Callable[[], Opinion] | None:
    """filterpy's filter, as the robots' file sets up ours; None where filterpy is not installed."""
    from infra.robots import read_robot

    if importlib.util.find_spec("filterpy") is None:
        return None
    from infra.cli.filterpy_rover import FilterpyRover

    spec = read_robot(file).fusion
    return lambda: FilterpyRover(spec).opinion


def _area(world: Path) -> tuple[float, float, float, float]:
    """What the map shows: the arena of the world's file."""
    from producers.robots.worlds import read_world

    found = read_world(world)
    return (*found.low, *found.high)


def _tell(figures: dict[str, Any], report: Path | None) -> None:
    from infra.cli import demo_robots

    demo_robots.write(figures, report)
    for robot, row in figures["robots"].items():
        print(
            f"{robot}: {row['outcome'] or 'not done'}, {row['distance_m']:.1f} m in "
            f"{row['seconds']:.0f} s, {row['contacts']} contacts; position error "
            f"{_metres(row['rmse_fused_m'])} fused, {_metres(row['rmse_odometry_m'])} by odometry "
            f"alone, {_metres(row['rmse_second_m'])} by filterpy"
        )
    if not figures["ok"]:
        raise typer.Exit(1)


def _metres(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f} m"
