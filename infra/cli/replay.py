"""`ralo replay`: a part of the log again, in a sandbox, at its pace or faster; and sandboxes."""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from infra.cli import PLAIN, replay_view
from infra.cli import records as shared
from infra.cli.sandboxes import drop, list_
from infra.cli.stack import say
from infra.interrupts import handled

if TYPE_CHECKING:
    from consumers.replay import Checked, Pace, Sent, Survey
    from consumers.selection import Selection
    from infra.kafka.log import KafkaLog
    from infra.settings import Settings

HELP = """Copy a part of the log into a sandbox, in the order of time, at its pace; never in place.

Key, headers, timestamp and partition stay; the header `replay-of` says where the original is.
Run processors on it with RALO_NAMESPACE=sandbox.NAME. in their environment.
"""

replay = typer.Typer(help=HELP, **PLAIN)
replay.command("list")(list_)
replay.command()(drop)


Look = Literal["size", "hash", "none"]
"""How closely the objects are looked at that events name."""


@dataclasses.dataclass(frozen=True)
class _Wish:
    """What was asked for beside the selection."""

    sandbox: str
    pace: Pace | None
    check: Look
    allow_missing: bool
    resume: bool
    append: bool
    as_json: bool


@replay.callback(invoke_without_command=True)
def play(
    context: typer.Context,
    topic: Annotated[
        list[str] | None, typer.Option(help="Replay this topic; all topics by default.")
    ] = None,
    range_: Annotated[
        str, typer.Option("--range", help="start, 47:, 10:20, -3, @-10m:end, …; as `ralo cat`.")
    ] = "start",
    mission: shared.Mission = None,
    policy: shared.Policy = None,
    key: shared.Key = None,
    header: shared.Headers = None,
    where: shared.Where = None,
    sandbox: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name; by default one of the time.")
    ] = None,
    speed: Annotated[
        str, typer.Option(metavar="N|max", help="So many times as fast, or as fast as it goes.")
    ] = "1",
    max_gap_s: Annotated[
        float | None, typer.Option(min=0, help="Make pauses that are longer so long.")
    ] = None,
    check: Annotated[
        Look, typer.Option(help="Look whether objects are there, or read and hash them.")
    ] = "size",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Replay although objects are missing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last copies in the sandbox.")
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Add to a sandbox that has records already.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be replayed, and copy nothing.")
    ] = False,
    through: Annotated[
        str | None,
        typer.Option(
            metavar="PROCESSORS",
            help="Have these work on it with other settings, and compare: `trainer,aggregator`, "
            "`fusion`, `fusion,controller`.",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Of --through.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings in a file, of --through.", exists=True)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Replay what is selected, or say what would be; `HELP` is what a person is told."""
    if context.invoked_subcommand is not None:
        return
    from consumers.selection import parse_range
    from schemas.topics import TOPICS

    chosen = shared.selection(
        topic or list(TOPICS), parse_range(range_), key, header, mission, policy, where
    )
    if through is None:
        _refuse_settings(setting, config)
        name = _bare(sandbox) or time.strftime("replay-%Y%m%d-%H%M%S", time.gmtime())
        pace = _pace(speed, max_gap_s)
        wish = _Wish(name, pace, check, allow_missing, resume, append, as_json)
        _look(chosen, wish) if dry_run else _replay(chosen, wish)
        return
    from infra.cli.whatif import run

    _refuse_beside_through(resume, append, dry_run, speed)
    run(
        through,
        selection=chosen,
        settings=setting or (),
        config_file=config,
        sandbox=sandbox,
        as_json=as_json,
    )


def _bare(sandbox: str | None) -> str:
    """The name of a sandbox that may have been given as its namespace."""
    from infra.overlay import SANDBOX

    name = sandbox or ""
    return name.removeprefix(SANDBOX).removesuffix(".") if name.startswith(SANDBOX) else name


def _pace(speed: str, max_gap_s: float | None) -> Pace | None:
    """The pace, or None for as fast as it goes; raises `BadReplay`."""
    from consumers.replay import BadReplay, Pace

    if speed == "max":
        return None
    try:
        factor = float(speed)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise BadReplay(f"--speed {speed}: a number above 0, such as 1 or 10, or `max`")
    return Pace(factor, max_gap_s)


def _refuse_settings(setting: list[str] | None, config: Path | None) -> None:
    from consumers.replay import BadReplay

    if setting or config:
        raise BadReplay("--set and --config are for processors: say which with --through")


def _refuse_beside_through(resume: bool, append: bool, dry_run: bool, speed: str) -> None:
    from consumers.replay import BadReplay

    if resume or append or dry_run or speed != "1":
        raise BadReplay("--through goes with none of --resume, --append, --dry-run and --speed")


# -- dry run ------------------------------------------------------------------------------------


def _look(chosen: Selection, wish: _Wish) -> None:
    from consumers.replay import survey
    from infra.connect import connect_log
    from infra.settings import settings

    config = settings()
    store = None if wish.check == "none" else _store(config)
    found = survey(connect_log(config), chosen, store, shared.Progress("replay"))
    _say_unfit(chosen)
    checked = _checked(found, config, wish)
    seconds = found.seconds_at(wish.pace) if wish.pace else replay_view.at_most_s(found)
    if wish.as_json:
        print(json.dumps(replay_view.survey_document(found, checked, wish.pace, seconds)))
    else:
        replay_view.show_survey(found, checked, wish.pace, seconds)


def _store(config: Settings) -> Any:
    from infra.connect import connect_store

    return connect_store(config)


def _say_unfit(chosen: Selection) -> None:
    if chosen.where is not None and chosen.where.unfit:
        say(
            f"--where could not be reckoned for {chosen.where.unfit:,} records, so they are left "
            f"out; the first: {chosen.where.unfit_because}"
        )


def _checked(found: Survey, config: Settings, wish: _Wish) -> Checked:
    """Look at the objects that were named, saying how far it is."""
    from consumers.replay import Checked, check_references

    if wish.check == "none" or not found.named:
        return Checked()
    tell = replay_view.Telling("objects looked at")
    checked = check_references(found.named, _store(config), wish.check, tell)
    checked.faults += found.unreadable
    return checked


# -- replay -------------------------------------------------------------------------------------


def _replay(chosen: Selection, wish: _Wish) -> None:
    from consumers.replay import BadReplay, refuse_in_place, refuse_twice
    from infra.connect import connect_log
    from infra.sandbox import settings_for
    from infra.settings import settings

    if wish.resume and wish.append:
        raise BadReplay("--resume leaves out what is there, --append does not: say one of them")
    config = settings()
    if "." in wish.sandbox:  # A namespace, perhaps one that is in use.
        refuse_in_place(config.namespace, wish.sandbox)
    inside = settings_for(config, wish.sandbox)
    refuse_in_place(config.namespace, inside.namespace)
    source, into = connect_log(config), connect_log(inside)
    try:
        found, checked = _surveyed(chosen, source, config, wish)
        _make(source, into, inside, chosen)
        if not wish.append and not wish.resume:
            refuse_twice(into, chosen.topics, wish.sandbox)
    except KeyboardInterrupt:
        say("interrupted before anything was copied")
        raise typer.Exit(130) from None
    left = _left(found, into, config.namespace) if wish.resume else found
    sent = _send(source, into, left, config.namespace, wish)
    document = replay_view.sent_document(sent, checked, wish.sandbox, inside.namespace, wish.pace)
    document["copied_before"] = found.records - left.records
    document["resume"] = _resume_command(wish.sandbox, chosen) if sent.interrupted else None
    if wish.as_json:
        print(json.dumps(document))
    else:
        replay_view.show_sent(document)
    if sent.interrupted:
        raise typer.Exit(130)


def _surveyed(
    chosen: Selection, source: KafkaLog, config: Settings, wish: _Wish
) -> tuple[Survey, Checked]:
    """What is selected and what of it is missing; raises `MissingReferences`, `BadReplay`."""
    from consumers.replay import BadReplay, Checked, MissingReferences, needs_survey, survey, whole

    check = wish.check != "none"
    if not needs_survey(chosen, check):
        found, checked = whole(source, chosen), Checked()
    else:
        chosen = dataclasses.replace(chosen, raw=not check)
        store = _store(config) if check else None
        found = survey(source, chosen, store, shared.Progress("replay"))
        _say_unfit(chosen)
        checked = _checked(found, config, wish)
    if not found.offsets:
        raise BadReplay("nothing is selected: `ralo cat` and --dry-run help to find out why")
    if checked.faults and not wish.allow_missing:
        raise MissingReferences(replay_view.refusal(checked))
    return found, checked


def _make(source: KafkaLog, into: KafkaLog, inside: Settings, chosen: Selection) -> None:
    from consumers.replay import prepare
    from infra.provision import make_bucket

    make_bucket(inside)
    if created := prepare(source, into, chosen.topics):
        say(f"made {len(created)} topics in {inside.namespace}")


def _left(found: Survey, into: KafkaLog, namespace: str) -> Survey:
    from consumers.replay import copied_so_far

    left = found.after(copied_so_far(into, namespace, list(found.offsets)))
    say(f"{found.records - left.records:,} of {found.records:,} are there already")
    return left


def _send(source: KafkaLog, into: KafkaLog, found: Survey, namespace: str, wish: _Wish) -> Sent:
    from consumers.replay import Sent, send

    sent = Sent()
    with _heeding_signals() as stop, replay_view.bar(sent, found, wish.pace):
        send(source, into, found.offsets, namespace, wish.pace, lambda: bool(stop), sent)
    return sent


@contextmanager
def _heeding_signals() -> Iterator[list[int]]:
    """Signals that came: the first asks to stop, the second ends the process."""
    came: list[int] = []

    def heed(number: int, frame: object) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)

    with handled(heed, signal.SIGINT, signal.SIGTERM):
        yield came


def _resume_command(sandbox: str, chosen: Selection) -> str:
    """The command that goes on, with times as they were meant at first."""
    words = sys.argv[1:]
    for option, value in (("--sandbox", sandbox), ("--range", replay_view.absolute(chosen.range))):
        words = [*_without(words, option), option, value]
    more = [] if "--resume" in words else ["--resume"]
    return shlex.join(["ralo", *words, *more])


def _without(words: list[str], option: str) -> list[str]:
    found, rest = iter(words), list[str]()
    for word in found:
        if word == option:
            next(found, None)
        elif not word.startswith(f"{option}="):
            rest.append(word)
    return rest
