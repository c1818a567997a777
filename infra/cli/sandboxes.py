"""`ralo replay list` and `drop`: the sandboxes that replays and what-ifs made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.stack import AsJson, say

if TYPE_CHECKING:
    from infra.settings import Settings


class NoSandbox(Exception):
    """There is no sandbox of that name."""


def list_(as_json: AsJson = False) -> None:
    """List the sandboxes: how many records, topics that have some, objects of their own."""
    from infra.sandbox import sandboxes
    from infra.settings import settings

    config = settings()
    found = [_counted(config, name) for name in sandboxes(config)]
    if as_json:
        print(json.dumps(found))
        return
    if not found:
        say("there are no sandboxes: `ralo replay` makes one")
        return
    _print(found)


def drop(
    name: Annotated[str, typer.Argument(help="The sandbox.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a sandbox: its topics, groups and objects, and nothing of anything else.

    Stop first what works in it.
    """
    from infra.sandbox import namespace_of, remove, sandboxes
    from infra.settings import settings

    config, prefix = settings(), namespace_of(name)
    known = sandboxes(config)
    if name not in known:
        raise NoSandbox(f"no sandbox {name!r}: there are {', '.join(known) or 'none'}")
    counted = _counted(config, name)
    question = (
        f"Delete all topics and groups of {prefix} ({counted['records']:,} records) and "
        f"{counted['objects']:,} objects?"
    )
    if not yes and not typer.confirm(question):
        raise typer.Exit(1)
    counted["objects"] = remove(config, name)
    if as_json:
        print(json.dumps(counted))
    else:
        print(
            f"deleted {prefix}: {counted['records']:,} records in {len(counted['topics'])} topics, "
            f"{counted['objects']:,} objects"
        )


def _counted(config: Settings, name: str) -> dict[str, Any]:
    """What is in a sandbox: offsets that its topics hold, and objects of its own."""
    from infra.connect import connect_log, connect_store
    from infra.log import LogUnavailable
    from infra.sandbox import settings_for
    from schemas.topics import TOPICS

    inside = settings_for(config, name)
    log, topics = connect_log(inside), dict[str, int]()
    for topic in TOPICS:
        try:
            ends = log.ends(topic).values()
        except LogUnavailable:
            continue  # Whoever made this sandbox had no need of it.
        if count := sum(after - first for first, after in ends):
            topics[topic] = count
    objects = sum(1 for _ in connect_store(inside).keys(""))
    records = sum(topics.values())
    return {"sandbox": name, "records": records, "topics": topics, "objects": objects}


def _print(found: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("sandbox")
    table.add_column("records", justify="right")
    table.add_column("objects", justify="right")
    table.add_column("topics")
    for one in found:
        parts = ", ".join(f"{topic} {count:,}" for topic, count in one["topics"].items())
        table.add_row(one["sandbox"], f"{one['records']:,}", f"{one['objects']:,}", parts)
    Console(highlight=False).print(table)
