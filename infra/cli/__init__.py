"""The `ralo` command: a table of verbs, each imported when it is used.

A verb's module may import torch or faust; `ralo --help` imports none of them and answers in half a
second. A new verb is one line in `VERBS`: where its function (or its `typer.Typer`, for a group of
verbs) is, and its line of help.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from infra.cli import on

VERBS: Mapping[str, tuple[str, str, str]] = {
    "up": ("infra.cli.stack", "up", "Start Kafka and MinIO on this machine, and make the topics."),
    "down": ("infra.cli.stack", "down", "Stop all; --purge deletes the data too."),
    "status": ("infra.cli.stack", "status", "Show servers, processors and what is in flight."),
    "doctor": ("infra.cli.doctor", "doctor", "Check what RALO needs, and say how to mend it."),
    "config": ("infra.cli.config", "app", "Show every setting and where it comes from."),
    "demo": (
        "infra.cli.demo",
        "app",
        "Watch a language model learn, an arm learn, or rovers drive, in minutes.",
    ),
    "robot": ("infra.cli.robot", "app", "Start, show, stop and reset robots on this machine."),
    "simulate": ("infra.cli.simulate", "simulate", "Run simulated robots, or a load of frames."),
    "fuse": ("infra.cli.fuse", "fuse", "Fuse recorded frames again, with these settings."),
    "record": ("infra.cli.record", "app", "Record topics to MCAP, and mend a torn recording."),
    "bench": ("infra.cli.bench", "app", "Measure: latency, the loop, fusion, swaps."),
    "mission": ("infra.cli.mission", "app", "Submit, list, show, pause, resume, cancel missions."),
    "weights": ("infra.cli.weights", "app", "List, show, compare, export, roll back versions."),
    "ask": ("infra.cli.ask", "ask", "Ask a trained version a question."),
    "audit": ("infra.cli.audit", "audit", "Balance the books of the whole log and store."),
    "topics": ("infra.cli.topics", "app", "List and describe topics, and how far groups are."),
    "tail": ("infra.cli.tail", "tail", "Show events as they come, of one or several topics."),
    "cat": ("infra.cli.cat", "cat", "Show a range of a topic, filtered and decoded."),
    "trace": ("infra.cli.trace", "trace", "Follow an id to its causes and its effects."),
    "replay": ("infra.cli.replay", "replay", "Play a part of the log again, in a sandbox."),
    "samples": ("infra.cli.samples", "app", "Sample a group again, to the last bit."),
    "dlq": ("infra.cli.dlq", "app", "List, show, requeue and drop dead letters."),
    "chaos": (
        "infra.cli.chaos",
        "app",
        "Kill processes and servers; prove that all survive.",
    ),
    "run": ("infra.cli.run", "run", "Run one processor in the foreground."),
    "provision": ("infra.cli.provision", "provision", "Make the topics and the bucket."),
    "health": ("infra.cli.health", "health", "Say whether the processor in here gets on."),
    "supervise": ("infra.cli.processes", "supervise", "Run what missions need, in the foreground."),
    "scale": ("infra.cli.processes", "scale", "Set how many samplers and trainers a policy has."),
    "logs": ("infra.cli.processes", "logs", "Show what the processors say."),
    "track": ("infra.cli.track", "app", "Send the curves to TensorBoard or W&B."),
    "schemas": ("infra.cli.schemas", "schemas", "Write or check the JSON Schemas of all events."),
    "test": ("infra.cli.testing", "app", "Run the project's tests."),
}
"""Verb: its module, the function or `typer.Typer` in it, its line in `ralo --help`."""

# Plain help: importing rich for a box around it would double the time of `ralo --help`.
PLAIN: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "add_completion": False,
}

OUR_PACKAGES = {"schemas", "producers", "streams", "consumers", "infra"}


class LazyGroup(TyperGroup):
    """A group whose listing comes from `VERBS` and whose commands are imported when invoked."""

    def __init__(self, **attributes: Any) -> None:
        listed = {name: TyperCommand(name, help=line) for name, (_, _, line) in VERBS.items()}
        super().__init__(**{**attributes, "commands": listed})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the real command in place of the listed one."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(name) if name else None, rest


def load(name: str) -> Any:
    """Import the verb `name` and return its command."""
    module, attribute, line = VERBS[name]
    target = getattr(importlib.import_module(module), attribute)
    if isinstance(target, typer.Typer):
        target.rich_markup_mode = None
        target.info.help = target.info.help or line
        return typer.main.get_command(target)
    single = typer.Typer(**PLAIN)
    single.command(name)(target)
    return typer.main.get_command(single)


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, **PLAIN)


@app.callback()
def root(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from.")
    ] = False,
) -> None:
    """RALO Streams: one log to learn from and to act on.

    With --on compose a verb talks to the stack of docker-compose.yml on this machine.
    """


def main() -> None:
    """Run `ralo`; our own errors are a line on stderr and exit status 1, others a traceback."""
    try:
        chosen, sys.argv[1:] = on.take_on(sys.argv[1:], os.environ)
        if chosen == on.COMPOSE:
            os.environ.update(on.compose_environ(on.ROOT, os.environ))
        app()
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] in OUR_PACKAGES
        if not ours or "--traceback" in sys.argv:
            traceback.print_exc()
        else:
            print(f"ralo: {error}", file=sys.stderr)
        sys.exit(1)
