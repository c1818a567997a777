"""`ralo up`, `down` and `status`: the embedded stack from the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from infra import supervision
from infra.embedded.stack import Endpoints, ServerStatus, Stack
from infra.settings import settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def say(line: str) -> None:
    """Print a line of progress on stderr, which leaves stdout to results."""
    print(line, file=sys.stderr, flush=True)


def up(
    as_json: AsJson = False,
    servers_only: Annotated[
        bool, typer.Option("--servers-only", help="No processors: they run elsewhere.")
    ] = False,
) -> None:
    """Start Kafka and MinIO on this machine, make the topics, and supervise the processors.

    Running it again finds the running servers; whatever an interrupted run left is repaired.
    """
    endpoints = Stack(settings()).up(say)
    if not servers_only:
        supervision.start(settings(), say)
    if as_json:
        print(json.dumps(_public(endpoints)))
    else:
        print(f"Kafka   {endpoints.kafka}\nMinIO   {endpoints.s3.address}")
        print(f"state   {settings().state_dir}")


def down(
    purge: Annotated[bool, typer.Option("--purge", help="Delete topics and objects too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
) -> None:
    """Stop the processors, Kafka and MinIO; their data stays unless `--purge` is given."""
    stack = Stack(settings())
    question = f"Delete every topic and object under {settings().state_dir}?"
    if purge and not yes and not typer.confirm(question):
        raise typer.Exit(1)
    supervision.stop(settings(), say)
    stack.purge(say) if purge else stack.down(say)


def status(as_json: AsJson = False) -> None:
    """Show the servers, their ports, memory and disk, and the processors; 3 if one is not up."""
    servers = Stack(settings()).status()
    processors = supervision.processors_status()
    supervisor = supervision.running(settings())
    if as_json:
        rows = [server.as_dict() for server in servers]
        found = {"pid": supervisor.pid, "outdated": supervisor.outdated} if supervisor else None
        document = {"servers": rows, "processors": processors, "supervisor": found}
        print(json.dumps(document, default=str))
    else:
        _print_tables(servers, processors)
        if processors and supervisor is None:
            say("the processors' supervisor does not run: `ralo up` starts it")
        elif supervisor and supervisor.outdated:
            say("the processors run code from before an upgrade or edit: `ralo up` restarts them")
    if any(server.state not in ("running", "external") for server in servers):
        raise typer.Exit(3)


def _public(endpoints: Endpoints) -> dict[str, Any]:
    s3 = {k: v for k, v in asdict(endpoints.s3).items() if k not in ("access_key", "secret_key")}
    return {"kafka": endpoints.kafka, "s3": s3, "state_dir": str(settings().state_dir)}


def _print_tables(servers: list[ServerStatus], processors: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("server", "state", "address", "pid", "up", "memory", "disk", box=None)
    for server in servers:
        table.add_row(
            server.name,
            server.state,
            server.address or "",
            str(server.pid or ""),
            duration(server.uptime_s),
            megabytes(server.memory_bytes),
            megabytes(server.disk_bytes),
        )
    console.print(table)
    if processors:
        table = Table(*processors[0], box=None)
        for row in processors:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        console.print(table)


def duration(seconds: float | None) -> str:
    """Return a time span in its largest fitting unit, or nothing for None."""
    if seconds is None:
        return ""
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.1f} {unit}"
    return f"{seconds:.0f} s"


def megabytes(size_bytes: int | None) -> str:
    """Return a size in MB, or nothing for None."""
    return "" if size_bytes is None else f"{size_bytes / 1e6:,.1f} MB"
