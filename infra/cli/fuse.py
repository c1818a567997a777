"""`ralo fuse`: recorded sensor frames become states again, with the settings of a file."""

import json as json_module
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from schemas.acting import FusedState, SensorFrame
    from schemas.fusion import FusionSpec

QUIET_S = 2.0
"""What takes no longer says nothing of its progress."""


class FuseError(Exception):
    """A file that cannot be fused: says where and why."""


def fuse(
    config: Annotated[Path, typer.Argument(help="YAML: a robot's file, or its `fusion` part.")],
    frames: Annotated[Path, typer.Argument(help="JSON lines, each a record of sensor-frames.")],
    states: Annotated[Path, typer.Argument(help="To write: JSON lines as on fused-states.")],
    truth: Annotated[
        Path | None,
        typer.Option(help="Frames with a `truth` channel to score positions by; may be FRAMES."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Fuse recorded frames again: each frame becomes a state, in the order of the file."""
    from streams.acting.fusion.model import FusionError

    spec = read_spec(config)
    began_s = time.monotonic()
    try:
        reader = Reader(frames)
        fused = list(_written(_fused(reader, spec), states))
    except FusionError as error:
        raise FuseError(f"{config}: {error}") from None
    if reader.line == 0:
        raise FuseError(f"{frames} has no frames")
    summary = _summary(reader.line, fused, time.monotonic() - began_s)
    if truth is not None:
        summary["truth"] = _scored(fused, truth)
    print(json_module.dumps(summary, indent=2) if json else "\n".join(_lines(summary)))


def read_spec(path: Path) -> "FusionSpec":
    """The fusion part of a robot's file, or a file that is one; raises `FuseError`."""
    import yaml
    from pydantic import ValidationError

    from infra.robots import RobotFileError, read_robot
    from schemas.fusion import FusionSpec

    try:
        document = yaml.safe_load(path.read_text())
        if isinstance(document, dict) and "fusion" in document:
            return read_robot(path).fusion
        return FusionSpec.model_validate(document)
    except OSError as error:
        raise FuseError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FuseError(f"{path} is no YAML: {error}") from error
    except RobotFileError as error:
        raise FuseError(str(error)) from None
    except ValidationError as error:
        raise FuseError(f"{path}: {_readable(error)}") from None


class Reader:
    """The frames of a file, one a line; `line` is the number of the newest."""

    def __init__(self, path: Path) -> None:
        self.path, self.line = path, 0

    def __iter__(self) -> Iterator["SensorFrame"]:
        """Each frame in turn, progress on stderr; raises `FuseError` with the line's number."""
        from schemas.topics import SENSOR_FRAMES, NewerSchema, Undecodable, decode

        progress = _Progress(self.path)
        try:
            with self.path.open("rb") as file:
                for self.line, text in enumerate(file, 1):
                    progress(len(text), self.line)
                    yield decode(SENSOR_FRAMES.name, text.strip())  # type: ignore[misc]
        except OSError as error:
            raise FuseError(f"{self.path}: {error.strerror}") from error
        except (Undecodable, NewerSchema) as error:
            raise FuseError(f"{self.path}:{self.line}: {error}") from error
        finally:
            progress.end()


def _fused(reader: Reader, spec: "FusionSpec") -> Iterator["FusedState"]:
    from streams.acting.fusion.filter import Filter
    from streams.acting.fusion.model import FusionError
    from streams.acting.fusion.offline import fuse as fuse_frames

    Filter(spec)  # a spec that cannot work is not the frames' fault
    try:
        yield from fuse_frames(reader, spec, strict=True)
    except FusionError as error:
        raise FuseError(f"{reader.path}:{reader.line}: {error}") from None


def _written(fused: Iterable["FusedState"], path: Path) -> Iterator["FusedState"]:
    """Write states while they pass; the file appears when it is whole."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            for state in fused:
                file.write(state.to_bytes() + b"\n")
                yield state
        os.replace(part, path)
    except OSError as error:
        raise FuseError(f"{path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _summary(lines: int, fused: list["FusedState"], seconds: float) -> dict[str, Any]:
    newest = {(state.robot_id, state.boot_id): state for state in fused}
    channels: dict[str, Counter[str]] = {}
    for state in newest.values():
        for name, health in state.channels.items():
            counts = health.model_dump(include={"applied", "rejected", "late", "too_old", "alarms"})
            channels.setdefault(name, Counter()).update(counts)
    return {
        "frames": lines,
        "states": len(fused),
        "robots": len({robot for robot, _ in newest}),
        "boots": len(newest),
        "seconds": round(seconds, 3),
        "frames_per_s": round(lines / seconds, 1),
        "channels": {name: dict(counts) for name, counts in channels.items()},
    }


def _scored(fused: list["FusedState"], truth: Path) -> dict[str, Any]:
    """The distance from the truth of each robot's positions; raises `FuseError`."""
    from streams.acting.fusion.score import score, track_of_channel, track_of_states

    frames = list(Reader(truth))
    scores = {}
    for robot, boot in sorted({(state.robot_id, state.boot_id) for state in fused}):
        mine = [s for s in fused if (s.robot_id, s.boot_id) == (robot, boot)]
        theirs = [f for f in frames if (f.robot_id, f.boot_id) == (robot, boot)]
        try:
            found = score(track_of_states(mine), track_of_channel(theirs))
        except ValueError as error:
            raise FuseError(f"{truth}: {robot} in boot {boot}: {error}") from None
        scores[f"{robot}/{boot}"] = {
            "rmse_m": round(found.rmse_m, 4),
            "largest_m": round(found.largest_m, 4),
            "points": found.points,
        }
    return scores


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{summary['frames']:,} frames of {summary['robots']} robots became "
        f"{summary['states']:,} states in {summary['seconds']:.1f} s "
        f"({summary['frames_per_s']:,.0f} frames/s)"
    )
    for name, counts in summary["channels"].items():
        parts = [f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items() if n]
        yield f"  {name}: {', '.join(parts) or 'no readings'}"
    for robot, found in summary.get("truth", {}).items():
        yield (
            f"{robot}: {found['rmse_m']:.3f} m from the truth (root mean square of "
            f"{found['points']:,} points), {found['largest_m']:.3f} m at most"
        )


def _readable(error: Any) -> str:
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()
    )


class _Progress:
    """One line on stderr, from the second after `QUIET_S` on."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._size = max(path.stat().st_size, 1) if path.exists() else 1
        self._done, self._began_s = 0, time.monotonic()
        self._said_s = self._began_s

    def __call__(self, size: int, line: int) -> None:
        """So many bytes more were read, up to this line."""
        self._done += size
        now_s = time.monotonic()
        if now_s - self._began_s < QUIET_S or now_s - self._said_s < 0.5:
            return
        self._said_s = now_s
        end = "\r" if sys.stderr.isatty() else "\n"
        share = self._done / self._size
        text = f"fuse: {self._name}, {line:,} frames, {share:.0%}"
        print(text.ljust(60), end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self._said_s > self._began_s and sys.stderr.isatty():
            print(" " * 60, end="\r", file=sys.stderr)
