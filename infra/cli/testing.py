"""`ralo test`: the project's tests, with a Kafka and a MinIO of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from infra.cli import PLAIN

ROOT = Path(__file__).resolve().parents[2]

ALL_CORES = ["-n", "auto", "--dist", "worksteal"]
USUAL = ["-m", "not compose and not chaos"]
SHARING_NOTHING = ["-m", "not stack and not compose and not chaos", *ALL_CORES]
ON_SERVERS = ["-m", "stack and not compose and not chaos", "-n", "2", "--dist", "loadfile"]
COMPOSE = ["-m", "compose"]
CHAOS = ["-m", "chaos"]
FAST = ["-m", "not stack and not slow and not chaos", *ALL_CORES]
FAST_FOLDERS = ["tests/unit", "tests/contract", "tests/simulation"]


NO_TESTS = 5
"""pytest's exit status where no test was selected."""


class NoCheckout(Exception):
    """The tests are not here: this is not a checkout with its development packages."""


app = typer.Typer(**PLAIN)


@app.command(context_settings={"ignore_unknown_options": True})
def test(
    pytest_arguments: Annotated[
        list[str] | None, typer.Argument(help="Passed on to pytest, options too.")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Only what needs no server.")] = False,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Only runs in which processes and servers are killed.")
    ] = False,
    compose: Annotated[
        bool, typer.Option("--compose", help="Only the compose stack, on a container engine.")
    ] = False,
) -> None:
    """Run the tests: everything, on a Kafka and a MinIO started for them, or with --fast in memory.

    A running `ralo up` is neither used nor disturbed. With --servers containers Kafka and MinIO are
    started by testcontainers. Whole runs under kills (--chaos) and the stack of docker-compose.yml
    (--compose) are tests of their own. Tests that share nothing run on all cores, then those on
    servers in two processes, each with a Kafka and a MinIO that its tests share.
    """
    if not (ROOT / "tests").is_dir() or importlib.util.find_spec("pytest") is None:
        raise NoCheckout(f"no tests or no pytest for {ROOT}: run ./ralo test in a checkout")
    given = pytest_arguments or []
    chosen = any((ROOT / argument.partition("::")[0]).exists() for argument in given)
    runs = [COMPOSE if compose else CHAOS if chaos else USUAL]
    if fast:
        runs = [[*FAST, *([] if chosen else FAST_FOLDERS)]]
    elif runs == [USUAL] and not chosen:
        runs = [SHARING_NOTHING, ON_SERVERS]
    statuses = {_pytest([*run, *given]) for run in runs}
    # A run that selects nothing is none to complain of where the other selects something.
    raise typer.Exit(max(statuses - {NO_TESTS}, default=NO_TESTS))


def _pytest(arguments: list[str]) -> int:
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment()).returncode


def environment() -> dict[str, str]:
    """Return the tests' environment: no setting of the user's stack, one thread, shared caches."""
    kept = ("RALO_CACHE_DIR", "RALO_TEST_KEEP_STACK")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RALO_") or k in kept}
    return {"OMP_NUM_THREADS": "1", **inherited}
