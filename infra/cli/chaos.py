"""`ralo chaos`: everything is killed, broken and slowed down by a seed, and then the books balance.

A stack of its own, in a folder of its own: a language model and an arm learn, the arm acts. When
the faults are over the whole log is audited and each policy's chain of versions is proved. What was
done and how it went is appended to a ledger; `ralo chaos report` makes a page of it.
"""

import contextlib
import json as json_module
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli import PLAIN
from infra.interrupts import handled

if TYPE_CHECKING:
    from consumers.reliability.ledger import FaultLine, RunLine
    from infra.cli.chaos_run import ChaosRun

app = typer.Typer(**PLAIN)

LEDGER = Path("docs/reliability.jsonl")
MINUTES = 24.0
MINUTES_MAX = 25.0
"""With start, end, audit and proofs a run then takes half an hour at most."""


@app.callback(invoke_without_command=True)
def chaos(
    context: typer.Context,
    seed: Annotated[int, typer.Option(help="Of the schedule of faults.")] = 1,
    minutes: Annotated[
        float, typer.Option(min=0.1, max=MINUTES_MAX, help="How long things are broken.")
    ] = MINUTES,
    resume: Annotated[
        bool, typer.Option("--resume", help="Append a run to a ledger that there is.")
    ] = False,
    kinds: Annotated[
        str, typer.Option(help="What is broken, separated by commas; everything by default.")
    ] = "",
    pace: Annotated[
        float, typer.Option(min=0.1, max=20, help="Break things so many times as often.")
    ] = 1.0,
    ledger: Annotated[Path | None, typer.Option(help="Where each fault becomes a line.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the run's line as JSON.")] = False,
) -> None:
    """Kill processes and servers by a seed, then audit the log and prove every weight version.

    Exit status 1 where anything is lost, doubled, out of order, not reproduced or not back. Ctrl-C
    ends the faults early, and the run goes on to its books; a second one ends it.
    """
    if context.invoked_subcommand is not None:
        return
    from consumers.reliability.ledger import append, mend

    path = ledger or LEDGER
    if path.exists() and not resume:
        raise typer.BadParameter(f"{path} is there already: --resume appends a run to it")
    if mend(path):
        _say(f"{path}: the last line was torn, and is cut off")
    with _stack(seed) as (stack, keep):
        run = _run(stack, path, seed, minutes, kinds, pace)
        faults, line = _through(run, stack)
        append(path, [line])
        if not line.ok:
            keep()
    _tell(faults, line, path, json)
    if not line.ok:
        raise typer.Exit(1)


@app.command()
def report(
    ledger: Annotated[Path | None, typer.Option(help="The ledger of the runs.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write the page here instead of printing it.")
    ] = None,
) -> None:
    """Make a page of a ledger: totals, times to recover, books and proofs, seeds and machines."""
    from consumers.reliability.ledger import lines
    from consumers.reliability.report import page

    path = ledger or LEDGER
    text = page(list(lines(path)), str(path), str(write or "docs/reliability.md"))
    if write is None:
        print(text, end="")
    else:
        write.write_text(text)
        _say(f"wrote {write}")


@contextlib.contextmanager
def _stack(seed: int) -> Iterator[Any]:
    """A stack in a folder of its own, which goes with it unless it is to be kept."""
    from infra.cli.chaos_stack import ChaosStack
    from infra.settings import settings

    name = f"{datetime.now():%Y%m%d-%H%M%S}-seed-{seed}"
    folder = settings().state_dir / "chaos" / name
    kept: list[Path] = []
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    undo = contextlib.ExitStack()
    try:
        stack = ChaosStack(settings().model_copy(update={"state_dir": folder}), _say)
        undo.callback(stack.close)
        yield stack, lambda: kept.append(folder)
    except Exception:
        kept.append(folder)
        raise
    finally:
        with _undisturbed():
            undo.close()
        signal.signal(signal.SIGTERM, before)
        if kept:
            there = f"RALO_STATE_DIR={folder}"
            _say(f"to look at it: {there} ./ralo up && {there} ./ralo audit --verbose")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _run(stack: Any, path: Path, seed: int, minutes: float, kinds: str, pace: float) -> "ChaosRun":
    from consumers.reliability.ledger import append, next_run
    from infra.cli.chaos_run import ChaosRun

    wanted = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    try:
        return ChaosRun(
            stack,
            next_run(path),
            seed,
            minutes,
            wanted,
            pace,
            lambda line: append(path, [line]),
            _say,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _through(run: "ChaosRun", stack: Any) -> "tuple[list[FaultLine], RunLine]":
    """Faults, the end of the missions, audit and proofs."""
    from infra.cli import chaos_world
    from infra.cli.chaos_proof import proofs

    with _first_ctrl_c(run):
        faults = run.break_things()
        run.drain()
        books = run.books()
        found = proofs(stack.config, chaos_world.POLICIES, _say)
        return faults, run.line(faults, books, found)


@contextlib.contextmanager
def _first_ctrl_c(run: "ChaosRun") -> Iterator[None]:
    """Have the first Ctrl-C end the faults alone; the second is one."""

    def first(number: int, frame: Any) -> None:
        _say("no more faults, on to the books; once more Ctrl-C ends it")
        run.stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with handled(first, signal.SIGINT):
        yield


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    with handled(lambda *_: _say("stopping already, it takes seconds"), signal.SIGINT):
        yield


def _say(line: str) -> None:
    print(f"chaos: {line}", file=sys.stderr, flush=True)


def _tell(faults: "list[FaultLine]", line: "RunLine", path: Path, as_json: bool) -> None:
    if as_json:
        print(json_module.dumps(line.model_dump(mode="json"), indent=2))
        return
    done = [fault for fault in faults if fault.at_s is not None]
    kills = Counter(fault.kind for fault in done if fault.action == "kill")
    others = Counter(fault.action for fault in done if fault.action != "kill")
    books = line.books
    print(f"SIGKILLs: {', '.join(f'{kind} {count}' for kind, count in sorted(kills.items()))}")
    print(f"other faults: {', '.join(f'{kind} {count}' for kind, count in sorted(others.items()))}")
    print(f"{line.samples:,} samples, {line.versions:,} versions, {line.missions} missions")
    print(
        f"books: lost {books.lost}, duplicated {books.duplicated}, out of order "
        f"{books.order_violations}, bad references {books.bad_references}; not learnt from "
        f"{books.unused_share:.2%}"
    )
    for proof in line.proofs:
        print(
            f"proof of {proof.policy}: {proof.equal:,} of {proof.versions:,} versions equal, "
            f"{proof.gradients:,} gradients made again of their samples"
        )
    for breach in line.breaches:
        print(f"not as promised: {breach}")
    print(f"ledger: {path}")
