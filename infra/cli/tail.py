"""`ralo tail`: events as they come, of one or several topics."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from infra.cli import records as shared


def tail(
    topics: Annotated[list[str], typer.Argument(help="Topics, such as samples evaluations.")],
    last: Annotated[
        int, typer.Option("-n", "--last", min=0, help="First the last so many that are there.")
    ] = 0,
    key: shared.Key = None,
    header: shared.Headers = None,
    mission: shared.Mission = None,
    policy: shared.Policy = None,
    where: shared.Where = None,
    follow: Annotated[bool, typer.Option(help="Go on with what comes, until Ctrl-C.")] = True,
    as_json: shared.AsJson = False,
    raw: shared.Raw = False,
    full: shared.Full = False,
    resolve: shared.Resolve = False,
) -> None:
    """Show events as they come: decoded, filtered, as lines or as JSON, until Ctrl-C."""
    from consumers.selection import Range
    from consumers.selection.newest import followed, newest
    from infra.connect import connect_log
    from infra.settings import settings

    style = shared.Style(as_json, raw, full, resolve)
    chosen = shared.selection(topics, Range(), key, header, mission, policy, where)
    printer, progress = shared.Printer(style, shared.store_for(style)), shared.Progress("tail")
    with shared.until_it_is_enough(chosen):
        log = connect_log(settings())
        ends = {p: end for topic in chosen.topics for p, (_, end) in log.ends(topic).items()}
        for record in newest(log, chosen, last, ends, progress):
            printer(record)
        sys.stdout.flush()
        for found in followed(log, chosen, ends) if follow else ():
            if found is not None:
                printer(found)
                sys.stdout.flush()
            elif shared.nobody_reads():
                break
