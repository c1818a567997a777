"""Which robots and worlds this machine keeps running: a file that verbs write and supervisors read.

A robot is its file; a world is a simulator's. Files are named by absolute paths, so that a process
may be started again from anywhere.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from infra.embedded.state import write_whole
from infra.settings import Settings
from schemas.robot_file import RobotFile


class RobotFileError(Exception):
    """A robot's file cannot be used; says where and why."""


@dataclass(frozen=True)
class Kept:
    """What is to be kept running: robots by id, worlds by name, each with its file."""

    robots: Mapping[str, str] = field(default_factory=dict)
    worlds: Mapping[str, str] = field(default_factory=dict)


def read_robot(path: Path) -> RobotFile:
    """The robot in a file; raises `RobotFileError` naming the field to mend."""
    try:
        return RobotFile.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise RobotFileError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise RobotFileError(f"{path} is no YAML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()
        )
        raise RobotFileError(f"{path}: {wrong}") from None


def read_kept(config: Settings) -> Kept:
    """What is to be kept running; nothing where nothing was said."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Kept(**json.loads(_file(config).read_text()))
    return Kept()


def keep(config: Settings, robots: Iterable[Path], worlds: Iterable[Path] = ()) -> list[RobotFile]:
    """Keep these running from now on, beside what was kept; raises `RobotFileError`."""
    kept, files = read_kept(config), {path: read_robot(path) for path in robots}
    added = {robot.robot_id: str(path.absolute()) for path, robot in files.items()}
    world_files = {path.stem: str(path.absolute()) for path in worlds}
    _write(config, Kept({**kept.robots, **added}, {**kept.worlds, **world_files}))
    return list(files.values())


def release(config: Settings, robots: Iterable[str] | None = None) -> list[str]:
    """Keep these no longer, or none at all; worlds go with the last robot. Answers the ids."""
    kept = read_kept(config)
    gone = [name for name in kept.robots if robots is None or name in set(robots)]
    left = {name: path for name, path in kept.robots.items() if name not in gone}
    _write(config, Kept(left, kept.worlds if left else {}))
    return gone


def _write(config: Settings, kept: Kept) -> None:
    document: dict[str, Any] = {"robots": dict(kept.robots), "worlds": dict(kept.worlds)}
    write_whole(_file(config), json.dumps(document, indent=2).encode())


def _file(config: Settings) -> Path:
    return config.state_dir / "robots.json"
