"""What all demos do first and last: start what does not run, and stop just that."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer

from infra import supervision
from infra.cli import on
from infra.cli.stack import say
from infra.connect import connect_log
from infra.embedded.stack import Stack
from infra.log import Log
from infra.settings import Settings, settings


def bring_up(config: Settings, scale: Mapping[str, int | None], undo: contextlib.ExitStack) -> None:
    """Start what does not run, and have `undo` stop just that."""
    stack = Stack(config)
    if on.is_elsewhere():
        if any(scale.values()):
            raise on.NotHere("scale the services: docker compose up -d --scale sampler=2")
        stack.up(say)
        return
    if not all(server.state in ("running", "external") for server in stack.status()):
        undo.callback(stack.down, say)
    stack.up(say)
    supervision.write_scale(config, {kind: n for kind, n in scale.items() if n is not None})
    if supervision.running(config) is None:
        undo.callback(supervision.stop, config, say)
    supervision.start(config, say)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Answer a further Ctrl-C with words: what is half stopped would be left running."""
    signal.signal(signal.SIGINT, lambda *_: say("stopping already, it takes seconds"))
    try:
        yield
    finally:
        # All is stopped: nothing may change the exit status any more.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def on_a_stack(work: Callable[[Settings, Log], dict[str, Any]]) -> dict[str, Any]:
    """The figures of some work on a stack that runs, or is started and left running.

    Ctrl-C stops what was started for it and exits.
    """
    config = settings()
    undo = contextlib.ExitStack()
    try:
        bring_up(config, {}, undo)
        return work(config, connect_log(config))
    except KeyboardInterrupt:
        with undisturbed():
            say("\ninterrupted")
            undo.close()
        raise typer.Exit(130) from None
