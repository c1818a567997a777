"""`ralo supervise`, `scale` and `logs`: the processors that a supervisor runs."""

import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from infra import supervision
from infra.interrupts import signals_stop
from infra.settings import settings

PRELOAD = (
    "torch",
    "transformers.models.gpt2.modeling_gpt2",
    "streams.learning.sampler",
    "streams.learning.trainer",
    "streams.learning.aggregator",
    "infra.driver",
    "infra.kafka.log",
    "minio",
)
"""Imported once for all processes; nothing here may start a thread."""


def supervise() -> None:
    """Run what the missions need, in the foreground, until SIGTERM or Ctrl-C."""
    from infra.connect import connect_log
    from infra.supervisor import Supervisor

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = settings()
    # Connected first: who has claimed the state directory is at work.
    supervisor = Supervisor(config, connect_log(config), run_child, PRELOAD)
    with supervision.claimed(config), signals_stop() as stop:
        supervisor.run(stop)


def run_child(kind: str) -> None:
    """Run one processor in a forked process, as `ralo run` does."""
    from infra.cli import app

    settings.cache_clear()
    sys.exit(app(["run", kind], standalone_mode=False))


def scale(
    counts: Annotated[
        list[str] | None, typer.Argument(help="sampler=2 trainer=2; nothing shows the counts")
    ] = None,
) -> None:
    """Set how many samplers and trainers each policy has; the running supervisor follows."""
    wanted = {}
    for text in counts or []:
        kind, _, count = text.partition("=")
        if not count.isdigit():
            raise typer.BadParameter(f"{text}: write it as sampler=2")
        wanted[kind] = int(count)
    try:
        supervision.write_scale(settings(), wanted)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    found = supervision.read_scale(settings())
    print(" ".join(f"{kind}={found.get(kind, 1)}" for kind in supervision.SCALABLE))


def logs(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or their beginnings, e.g. trainer; or all.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("-n", help="Lines from the end of each.")] = 20,
) -> None:
    """Show the last lines of the processors' logs, each with its process's name."""
    files = _files(names or [""])
    if not files:
        raise typer.BadParameter(f"no log under {settings().state_dir / 'logs'} has such a name")
    seen = {path: _show_end(path, lines) for path in files}
    while follow:
        time.sleep(0.3)
        for path in _files(names or [""]):
            seen[path] = _show_from(path, seen.get(path, 0))


def _files(names: list[str]) -> list[Path]:
    folder = settings().state_dir / "logs"
    return sorted(p for p in folder.glob("*.log") if any(p.stem.startswith(n) for n in names))


def _show_end(path: Path, lines: int) -> int:
    data = path.read_bytes()
    for line in data.decode(errors="replace").splitlines()[-lines:]:
        print(f"{path.stem}: {line}")
    return len(data)


def _show_from(path: Path, offset: int) -> int:
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole, _, _ = data.rpartition(b"\n")
    for line in whole.decode(errors="replace").splitlines():
        print(f"{path.stem}: {line}", flush=True)
    return offset + len(whole) + (1 if whole else 0)
