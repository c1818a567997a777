"""All dead letters of a log and what became of each, as far as it was read."""

import base64
import binascii
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from consumers.read import read_until
from infra.log import Log
from schemas.learning import DeadLetter, DeadLetterResolution
from schemas.records import Partition, Record, parse_at
from schemas.topics import DEAD_LETTERS, NewerSchema, Undecodable, decode

REQUEUE_OF = "requeue-of"
"""The header of a record that was sent again: where its letter lies."""
_DETAIL_CHARS = 400


class NoSuchLetter(ValueError):
    """The place holds no dead letter."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of a letter."""

    action: Literal["requeued", "dropped"]
    at: str
    """Where that is said."""
    letter: str
    """The letter it was said of: of one record buried several times, perhaps another."""
    run: str
    timestamp_ms: int
    note: str


@dataclass(frozen=True, slots=True)
class Letter:
    """What is kept of a letter: all but the original's bytes."""

    at: str
    partition: Partition
    offset: int
    origin: str
    origin_topic: str
    reason: str
    detail: str
    processor: str
    buried_ms: int
    size_bytes: int
    """Of the original value."""
    again_of: str | None
    """The letter whose original was sent again and became this one."""


def event_of(record: Record) -> DeadLetter | DeadLetterResolution | None:
    """The event in a record of `dead-letters`, be it too large for `decode`; None for others."""
    try:
        event = decode(DEAD_LETTERS.name, record.value)
    except NewerSchema:
        return None
    except Undecodable:
        try:
            # The letter of a record that was too large by itself.
            return DeadLetter.model_validate_json(record.value or b"")
        except ValueError:
            return None
    return event if isinstance(event, DeadLetter | DeadLetterResolution) else None


def unpacked(base64_text: str) -> bytes | None:
    """The bytes of a letter's value or key; None where the text is no base64."""
    try:
        return base64.b64decode(base64_text, validate=True)
    except (ValueError, binascii.Error):
        return None


class Book:
    """The letters by place, in the order of the log, and the resolutions."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._next: dict[Partition, int] = {}
        self._dropped: dict[str, Resolved] = {}
        self._requeued: dict[str, Resolved] = {}
        self.letters: dict[str, Letter] = {}

    @classmethod
    def read(cls, log: Log) -> "Book":
        """The book as of now; raises `LogError`."""
        book = cls(log)
        book.catch_up()
        return book

    def catch_up(self) -> None:
        """Read on up to the end as of now, once open transactions are settled."""
        ends = self._log.ends(DEAD_LETTERS.name)
        spans = {p: (max(first, self._next.get(p, 0)), end) for p, (first, end) in ends.items()}
        for record in read_until(self._log, spans):
            self._take(record)
        self._next = {partition: end for partition, (_, end) in spans.items()}

    def resolved(self, letter: Letter) -> Resolved | None:
        """What became of a letter; None while it waits.

        A record that was sent again settles every letter of it, lest it be sent twice.
        """
        return self._requeued.get(letter.origin) or self._dropped.get(letter.at)

    def waiting(self) -> Iterator[Letter]:
        """The letters of which nothing has become yet."""
        return (letter for letter in self.letters.values() if self.resolved(letter) is None)

    def named(self, place: str) -> list[Letter]:
        """The letters at a place: `dead-letters[0]@12`, `12`, or where the dead record lies.

        Raises `NoSuchLetter`.
        """
        at = f"{DEAD_LETTERS.name}[0]@{place}" if place.isdecimal() else place
        if at in self.letters:
            return [self.letters[at]]
        found = [letter for letter in self.letters.values() if letter.origin == at]
        if not found:
            raise NoSuchLetter(f"{at}: no dead letter there, and none of a record there")
        return found

    def copies(self, letter: Letter) -> list[Letter]:
        """The letters that the letter's original became after it was sent again."""
        return [other for other in self.letters.values() if other.again_of == letter.at]

    def _take(self, record: Record) -> None:
        event = event_of(record)
        if isinstance(event, DeadLetter):
            self.letters[record.at] = _letter(record, event)
        elif event is not None:
            resolved = Resolved(
                event.action, record.at, event.letter, event.run, record.timestamp_ms, event.note
            )
            if event.action == "requeued":
                self._requeued.setdefault(event.origin, resolved)
            else:
                self._dropped.setdefault(event.letter, resolved)


def contents(log: Log, letters: Sequence[Letter]) -> Iterator[tuple[Letter, Record, DeadLetter]]:
    """The letters with their records and all that is in them, read again in the log's order."""
    wanted = {(letter.partition, letter.offset): letter for letter in letters}
    if not wanted:
        return
    with contextlib.closing(read_until(log, _spans(letters))) as records:
        for record in records:
            letter = wanted.pop((record.partition, record.offset), None)
            event = event_of(record) if letter else None
            if letter is not None and isinstance(event, DeadLetter):
                yield letter, record, event
            if not wanted:
                return


def _spans(letters: Sequence[Letter]) -> Mapping[Partition, tuple[int, int]]:
    spans: dict[Partition, tuple[int, int]] = {}
    for letter in letters:
        first, end = spans.get(letter.partition, (letter.offset, 0))
        spans[letter.partition] = (min(first, letter.offset), max(end, letter.offset + 1))
    return spans


def _letter(record: Record, event: DeadLetter) -> Letter:
    again = event.headers.get(REQUEUE_OF)
    return Letter(
        at=record.at,
        partition=record.partition,
        offset=record.offset,
        origin=f"{event.origin_topic}[{event.origin_partition}]@{event.origin_offset}",
        origin_topic=event.origin_topic,
        reason=event.reason,
        detail=event.detail[:_DETAIL_CHARS],
        processor=event.processor,
        buried_ms=record.timestamp_ms,
        size_bytes=len(event.value_base64) * 3 // 4 - event.value_base64[-2:].count("="),
        again_of=again if again and _is_place(again) else None,
    )


def _is_place(text: str) -> bool:
    try:
        parse_at(text)
    except ValueError:
        return False
    return True
