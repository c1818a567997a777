"""`ralo record`: the log as a file that robot viewers open, and such files mended and read."""

import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from infra.interrupts import signals_stop

if TYPE_CHECKING:
    from consumers.recorder.follow import Recorder, Wanted
    from consumers.recorder.mend import Summary
    from consumers.recorder.views import Camera
    from infra.log import Log
    from infra.settings import Settings
    from schemas.missions import RobotMission
    from schemas.robots import DriverSpec

QUIET_S = 2.0
_AGO = re.compile(r"@-(\d+(?:\.\d+)?)(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class RecordError(Exception):
    """What was asked for cannot be recorded."""


class _ToByDefault(TyperGroup):
    """`ralo record FILE` is `ralo record to FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the verb in where it was left out."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["to", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ToByDefault, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)

Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


@app.command()
def to(
    out: Annotated[Path, typer.Argument(help="The file to write; it must not be there yet.")],
    topic: Annotated[
        list[str] | None, typer.Option(help="Record this topic; the acting ones by default.")
    ] = None,
    robot: Annotated[list[str] | None, typer.Option(help="This robot alone.")] = None,
    mission: Annotated[
        str | None, typer.Option(help="The robots of this mission, from its beginning to its end.")
    ] = None,
    begin: Annotated[
        str | None, typer.Option("--from", help="start, now, or a while ago: @-10m.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after so long.")] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Stop at the log's end as of now, do not follow it.")
    ] = False,
    robot_file: Annotated[
        list[Path] | None, typer.Option(help="A robot's file, for the directions of its scans.")
    ] = None,
    camera: Annotated[
        Path | None, typer.Option(help="A world's file: pictures of it from above, where it can.")
    ] = None,
    json: Json = False,
) -> None:
    """Follow topics into an MCAP file until Ctrl-C; `ralo record OUT.mcap` does the same."""
    from consumers.recorder.follow import ACTING, Recorder, beginnings, follow
    from consumers.recorder.recording import Recording
    from consumers.recorder.views import Views
    from infra.connect import connect_log
    from infra.settings import settings

    config = settings()
    log = connect_log(config)
    topics = _topics(topic, [one.name for one in ACTING])
    wanted, since_ms = _wanted(log, robot or [], mission)
    wanted.learners = topic is not None  # Who names a topic wants all of it.
    since_ms = since_ms if begin is None else _since_ms(begin)
    start = beginnings(log, topics, since_ms)
    pictures = _camera(camera)  # First, for it says what MuJoCo is to draw by.
    views = Views(_specs(config, robot_file or []), pictures)
    recording = Recording(out, {"namespace": config.namespace, "topics": " ".join(topics)})
    recorder = Recorder(recording, views, wanted)
    say = _Progress()
    try:
        with signals_stop() as stop:
            follow(recorder, log, start, _stopped(stop, seconds), once, say)
    finally:
        recording.close()
        say.end()
    _tell(recorder, json)


@app.command(name="recover")
def recover_(
    torn: Annotated[Path, typer.Argument(help="The file that a crash tore.", exists=True)],
    out: Annotated[Path, typer.Argument(help="The whole file to write.")],
    json: Json = False,
) -> None:
    """Mend a recording whose end is missing, and say what was lost."""
    from consumers.recorder.mend import recover

    found = recover(torn, out)
    _show(found, json)
    if not json:
        print(f"{found.messages:,} messages written to {out}")


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="A recording.", exists=True)], json: Json = False
) -> None:
    """Say what is in a recording."""
    from consumers.recorder.mend import summarize

    _show(summarize(file), json)


@app.command()
def frames(
    file: Annotated[Path, typer.Argument(help="A recording.", exists=True)],
    out: Annotated[Path, typer.Argument(help="The JSON Lines to write, for `ralo fuse`.")],
    robot: Annotated[str | None, typer.Option(help="This robot alone.")] = None,
    json: Json = False,
) -> None:
    """Take the sensor frames out of a recording."""
    from consumers.recorder.mend import extract_frames

    counts = extract_frames(file, out, robot)
    if json:
        _print({"frames": counts.total(), "robots": dict(counts), "path": str(out)})
        return
    print(f"{counts.total():,} sensor frames of {', '.join(counts) or 'no robot'} written to {out}")
    if len(counts) > 1:
        print("`ralo fuse` takes the frames of one robot: say which with --robot")


# -- what to record -----------------------------------------------------------------------------


def _topics(asked: list[str] | None, usual: list[str]) -> list[str]:
    from schemas.topics import TOPICS

    unknown = [name for name in asked or [] if name not in TOPICS]
    if unknown:
        raise RecordError(f"no topic {', '.join(unknown)}: there are {', '.join(TOPICS)}")
    return asked or usual


def _wanted(log: "Log", robots: list[str], mission_id: str | None) -> tuple["Wanted", float | None]:
    """What is recorded, and since when; a mission's records from when it was submitted."""
    from consumers.recorder.follow import Wanted

    chosen = frozenset(robots) or None
    if mission_id is None:
        return Wanted(chosen), None
    mission, since_ms = _mission(log, mission_id)
    return Wanted(chosen or frozenset(mission.robots), mission), since_ms


def _mission(log: "Log", mission_id: str) -> tuple["RobotMission", float]:
    from consumers.read import read
    from schemas.missions import RobotMission

    known = []
    for record in read("missions", log=log):
        if isinstance(record.event, RobotMission):
            if record.event.mission_id == mission_id:
                return record.event, float(record.timestamp_ms)
            known.append(record.event.mission_id)
    raise RecordError(
        f"no mission {mission_id!r} for robots in the log; there are: "
        f"{', '.join(known[-10:]) or 'none'}"
    )


def _since_ms(text: str) -> float | None:
    """A time of day in milliseconds; 0 is the first record, None the end."""
    if text in ("start", "now"):
        return 0.0 if text == "start" else None
    match = _AGO.fullmatch(text)
    if match is None:
        raise RecordError(f"--from {text}: say start, now, or a while ago as @-90s, @-10m, @-2h")
    return (time.time() - float(match[1]) * _SECONDS[match[2]]) * 1000


def _specs(config: "Settings", robot_files: list[Path]) -> Mapping[str, "DriverSpec"]:
    """What the drivers say of the robots with these files, and of those kept on this machine."""
    from infra.robots import RobotFileError, read_kept, read_robot
    from producers.robots.registry import make_driver
    from schemas.robots import DriverError

    specs = {}
    for path in [*map(Path, read_kept(config).robots.values()), *robot_files]:
        try:
            robot = read_robot(path)
            specs[robot.robot_id] = make_driver(robot, config.state_dir / "robots").spec
        except (RobotFileError, DriverError) as error:
            if path in robot_files:
                raise
            print(f"no scans of the robot in {path}: {error}", file=sys.stderr)
    return specs


def _camera(world: Path | None) -> "Camera | None":
    """Pictures of a world, or none where this machine cannot draw."""
    if world is None:
        return None
    from producers.robots.rendering import CannotRender, View
    from producers.robots.worlds import read_world

    try:
        return View(read_world(world)).png
    except CannotRender as error:
        print(f"recording without pictures: {error}", file=sys.stderr)
        return None


def _stopped(stop: threading.Event, seconds: float | None) -> Callable[[], bool]:
    """Whether to stop: when told so, or after so long."""
    until = None if seconds is None else time.monotonic() + seconds
    return lambda: stop.is_set() or (until is not None and time.monotonic() >= until)


# -- what is said -------------------------------------------------------------------------------


class _Progress:
    """One line on stderr."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()
        self._end = "\r" if sys.stderr.isatty() else "\n"
        self._every_s = 1.0 if sys.stderr.isatty() else 5.0

    def __call__(self, recorder: "Recorder") -> None:
        now = time.monotonic()
        if now - self._began < QUIET_S or now - self._said < self._every_s:
            return
        self._said, recording = now, recorder.recording
        behind_s = max(0.0, time.time() - (recording.last_ms or 0) / 1000)
        text = (
            f"recording {now - self._began:.0f} s: {sum(recorder.events.values()):,} events, "
            f"{recording.size_bytes / 1e6:.1f} MB"
            + (f", the last {behind_s:.1f} s ago" if recording.last_ms else "")
        )
        print(text.ljust(78), end=self._end, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if sys.stderr.isatty():
            print(" " * 78, end="\r", file=sys.stderr)


def _tell(recorder: "Recorder", json: bool) -> None:
    recording = recorder.recording
    first, last = recording.first_ms, recording.last_ms
    summary = {
        "path": str(recording.path),
        "bytes": recording.size_bytes,
        "events": dict(recorder.events),
        "messages": dict(sorted(recording.counts.items())),
        "seconds": round((last - first) / 1000, 3) if first and last else 0.0,
        "first_ms": first,
        "last_ms": last,
        "undecodable": recorder.undecodable[:5],
    }
    if json:
        _print(summary)
        return
    print(
        f"{recording.path}: {sum(recorder.events.values()):,} events of {summary['seconds']:.1f} s "
        f"in {recording.size_bytes / 1e6:.1f} MB"
    )
    if recorder.undecodable:
        print(f"{len(recorder.undecodable):,} records are no events: {recorder.undecodable[0]}")


def _show(found: "Summary", json: bool) -> None:
    if json:
        _print(found.as_dict())
        return
    for topic, what in found.topics.items():
        print(f"{what['messages']:>9,}  {topic}  {what['schema']}")
    print(f"{found.messages:,} messages of {found.seconds:.1f} s in {found.bytes / 1e6:.1f} MB")
    damage = found.damage
    if not damage["any"]:
        return
    print(
        f"torn: {damage['bytes']:,} bytes at the end are no whole record "
        f"({damage['salvaged']:,} messages could be read out of them), "
        f"{damage['chunks']:,} chunks are damaged, "
        f"{'the index is missing' if damage['index'] else 'the index is there'}"
    )


def _print(document: Mapping[str, Any]) -> None:
    import json

    print(json.dumps(document, indent=2))
