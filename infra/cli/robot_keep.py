"""`ralo robot start` and `down`: which robots the supervisor of this machine keeps running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from infra import robots, supervision
from infra.cli.stack import AsJson, say
from infra.settings import settings


def start(
    files: Annotated[list[Path], typer.Argument(help="The robots' files.")],
    world: Annotated[
        list[Path] | None, typer.Option(help="A simulated world to serve them; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have actuator, fusion and controller of these robots run from now on, and worlds for them.

    Each is a program of its own that is started again when it dies. `ralo up` comes first.
    """
    from infra.cli.robot_processes import usable

    config = settings()
    checked = [usable(path).robot_id for path in files]
    robots.keep(config, files, world or ())
    if supervision.running(config) is None:
        say("nothing runs them yet: `ralo up` does")
    print(json.dumps(checked) if as_json else "\n".join(checked))


def down(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]…", help="All of them by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """End the processes of these robots, and worlds with the last; `stop` only makes them stand."""
    gone = robots.release(settings(), ids or None)
    print(json.dumps(gone) if as_json else "\n".join(gone))
