"""`ralo up`, `down` and `status`: the embedded stack from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from infra import supervision
from infra.embedded.stack import Endpoints, ServerStatus, Stack
from infra.settings import SettingsError, kafka_bootstrap, settings

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
    purge: Annotated[bool, typer.Option("--purge", help="Delete all that is kept too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
) -> None:
    """Stop the processors, Kafka and MinIO; their data stays unless `--purge` is given.

    That deletes topics, objects, keys, logs and what `ralo scale` has set: all that RALO has in the
    state directory, and nothing else there.
    """
    stack = Stack(settings())
    question = f"Delete every topic, object, key and log under {settings().state_dir}?"
    if purge and not yes and not typer.confirm(question):
        raise typer.Exit(1)
    supervision.stop(settings(), say)
    stack.purge(say) if purge else stack.down(say)


def status(as_json: AsJson = False) -> None:
    """Show servers, processors, and what is in flight of each mission; 3 if a server is not up.

    A processor's lag is how many records wait for it and its like of the same policy.
    """
    # Imported here: what reads the log takes time that `up` and `down` need not pay.
    from infra.cli.at_work import with_lag

    servers = Stack(settings()).status()
    at_work, why = _missions_at_work(servers)
    processors = with_lag(supervision.processors_status(), at_work)
    supervisor = supervision.running(settings())
    if as_json:
        found = {"pid": supervisor.pid, "outdated": supervisor.outdated} if supervisor else None
        rows = [server.as_dict() for server in servers]
        document = {"servers": rows, "processors": processors, "supervisor": found}
        print(json.dumps(document | {"missions": at_work}, default=str))
    else:
        _print_servers(servers)
        _print_rows(processors)
        _print_rows([_line(row) for row in at_work or ()])
        if processors and supervisor is None:
            say("the processors' supervisor does not run: `ralo up` starts it")
        elif supervisor and supervisor.outdated:
            say("the processors run code from before an upgrade or edit: `ralo up` restarts them")
    if why:
        say(f"what is in flight is not known: {why}")
    if any(server.state not in ("running", "external") for server in servers):
        raise typer.Exit(3)


def _missions_at_work(servers: list[ServerStatus]) -> tuple[list[dict[str, Any]] | None, str]:
    """The rows, or None and why there are none."""
    from infra.cli.at_work import NotKnown, missions_at_work
    from infra.connect import connect_log

    (broker,) = (server for server in servers if server.name == "kafka")
    if broker.state not in ("running", "external"):
        return None, f"Kafka is {broker.state}"
    try:
        return missions_at_work(connect_log(settings()), kafka_bootstrap(settings())), ""
    except (NotKnown, SettingsError) as error:
        return None, str(error)


def _public(endpoints: Endpoints) -> dict[str, Any]:
    s3 = {k: v for k, v in asdict(endpoints.s3).items() if k not in ("access_key", "secret_key")}
    return {"kafka": endpoints.kafka, "s3": s3, "state_dir": str(settings().state_dir)}


def _print_servers(servers: list[ServerStatus]) -> None:
    _print_rows(
        [
            {
                "server": server.name,
                "state": server.state,
                "address": server.address,
                "pid": server.pid,
                "up": duration(server.uptime_s),
                "memory": megabytes(server.memory_bytes),
                "disk": megabytes(server.disk_bytes),
            }
            for server in servers
        ]
    )


def _line(at_work: Mapping[str, Any]) -> dict[str, str]:
    in_flight = ", ".join(f"{count} {name}" for name, count in at_work["in_flight"].items())
    ids = {name: at_work[name] for name in ("mission_id", "policy", "phase")}
    return ids | {"in flight": in_flight}


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table with the names of the first row's fields above it; nothing without rows."""
    from rich.console import Console
    from rich.table import Table

    if rows:
        table = Table(*rows[0], box=None)
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        Console().print(table)


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
