"""A mission as it goes: a live table on a terminal, a line every few seconds elsewhere."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from consumers.progress import TOPICS, Point, Progress
from consumers.read import decoded
from infra import supervision
from infra.log import Log, LogUnavailable
from infra.settings import SettingsError, kafka_bootstrap, settings
from schemas.missions import MissionResult
from schemas.records import Partition, Record

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESH_S = 0.5
LINE_EVERY_S = 5.0
CHART_WIDTH = 48
_BARS = " ▁▂▃▄▅▆▇█"


class Stopped(Exception):
    """The servers were stopped on purpose, so nothing more is to come."""


def ends(log: Log) -> dict[Partition, int]:
    """Where the topics of a mission end now: what is appended from now on lies behind."""
    return {p: end for topic in TOPICS for p, (_, end) in log.ends(topic.name).items()}


def beginnings(log: Log) -> dict[Partition, int]:
    """Where the topics of a mission begin."""
    return {p: first for topic in TOPICS for p, (first, _) in log.ends(topic.name).items()}


def watch(log: Log, mission_id: str, start: Mapping[Partition, int]) -> Progress:
    """Show a mission until it ends; answers where it got to; raises `Stopped`."""
    progress = Progress(mission=mission_id)
    shown = _on_terminal if sys.stderr.isatty() else _in_lines
    shown(progress, _records(log, mission_id, start))
    return progress


def _records(
    log: Log, mission_id: str, start: Mapping[Partition, int]
) -> Iterator[Sequence[Record]]:
    """Records as they come, in bundles (empty when none came), until the mission's result."""
    reader = log.state_reader(start)
    try:
        while True:
            try:
                records = [decoded(record) for record in reader.poll(500, REFRESH_S / 2)]
            except LogUnavailable:
                # The broker restarts; the reader goes on when it is back.
                records = []
            if not records:
                _raise_if_taken_down()
            yield records
            if any(_is_result(record, mission_id) for record in records):
                return
    finally:
        reader.close()


def _raise_if_taken_down() -> None:
    try:
        kafka_bootstrap(settings())
    except SettingsError as error:
        raise Stopped(
            "`ralo down` has stopped everything meanwhile: `ralo up` goes on with the mission, "
            "`ralo mission watch` shows it"
        ) from error


def _is_result(record: Record, mission_id: str) -> bool:
    return isinstance(record.event, MissionResult) and record.event.mission_id == mission_id


def _in_lines(progress: Progress, bundles: Iterator[Sequence[Record]]) -> None:
    said = time.monotonic()
    for records in bundles:
        for record in records:
            progress.observe(record)
        if time.monotonic() - said > LINE_EVERY_S:
            said = time.monotonic()
            print(line(progress), file=sys.stderr, flush=True)
    print(line(progress), file=sys.stderr, flush=True)


def _on_terminal(progress: Progress, bundles: Iterator[Sequence[Record]]) -> None:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=1 / REFRESH_S) as live:
        for records in bundles:
            for record in records:
                progress.observe(record)
            live.update(table(progress))


def line(progress: Progress) -> str:
    """The state of a mission in one line."""
    curve = progress.returns if progress.acts else progress.heldout
    heldout = f"{curve[-1].value:.2f}" if curve else "-"
    what = "return" if progress.acts else "reward"
    reward = f"{progress.reward:.2f}" if progress.reward is not None else "-"
    return (
        f"{progress.elapsed_s:5.0f} s  {progress.stage:10}  version {progress.version or 0:>4} "
        f"({progress.versions_hz:.1f}/s)  {progress.samples_hz:5.0f} samples/s  {what} {reward}  "
        f"held-out {heldout}  in flight {sum(progress.in_flight.values())}  "
        f"staleness {progress.staleness or 0:.1f}"
    )


def table(progress: Progress) -> "RenderableType":
    """The state of a mission for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for name, value in _rows(progress):
        grid.add_row(Text(name, style="dim"), value)
    title = Text(f"mission {progress.mission}  {progress.stage} {progress.reason}", style="bold")
    return Group(title, grid, *_charts(progress))


def _rows(progress: Progress) -> list[tuple[str, str]]:
    flight = progress.in_flight
    lost = sum(progress.dropped.values()), sum(progress.refused.values())
    return [
        ("learning for", f"{progress.elapsed_s:.0f} s"),
        ("problems", f"{progress.problems:,}"),
        ("samples", f"{progress.samples:,}  ({progress.samples_hz:,.0f}/s)"),
        ("weight versions", f"{progress.versions:,}  ({progress.versions_hz:.1f}/s)"),
        ("in flight", ", ".join(f"{count} {name}" for name, count in flight.items())),
        ("staleness", f"{progress.staleness or 0:.2f} steps"),
        ("dropped, refused", f"{lost[0]} groups, {lost[1]} uploads"),
        ("processes", _processes()),
    ]


def _processes() -> str:
    rows: list[dict[str, Any]] = supervision.processors_status()
    running = sum(row["state"] == "running" for row in rows)
    restarts = sum(row["restarts"] for row in rows)
    return f"{running} running" + (f", {restarts} restarts" if restarts else "")


def _charts(progress: Progress) -> Iterator[str]:
    curves = [("reward", progress.rewards), ("held-out accuracy", progress.heldout)]
    if progress.acts:
        curves = [("return", progress.rewards), ("held-out return", progress.returns)]
    values = [point.value for _, points in curves for point in points]
    low, high = (min(values, default=0.0), max(values, default=1.0)) if progress.acts else (0, 1)
    for name, points in curves:
        if points:
            yield f"{name:18} {spark(points, low=low, high=high)} {points[-1].value:.2f}"


def spark(
    points: Sequence[Point], width: int = CHART_WIDTH, low: float = 0.0, high: float = 1.0
) -> str:
    """A curve between two bounds as a row of bars; each bar is the mean of its stretch."""
    columns = min(width, len(points))
    bars = []
    for column in range(columns):
        stretch = points[column * len(points) // columns : (column + 1) * len(points) // columns]
        mean = sum(point.value for point in stretch) / len(stretch)
        share = (mean - low) / (high - low) if high > low else 1.0
        bars.append(_BARS[round(min(max(share, 0.0), 1.0) * (len(_BARS) - 1))])
    return "".join(bars)
