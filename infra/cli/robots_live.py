"""Robots as they go: a table and a map on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from consumers.read import decoded
from consumers.robots_view import TOPICS, RobotsView, RobotView
from infra.log import Log, LogUnavailable
from schemas.records import Partition

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESH_S = 0.5
LINE_EVERY_S = 5.0
MAP_ROWS = 18

Area = tuple[float, float, float, float]
"""West, south, east, north, in metres."""
Extra = Callable[[], str]
"""A line of whoever watches, asked for when the view is drawn."""


def watch(
    log: Log,
    view: RobotsView,
    start: Mapping[Partition, int],
    until: Callable[[RobotsView], bool],
    area: Area | None = None,
    extra: Extra = lambda: "",
) -> RobotsView:
    """Show robots until the view is as is waited for."""
    shown = {topic.name for topic in TOPICS}
    reader = log.state_reader({p: offset for p, offset in start.items() if p.topic in shown})
    with _shown(view, area, extra) as draw:
        try:
            while not until(view):
                try:
                    for record in reader.poll(2000, REFRESH_S / 4):
                        view.observe(decoded(record))
                except LogUnavailable:
                    time.sleep(REFRESH_S / 4)
                draw()
        finally:
            reader.close()
    return view


@contextmanager
def _shown(view: RobotsView, area: Area | None, extra: Extra) -> Iterator[Callable[[], None]]:
    if not sys.stderr.isatty():
        yield _lines(view, extra)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=1 / REFRESH_S) as live:
        yield lambda: live.update(picture(view, area, extra()))


def _lines(view: RobotsView, extra: Extra) -> Callable[[], None]:
    said = time.monotonic()

    def draw() -> None:
        nonlocal said
        if time.monotonic() - said > LINE_EVERY_S:
            said = time.monotonic()
            for line in (extra(), *map(line_of, view.robots.values())):
                if line:
                    print(line, file=sys.stderr, flush=True)

    return draw


def line_of(robot: RobotView) -> str:
    """One robot in one line."""
    return "  ".join(f"{value}" for value in _cells(robot) if value)


COLUMNS = ("robot", "mode", "place", "acting", "commands", "return", "loop", "release", "mission")


def _cells(robot: RobotView) -> Sequence[str]:
    loop = robot.loop
    returns = robot.returns.get(robot.acting, [])[-10:]
    contacts = f" {robot.contacts} contacts" if robot.contacts else ""
    return (
        robot.robot_id,
        f"{robot.mode or 'unknown'}{f' ({robot.cause})' if robot.mode not in _QUIET else ''}",
        _place(robot.pose),
        robot.acting,
        f"{robot.commands_hz:.0f}/s {robot.applied:,} applied",
        f"return {sum(returns) / len(returns):.1f}" if returns else "",
        f"{loop.missed}/{loop.periods} missed, p99 {loop.lateness_p99_ms:.1f} ms" if loop else "",
        robot.release,
        (robot.result.outcome if robot.result else "") + contacts,
    )


_QUIET = ("NORMAL", None)


def _place(pose: Mapping[str, float]) -> str:
    if "x_m" in pose and "y_m" in pose:
        return f"({pose['x_m']:.2f}, {pose['y_m']:.2f}) m"
    return ""


def picture(view: RobotsView, area: Area | None, extra: str = "") -> RenderableType:
    """All robots for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(*COLUMNS, box=None)
    for robot in view.robots.values():
        table.add_row(*_cells(robot))
    parts: list[RenderableType] = [Text(extra, style="bold")] if extra else []
    parts.append(table)
    if area is not None:
        parts.append(Text("\n".join(chart(view, area))))
    return Group(*parts)


def chart(view: RobotsView, area: Area, rows: int = MAP_ROWS) -> list[str]:
    """The area from above: dots where robots were, a number where each is."""
    west, south, east, north = area
    columns = round(2 * rows * (east - west) / (north - south))
    cells = [[" "] * columns for _ in range(rows)]
    for number, robot in enumerate(view.robots.values(), start=1):
        places = [*robot.trace]
        for index, (x_m, y_m) in enumerate(places):
            column = int((x_m - west) / (east - west) * columns)
            row = int((north - y_m) / (north - south) * rows)
            if 0 <= column < columns and 0 <= row < rows:
                cells[row][column] = str(number) if index == len(places) - 1 else "·"
    edge = "+" + "-" * columns + "+"
    return [edge, *("|" + "".join(row) + "|" for row in cells), edge]
