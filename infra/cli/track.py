"""`ralo track`: sends the curves of the log to an experiment tracker."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.interrupts import signals_stop

if TYPE_CHECKING:
    from consumers.trackers.follow import Sink

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

Policy = Annotated[str | None, typer.Option(help="This policy alone; all by default.")]
Once = Annotated[bool, typer.Option("--once", help="Stop at the log's end, do not follow it.")]


@app.command()
def tensorboard(
    logdir: Annotated[Path, typer.Option(help="Where `tensorboard --logdir` looks.")],
    policy: Policy = None,
    once: Once = False,
) -> None:
    """Write TensorBoard event files, one folder a policy."""
    from consumers.trackers.tensorboard import TensorBoardSink

    _need("tensorboard")
    _track(TensorBoardSink(logdir), logdir, policy, once)


@app.command()
def wandb(
    project: Annotated[str, typer.Option(help="The project of the runs.")],
    folder: Annotated[Path, typer.Option("--dir", help="Where offline runs are written.")] = Path(),
    online: Annotated[bool, typer.Option("--online", help="Send to the server at once.")] = False,
    policy: Policy = None,
    once: Once = False,
) -> None:
    """Log to Weights & Biases, offline by default: `wandb sync --append` sends it later."""
    from consumers.trackers.wandb import WandbSink

    _need("wandb")
    _track(WandbSink(project, folder, online), folder / "wandb", policy, once)


def _need(package: str) -> None:
    """Stop where the optional package is not installed."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        typer.echo(f"ralo track {package}: install it with: pip install {package}", err=True)
        raise typer.Exit(1)


def _track(sink: "Sink", folder: Path, policy: str | None, once: bool) -> None:
    from consumers.trackers.follow import Memory, track
    from infra.connect import connect_log, connect_store
    from infra.settings import settings

    log, store = connect_log(settings()), connect_store(settings())
    if not once:
        typer.echo(f"following the log into {folder}; Ctrl-C ends it", err=True)
    try:
        with signals_stop() as stop:
            written = track(log, store, sink, Memory(folder, policy), stop, policy, once)
    finally:
        sink.close()
    typer.echo(f"{written:,} versions and evaluations written below {folder}", err=True)
