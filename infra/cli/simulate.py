"""`ralo simulate`: the world process, recordings at full speed, and a load of frames."""

import contextlib
import gc
import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from infra.interrupts import signals_stop

if TYPE_CHECKING:
    from producers.robots.serving import WorldServer
    from schemas.worlds import World

SAY_EVERY_S = 1.0
SERVED_SAY_EVERY_S = 10.0
RECORDING_S = 60.0
"""Simulated seconds of a recording for which nothing else is said."""


class SimulateError(Exception):
    """What was asked for does not go together; says what does."""


def simulate(
    world: Annotated[Path | None, typer.Argument(help="A world's YAML file.")] = None,
    speed: Annotated[
        float, typer.Option(help="1: serve the robots' sockets in real time. 0: record at once.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Of all noise; else the world's.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write sensor frames to this file, one JSON a line.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Write where robots truly are, one JSON a line.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after so long; of simulated time, with 0.")
    ] = None,
    frame_hz: Annotated[float, typer.Option(min=1, max=200, help="Frames a second.")] = 50.0,
    load: Annotated[
        bool, typer.Option("--load", help="Publish frames of made-up rovers instead of a world.")
    ] = False,
    robots: Annotated[int, typer.Option(min=1, help="With --load: how many rovers.")] = 20,
    rate: Annotated[
        float, typer.Option(min=1, max=1000, help="With --load: IMU readings a second and rover.")
    ] = 200.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run a simulated world, or record it, or load the log with frames; Ctrl-C ends it.

    With --speed 0 rovers drive along the waypoints in the world's file, as fast as it goes.
    """
    with signals_stop() as stop:
        if load:
            from infra.cli.simulate_load import publish_load

            if world is not None or record or truth:
                raise SimulateError("--load makes its rovers up: it takes no world and no files")
            summary = publish_load(stop, robots, rate, frame_hz, seconds, seed or 0)
        else:
            from producers.robots.worlds import read_world

            if world is None:
                raise SimulateError("give a world's YAML file, such as examples/worlds/patrol.yaml")
            found = read_world(world)
            with _Sink(record, truth) as sink:
                if speed == 0:
                    summary = _record(found, sink, stop, seconds or RECORDING_S, seed, frame_hz)
                elif speed == 1:
                    summary = _serve(found, sink, stop, seconds, seed, frame_hz)
                else:
                    # Drivers take the machine's clock for the world's.
                    raise SimulateError(f"--speed {speed:g}: 1 is real time, 0 as fast as it goes")
    if as_json:
        print(json.dumps(summary, indent=2))


def say(line: str) -> None:
    """A line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


class _Sink:
    """The files of a recording; those that nobody wants are not written."""

    def __init__(self, record: Path | None, truth: Path | None) -> None:
        self._paths, self._files = (record, truth), contextlib.ExitStack()
        self.frames = self.readings = 0

    @property
    def wanted(self) -> bool:
        """Whether there is any file."""
        return any(self._paths)

    def __enter__(self) -> "_Sink":
        self._record, self._truth = map(self._opened, self._paths)
        return self

    def _opened(self, path: Path | None) -> TextIO | None:
        return None if path is None else self._files.enter_context(path.open("w"))

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def write(self, frames: Iterable[Any], truths: Iterable[Any]) -> None:
        """Append what there is."""
        for frame in frames:
            self.frames += 1
            self.readings += len(frame.readings)
            _line(self._record, frame.to_bytes().decode())
        for truth in truths:
            _line(self._truth, json.dumps(truth))


def _line(file: TextIO | None, text: str) -> None:
    if file is not None:
        file.write(text + "\n")


def _record(
    world: "World",
    sink: _Sink,
    stop: threading.Event,
    seconds: float,
    seed: int | None,
    frame_hz: float,
) -> dict[str, Any]:
    """A recording at full speed; answers how fast that was."""
    from producers.robots.recording import Recording

    recording, began = Recording(world, seconds, seed, frame_hz), time.monotonic()
    told = _every(SAY_EVERY_S)
    for frames, truths in recording:
        sink.write(frames, truths)
        if stop.is_set():
            break
        if next(told):
            say(f"{recording.now_ms / 1000:.0f} of {seconds:g} s, {sink.frames} frames")
    took_s, steps = max(time.monotonic() - began, 1e-9), recording.simulation.steps
    summary = {
        "world": world.name,
        "simulated_s": round(recording.now_ms / 1000, 3),
        "took_s": round(took_s, 3),
        "times_real_time": round(recording.now_ms / 1000 / took_s, 1),
        "steps": steps,
        "steps_hz": round(steps / took_s),
        "frames": sink.frames,
        "readings": sink.readings,
    }
    say(
        f"{summary['simulated_s']} s of {world.name} in {took_s:.1f} s: "
        f"{summary['times_real_time']} times real time, {summary['steps_hz']} steps/s, "
        f"{sink.frames} frames, {sink.readings} readings"
    )
    return summary


def _serve(
    world: "World",
    sink: _Sink,
    stop: threading.Event,
    seconds: float | None,
    seed: int | None,
    frame_hz: float,
) -> dict[str, Any]:
    """Serve a world in real time; answers how it kept its periods."""
    from infra.settings import settings
    from producers.robots.recording import Recorder
    from producers.robots.serving import WorldServer, no_tap

    robot_ids = [*world.rovers, *world.arms]
    recorder = Recorder(robot_ids, f"world-{int(time.time())}", frame_hz)
    folder = settings().state_dir / "robots"
    server = WorldServer(world, folder, seed, recorder.take if sink.wanted else no_tap)
    # What is there now stays: collections that look at it would be late periods.
    gc.freeze()
    say(f"{world.name}: {', '.join(robot_ids)} in {folder}; Ctrl-C ends it")
    began, told = time.monotonic(), _every(SERVED_SAY_EVERY_S)
    told_missed = 0
    try:
        while not stop.is_set() and (seconds is None or time.monotonic() - began < seconds):
            server.turn()
            if sink.wanted:
                frames = recorder.frames(server.now_ms, time.time() * 1000)
                sink.write(frames, recorder.truth())
            if next(told) and server.pace.missed > told_missed:
                told_missed = server.pace.missed
                say(_behind(server))
    finally:
        server.close()
    say(_behind(server))
    kept = {"world": world.name, "seconds": round(time.monotonic() - began, 3)}
    return {**kept, **_kept(server), "frames": sink.frames}


def _kept(server: "WorldServer") -> dict[str, Any]:
    """How a world has kept its periods."""
    pace = server.pace
    return {
        "periods": pace.periods,
        "missed": pace.missed,
        "worst_ms": round(pace.worst_ms, 3),
        "lost_ms": pace.lost_ms,
        "readings_lost": sum(port.lost for port in server.ports.values()),
        "drivers": {name: port.drivers for name, port in server.ports.items()},
    }


def _behind(server: "WorldServer") -> str:
    pace = server.pace
    return (
        f"{pace.missed} of {pace.periods} periods missed, the worst by {pace.worst_ms:.1f} ms; "
        f"the world stood still for {pace.lost_ms:.0f} ms"
    )


def _every(period_s: float) -> Iterator[bool]:
    """Whether it is time to say something, each time that one asks."""
    said = time.monotonic()
    while True:
        due = time.monotonic() - said >= period_s
        said = time.monotonic() if due else said
        yield due
