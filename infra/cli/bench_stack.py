"""What benches on servers share: a stack to run on, and topics that do not outlive them."""

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from infra.settings import Settings, settings

if TYPE_CHECKING:
    from infra.kafka.log import KafkaLog


def say(line: str) -> None:
    """One line of progress."""
    print(f"bench: {line}", file=sys.stderr, flush=True)


def stack_of(undo: contextlib.ExitStack) -> Settings:
    """The settings of what runs, or of a stack for this bench alone."""
    from infra.embedded.stack import Stack

    config = settings()
    if not all(server.state in ("running", "external") for server in Stack(config).status()):
        folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="ralo-bench-"))
        config = config.model_copy(update={"state_dir": Path(folder)})
        stack = Stack(config)
        undo.callback(stack.down, say)
        stack.up(say)
    return config


def delete_topics(log: "KafkaLog") -> None:
    """Leave nothing behind: all topics of this bench's namespace."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": log.bootstrap, "log_level": 2, **log.extra})
    names = [n for n in admin.list_topics(timeout=10).topics if n.startswith(log.namespace)]
    if not names:
        return
    for future in admin.delete_topics(names, operation_timeout=10).values():
        with contextlib.suppress(Exception):
            future.result()
