"""`ralo cat`: a range of topics, filtered and decoded."""

from __future__ import annotations

import itertools
from typing import Annotated

import typer

from infra.cli import PLAIN
from infra.cli import records as shared
from infra.cli.stack import say

cat = typer.Typer(**PLAIN)


# So that the range -3 is no option.
@cat.command("cat", context_settings={"ignore_unknown_options": True})
def show(
    topic: Annotated[
        str,
        typer.Argument(
            help="A topic, one partition as samples[2], one record as samples[2]@41; "
            "or several topics with commas, which are merged by time."
        ),
    ],
    range_: Annotated[
        str,
        typer.Argument(
            metavar="RANGE",
            help="start, 47, 47:, :47, 10:20, +2 (without the first two), -3 (the last three), "
            "@-10m:end, @2026-11-22T00:00:00Z, …; offsets are per partition, the end is not in it.",
        ),
    ] = "start",
    key: shared.Key = None,
    header: shared.Headers = None,
    mission: shared.Mission = None,
    policy: shared.Policy = None,
    where: shared.Where = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", min=1, help="Stop after so many records.")
    ] = None,
    as_json: shared.AsJson = False,
    raw: shared.Raw = False,
    full: shared.Full = False,
    resolve: shared.Resolve = False,
) -> None:
    """Show a range of a topic, in the order of time: decoded, filtered, as lines or as JSON."""
    from consumers.selection import Range, merged, parse_range
    from consumers.selection.ranges import Bound
    from infra.connect import connect_log
    from infra.settings import settings

    style = shared.Style(as_json, raw, full, resolve)
    name, partition, offset = shared.place(topic)
    if offset is None:
        range = parse_range(range_)
    else:
        range = Range(Bound("offset", offset), Bound("offset", offset + 1))
    chosen = shared.selection(
        name.split(","), range, key, header, mission, policy, where, partition
    )
    printer, progress = shared.Printer(style, shared.store_for(style)), shared.Progress("cat")
    with shared.until_it_is_enough(chosen):
        found = merged(connect_log(settings()), chosen, progress)
        for record in itertools.islice(found, count):
            printer(record)
            progress.found()
        if not printer.printed:
            say(f"cat: no record of {name} is in {range_ if offset is None else topic} and passes;")
            newest = f"ralo tail {name.replace(',', ' ')} --no-follow -n 1"
            say(f"  markers of transactions take offsets too: `{newest}` shows the newest record")
