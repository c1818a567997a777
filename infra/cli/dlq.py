"""`ralo dlq`: dead letters: list, show, send again (each once), drop."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli import PLAIN
from infra.cli.counting import Counting
from infra.settings import settings

if TYPE_CHECKING:
    from consumers.deadletters.book import Book, Letter
    from consumers.deadletters.filters import Filter
    from consumers.deadletters.patch import Patch
    from consumers.deadletters.resolve import Decision, Outcome
    from infra.log import Log

app = typer.Typer(no_args_is_help=True, **PLAIN)

Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[AT]...",
        help="Letters: `dead-letters[0]@12`, `12`, or where the dead record lies.",
    ),
]
OfTopic = Annotated[list[str] | None, typer.Option("--topic", help="Of records of this topic.")]
OfReason = Annotated[list[str] | None, typer.Option("--reason", help="Dead for this reason.")]
OfProcessor = Annotated[list[str] | None, typer.Option("--processor", help="Buried by this one.")]
OfWhere = Annotated[
    str | None,
    typer.Option(
        help="An expression in CEL over at, origin, topic, reason, detail, processor, headers, "
        "timestamp_ms, buried_ms, size_bytes, and `original`, the original value where it is "
        "JSON: `original.mission_id == 'spell'`."
    ),
]
Every = Annotated[bool, typer.Option("--all", help="All letters that wait.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Note = Annotated[str, typer.Option(help="Why; kept in the log.")]
Batch = Annotated[int, typer.Option(min=1, max=2000, help="Letters in one transaction.")]


@app.command("list")
def list_letters(
    topic: OfTopic = None,
    reason: OfReason = None,
    processor: OfProcessor = None,
    where: OfWhere = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Those requeued and dropped too.")
    ] = False,
    last: Annotated[int, typer.Option(min=0, help="How many of the newest to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the letters that wait, by topic and reason, and the newest one by one."""
    from infra.cli.dlq_view import listing, print_listing

    log, by = _log(), _filter(topic, reason, processor, where)
    book, say = _book(log), Counting("dlq")
    letters = by.select(log, list(book.letters.values() if resolved else book.waiting()), say)
    say.end()
    found = listing(book, letters, last)
    print(json.dumps(found)) if as_json else print_listing(found)


@app.command()
def show(
    at: Annotated[str, typer.Argument(help="A letter, or where the dead record lies.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the original value's bytes, nothing else.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a letter: what died, why, and what became of it."""
    from consumers.deadletters.book import contents, unpacked
    from infra.cli.dlq_view import letter_document, print_letter

    log = _log()
    book = _book(log)
    found = list(contents(log, book.named(at)))
    if raw:
        sys.stdout.buffer.write(unpacked(found[0][2].value_base64) or b"")
        return
    documents = [letter_document(book, letter, event) for letter, _, event in found]
    if as_json:
        print(json.dumps(documents[0] if len(documents) == 1 else documents))
        return
    for document in documents:
        print_letter(document)


@app.command()
def requeue(
    places: Places = None,
    topic: OfTopic = None,
    reason: OfReason = None,
    processor: OfProcessor = None,
    where: OfWhere = None,
    every: Every = False,
    patch: Annotated[
        str | None,
        typer.Option(help="A JSON merge patch (RFC 7396) of the original value, or @FILE."),
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="A field of it: dotted.key=value.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Send even what does not decode, to be dead again.")
    ] = False,
    dry_run: DryRun = False,
    note: Note = "",
    batch: Batch = 500,
    as_json: AsJson = False,
) -> None:
    """Send dead records again, fixed where need be; each once, whatever is killed meanwhile.

    A record keeps key, headers and time, and gets the header `requeue-of`. All are judged before
    the first is sent; exit status 1 where some are refused.
    """
    from consumers.audit.store import StoreChecker
    from consumers.deadletters.requeue import Request, decisions, plan
    from consumers.deadletters.rules import Judge
    from infra.cli.dlq_view import plan_document, print_plan
    from infra.connect import connect_store

    log, by, fix = _log(), _filter(topic, reason, processor, where), _patch(patch, sets)
    book, say = _book(log, settled=not dry_run), Counting("dlq")
    letters = _chosen(log, book, places, by, every, say)
    request = Request(fix, force, bool(places), note)
    judge = Judge(log, StoreChecker(connect_store(settings())))
    made = plan(log, book, letters, judge, request, say)
    say.end()
    document = plan_document(made, dry_run)
    if not as_json:
        print_plan(document)
    if not dry_run:
        found = decisions(log, made.accepted, request)
        document |= _carry_out(log, book, found, len(made.accepted), batch, as_json)
    if as_json:
        print(json.dumps(document))
    if made.refused:
        raise typer.Exit(1)


@app.command()
def drop(
    places: Places = None,
    topic: OfTopic = None,
    reason: OfReason = None,
    processor: OfProcessor = None,
    where: OfWhere = None,
    every: Every = False,
    dry_run: DryRun = False,
    note: Note = "",
    batch: Batch = 500,
    as_json: AsJson = False,
) -> None:
    """Say that these letters need nothing more; they stay in the log."""
    from consumers.deadletters.requeue import Plan
    from consumers.deadletters.resolve import Decision
    from infra.cli.dlq_view import plan_document, print_plan

    log, by = _log(), _filter(topic, reason, processor, where)
    book, say = _book(log, settled=not dry_run), Counting("dlq")
    letters = _chosen(log, book, places, by, every, say)
    say.end()
    made = Plan(
        accepted=[letter for letter in letters if not book.resolved(letter)],
        settled=[letter for letter in letters if book.resolved(letter)],
    )
    document = plan_document(made, dry_run, "dropped")
    if not as_json:
        print_plan(document)
    if not dry_run:
        found = (Decision(letter, "dropped", note) for letter in made.accepted)
        document |= _carry_out(log, book, found, len(made.accepted), batch, as_json)
    if as_json:
        print(json.dumps(document))


def _carry_out(
    log: Log, book: Book, found: Iterable[Decision], of: int, batch: int, quiet: bool
) -> dict[str, Any]:
    """Do it, with progress; answers what was done."""
    from consumers.deadletters.resolve import Resolver
    from infra.faults import crash_points

    say = Counting("dlq")
    resolver = Resolver(
        log,
        book,
        crash_points(os.environ.get("RALO_CRASH_AT")),
        batch,
        report=lambda done: say("letters done", done, of),
    )
    try:
        outcome = resolver.run(found)
    except KeyboardInterrupt:
        say.end()
        print(_result(resolver.outcome) + "; run it again for the rest", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        say.end()
    if not quiet:
        print(_result(outcome))
    return {
        "run": outcome.run,
        "done": outcome.done,
        "done_by_others": outcome.before,
        "transactions": outcome.transactions,
    }


def _result(outcome: Outcome) -> str:
    from infra.cli.dlq_view import count_of

    others = f", {outcome.before:,} by another meanwhile" if outcome.before else ""
    return (
        f"{count_of(outcome.done)} done{others} (run {outcome.run}, "
        f"transactions: {outcome.transactions:,})"
    )


def _log() -> Log:
    from infra.connect import connect_log

    return connect_log(settings())


def _book(log: Log, settled: bool = False) -> Book:
    """The book as of now; `settled`: without waiting for what a killed run has left open."""
    from consumers.deadletters.book import Book
    from consumers.deadletters.resolve import settle

    if settled:
        settle(log)
    return Book.read(log)


def _filter(
    topics: list[str] | None,
    reasons: list[str] | None,
    processors: list[str] | None,
    text: str | None,
) -> Filter:
    from consumers.deadletters.filters import Filter, Where

    where = None if text is None else Where(text)
    return Filter(topics or (), reasons or (), processors or (), where)


def _chosen(
    log: Log, book: Book, places: list[str] | None, by: Filter, every: bool, say: Counting
) -> list[Letter]:
    from consumers.deadletters.filters import chosen

    if not places and not every and by.takes_all:
        raise typer.BadParameter(
            "name letters, narrow them by --topic, --reason, --processor or --where, or say --all"
        )
    if places and every:
        raise typer.BadParameter("letters are named, so --all says nothing")
    return chosen(log, book, places or (), by, say)


def _patch(text: str | None, sets: list[str] | None) -> Patch:
    from consumers.deadletters.patch import BadPatch, parse_patch

    try:
        if text is not None and text.startswith("@"):
            text = Path(text[1:]).read_text()
        return parse_patch(text, sets or ())
    except (OSError, BadPatch) as error:
        raise typer.BadParameter(str(error)) from error
