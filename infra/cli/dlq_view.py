"""What `ralo dlq` prints: letters, plans, and what became of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from consumers.deadletters.book import Book, Letter, unpacked
from consumers.deadletters.patch import document_of
from consumers.deadletters.requeue import Plan
from schemas.learning import DeadLetter

SHOWN = 5
"""Refusals that are printed; in JSON there are all."""
_VALUE_CHARS = 4000


def listing(book: Book, letters: Sequence[Letter], last: int) -> dict[str, Any]:
    """Counts of the whole topic, groups of the letters chosen, and the newest of them."""
    fates = Counter(_state(book, letter) for letter in book.letters.values())
    groups: dict[tuple[str, str, str], list[Letter]] = {}
    for letter in letters:
        groups.setdefault((letter.origin_topic, letter.reason, letter.processor), []).append(letter)
    return {
        "letters": len(book.letters),
        "waiting": fates["waiting"],
        "requeued": fates["requeued"],
        "dropped": fates["dropped"],
        "chosen": len(letters),
        "groups": [
            {
                "topic": topic,
                "reason": reason,
                "processor": processor,
                "letters": len(group),
                "first_ms": min(letter.buried_ms for letter in group),
                "last_ms": max(letter.buried_ms for letter in group),
            }
            for (topic, reason, processor), group in groups.items()
        ],
        "newest": [_row(book, letter) for letter in letters[len(letters) - last :] if last],
    }


def print_listing(found: Mapping[str, Any]) -> None:
    """Print a listing for a person."""
    console = Console(highlight=False)
    console.print(
        f"{found['letters']:,} dead letters: {found['waiting']:,} wait, "
        f"{found['requeued']:,} requeued, {found['dropped']:,} dropped"
    )
    if found["groups"]:
        table = _table("topic", "reason", "processor", "letters", "first", "last")
        for group in found["groups"]:
            table.add_row(
                group["topic"],
                group["reason"],
                group["processor"],
                f"{group['letters']:,}",
                _time(group["first_ms"]),
                _time(group["last_ms"]),
            )
        console.print(table)
    if found["newest"]:
        table = _table("letter", "record", "reason", "became", "detail")
        for row in found["newest"]:
            detail = row["detail"].partition("\n")[0]
            table.add_row(row["at"], row["origin"], row["reason"], row["state"], detail)
        console.print(table)


def letter_document(book: Book, letter: Letter, event: DeadLetter) -> dict[str, Any]:
    """All of a letter, its original value as JSON where it is JSON, else as text."""
    value = unpacked(event.value_base64) or b""
    document = document_of(value)
    resolved = book.resolved(letter)
    became = None
    if resolved:
        became = {
            "action": resolved.action,
            "at": resolved.at,
            "letter": resolved.letter,
            "run": resolved.run,
            "timestamp_ms": resolved.timestamp_ms,
            "note": resolved.note,
        }
    key = None if event.key_base64 is None else unpacked(event.key_base64)
    return _row(book, letter) | {
        "detail": event.detail,
        "processor": event.processor,
        "timestamp_ms": event.timestamp_ms,
        "key": None if key is None else key.decode(errors="replace"),
        "headers": event.headers,
        "size_bytes": len(value),
        "original": document,
        "text": None if document is not None else value.decode(errors="backslashreplace"),
        "became": became,
        "again_of": letter.again_of,
        "dead_again": [copy.at for copy in book.copies(letter)],
    }


def print_letter(document: Mapping[str, Any]) -> None:
    """Print a letter for a person."""
    print(f"{document['at']}: {document['origin']} is dead: {document['reason']}")
    print(f"  by        {document['processor']}, {_time(document['buried_ms'])}")
    print(f"  detail    {document['detail'] or '-'}")
    print(f"  key       {document['key']}")
    print(f"  made      {_time(document['timestamp_ms'])}, {document['size_bytes']:,} bytes")
    for name, text in document["headers"].items():
        print(f"  header    {name}: {text}")
    if document["again_of"]:
        print(f"  again     the record that {document['again_of']} was requeued as")
    print(f"  became    {_became(document)}")
    for at in document["dead_again"]:
        print(f"  and       was dead again: {at}")
    original = document["original"]
    text = document["text"] if original is None else json.dumps(original, indent=2)
    print(text if len(text) <= _VALUE_CHARS else f"{text[:_VALUE_CHARS]}\n… (all of it: --raw)")


def plan_document(made: Plan, dry_run: bool, action: str = "requeued") -> dict[str, Any]:
    """A plan as JSON."""
    return {
        "action": action,
        "dry_run": dry_run,
        "letters": len(made.accepted),
        "topics": dict(made.topics),
        "settled_before": len(made.settled),
        "refused": [{"at": one.at, "origin": one.origin, "why": why} for one, why in made.refused],
        "forced": made.forced,
        "first": [
            {
                "at": letter.at,
                "origin": letter.origin,
                "changes": [{"field": name, "old": old, "new": new} for name, old, new in changes],
            }
            for letter, changes in made.first
        ],
    }


def print_plan(document: Mapping[str, Any]) -> None:
    """Print what is to be done, and what is not and why."""
    topics = ", ".join(f"{count:,} of {topic}" for topic, count in document["topics"].items())
    would = "would be" if document["dry_run"] else "to be"
    print(
        f"{count_of(document['letters'])} {would} {document['action']}"
        + (f": {topics}" if topics else "")
    )
    if document["settled_before"]:
        print(f"{document['settled_before']:,} were requeued or dropped before: nothing is twice")
    if document["forced"]:
        print(f"{document['forced']:,} of them will be dead again (--force)")
    for one in document["first"]:
        print(f"{one['at']}, of {one['origin']}:")
        for change in one["changes"]:
            print(f"    {change['field']}: {_short(change['old'])} -> {_short(change['new'])}")
    reasons = Counter(one["why"] for one in document["refused"])
    if reasons:
        print(f"{reasons.total():,} refused:")
    for why, count in reasons.most_common(SHOWN):
        first = next(one["at"] for one in document["refused"] if one["why"] == why)
        print(f"    {count:,}, the first {first}: {why}")
    if len(reasons) > SHOWN:
        print(f"    and for {len(reasons) - SHOWN:,} more reasons; all are in --json")


def count_of(letters: int) -> str:
    """So many letters, in words."""
    return f"{letters:,} letter{'' if letters == 1 else 's'}"


def _row(book: Book, letter: Letter) -> dict[str, Any]:
    return {
        "at": letter.at,
        "origin": letter.origin,
        "reason": letter.reason,
        "detail": letter.detail,
        "processor": letter.processor,
        "buried_ms": letter.buried_ms,
        "state": _state(book, letter),
    }


def _state(book: Book, letter: Letter) -> str:
    resolved = book.resolved(letter)
    return resolved.action if resolved else "waiting"


def _became(document: Mapping[str, Any]) -> str:
    became = document["became"]
    if became is None:
        return "nothing yet: `ralo dlq requeue` or `ralo dlq drop` it"
    other = "" if became["letter"] == document["at"] else f", as {became['letter']}"
    note = f": {became['note']}" if became["note"] else ""
    when = _time(became["timestamp_ms"])
    return f"{became['action']} {when} by run {became['run']}{other} ({became['at']}){note}"


def _time(stamp_ms: int) -> str:
    return datetime.fromtimestamp(stamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name == "letters" else "left", overflow="fold")
    return table
