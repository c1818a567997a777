"""`ralo schemas`: the generated JSON Schemas and AsyncAPI document, shown, checked or written."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from infra import schema_docs


def schemas(
    check: Annotated[
        bool, typer.Option("--check", help="Exit 1 when a file is stale or a change breaks.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Bring the files up to date.")] = False,
    incompatible: Annotated[
        bool, typer.Option("--incompatible", help="Write even what old events would not survive.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List every event with its topic and key; check or write the files generated of them."""
    if check and write:
        raise typer.BadParameter("--check and --write exclude each other")
    if write:
        _tell("written", schema_docs.write(incompatible=incompatible), as_json)
    elif check:
        _check(as_json)
    else:
        _list(as_json)


def _check(as_json: bool) -> None:
    lines = schema_docs.breaches()
    lines += [f"{name}: stale, run `ralo schemas --write`" for name in schema_docs.stale()]
    _tell("problems", lines, as_json)
    if lines:
        raise typer.Exit(1)


def _list(as_json: bool) -> None:
    rows = [
        {"topic": event.topic, "type": schema_docs.event_type(event), "key": event.key_field}
        for event in schema_docs.events()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['topic']:18}  {row['type']:18}  key {row['key']}")
    print(f"\n{len(rows)} events; their JSON Schemas are in {schema_docs.GENERATED}")


def _tell(what: str, lines: list[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps({what: lines}))
        return
    for line in lines:
        print(line)
    print(f"{len(lines)} {what}")
