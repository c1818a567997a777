"""`ralo bench`: measurements, each a ratio against a named peer or limit in the same run."""

import importlib

import typer

app = typer.Typer(no_args_is_help=True)

BENCHES = {
    "latency": ("infra.cli.bench_latency", "latency"),
    "loop": ("infra.cli.bench_loop", "loop"),
    "fusion": ("infra.cli.bench_fusion", "fusion"),
    "replay": ("infra.cli.bench_replay", "replay"),
    "swaps": ("infra.cli.bench_swaps", "swaps"),
}
"""Name: the module and the function in it."""


def _register() -> None:
    for name, (module, function) in BENCHES.items():
        app.command(name)(getattr(importlib.import_module(module), function))


_register()
