"""`ralo audit`: balances the books of the whole log and store."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.counting import Counting

if TYPE_CHECKING:
    from rich.table import Table

    from consumers.audit import AuditReport


def audit(
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    policy: Annotated[str | None, typer.Option(help="Audit this policy alone.")] = None,
    mission: Annotated[str | None, typer.Option(help="Audit the policy of this mission.")] = None,
    no_objects: Annotated[
        bool, typer.Option("--no-objects", help="Do not look whether the store has the objects.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="List every invariant, also those that hold.")
    ] = False,
) -> None:
    """Balance the books of the whole log and store; exit status 1 on a breach."""
    from consumers.audit import NoObjects
    from consumers.audit.log import audit_log
    from consumers.audit.store import StoreChecker
    from infra.connect import connect_log, connect_store
    from infra.settings import settings

    config, say = settings(), Counting("audit")
    objects = (
        NoObjects()
        if no_objects
        else StoreChecker(connect_store(config), lambda done, of: say("objects", done, of))
    )
    report = audit_log(connect_log(config), objects, policy=policy, mission=mission, report=say)
    say.end()
    if json:
        print(report.model_dump_json(indent=2))
    else:
        show(report, verbose)
    if not report.ok:
        raise typer.Exit(1)


def show(report: "AuditReport", verbose: bool = False) -> None:
    """Print a report for a person."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_balance(report))
    broken = [invariant for invariant in report.invariants if invariant.broken]
    for invariant in report.invariants if verbose else broken:
        mark = "[red]broken[/red]" if invariant.broken else "[green]holds[/green]"
        counts = f"{invariant.broken:,} of {invariant.checked:,}" if invariant.broken else ""
        console.print(f"{mark} {invariant.name} {counts}: {invariant.meaning}", markup=True)
        for where in invariant.first:
            console.print(f"    {where}", markup=False)
    checked = sum(invariant.checked for invariant in report.invariants)
    of = f"{len(report.invariants)} invariants"
    verdict = (
        f"[green]the books balance[/green]: {checked:,} checks of {of}"
        if report.ok
        else f"[red]{len(broken)} of {of} broken[/red]"
    )
    console.print(
        f"{verdict}; lost {report.lost:,}, duplicated {report.duplicated:,}, "
        f"bad references {report.bad_refs:,}, duplicates dropped {report.duplicates_dropped:,}"
    )


def _balance(report: "AuditReport") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("total", justify="right")
    table.add_column("of which")
    for name, total, parts in _rows(report):
        table.add_row(name, total, parts)
    return table


def _rows(report: "AuditReport") -> Iterator[tuple[str, str, str]]:
    n = Counter(report.counts)
    megabytes = f"{n['objects_checked']:,} checked, {n['objects_bytes'] / 1e6:,.1f} MB"
    yield "records", f"{n['records']:,}", _parts(n, "", _LETTERS)
    yield "problems", f"{n['problems']:,}", _parts(n, "problems_", dict.fromkeys(_FATES, ""))
    groups = {"learnt": "", "dropped": _listed(report.dropped)}
    groups |= dict.fromkeys(("refused", "dead", "lost", "waiting"), "") | {"open": " in uploads"}
    groups["replayed"] = " from another log"
    yield "sample groups", f"{n['groups']:,}", _parts(n, "groups_", groups)
    uploads = {
        "applied": "",
        "refused": _listed(report.refused),
        "dead": "",
        "lost": "",
        "open": "",
    }
    yield "uploads", f"{n['uploads']:,}", _parts(n, "uploads_", uploads)
    yield "versions", f"{n['versions']:,}", _parts(n, "versions_", {"expired": ""})
    yield "objects", f"{n['objects_needed']:,}", f"{megabytes}, {n['objects_expired']:,} expired"
    yield from _robot_rows(n)
    yield "not learnt from", f"{report.unused_share:.1%}", "of the groups settled"


def _robot_rows(n: Counter[str]) -> Iterator[tuple[str, str, str]]:
    """What robots sensed, were told and did; nothing where there are none."""
    for what, remarks in _ROBOTS.items():
        if total := n[what]:
            name = what.replace("_", " ")
            yield name, f"{total:,}", _parts(n, f"{what}_", dict.fromkeys(remarks, ""))


_ROBOTS = {
    "frames": ("missing", "copied", "unfused", "waiting"),
    "states": ("copied",),
    "commands": (
        *("applied", "superseded", "expired", "duplicate", "old_epoch", "unsafe", "lost"),
        *("open", "unsent", "copied"),
    ),
    "feedback": ("missing", "copied"),
    "releases": ("committed", "rolled_back"),
    "safety_events": ("copied",),
}
_LETTERS = {"dead_letters": "", "letters_requeued": "", "letters_dropped": ""}
_FATES = ("sampled", "cancelled", "dead", "in_flight", "lost")


def _parts(counts: Mapping[str, int], prefix: str, remarks: Mapping[str, str]) -> str:
    """What the counts with this prefix are, each with a remark; zeros are left out."""
    parts = ((counts[prefix + name], name, remark) for name, remark in remarks.items())
    return ", ".join(f"{n:,} {name.replace('_', ' ')}{remark}" for n, name, remark in parts if n)


def _listed(reasons: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {n:,}' for name, n in reasons.items())})" if reasons else ""
