"""Which dead letters are meant."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cel

from consumers.deadletters.book import Book, Letter, contents, unpacked
from consumers.deadletters.patch import document_of
from consumers.selection import BadExpression
from infra.log import Log
from schemas.learning import DeadLetter

Report = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""
_REPORT_EVERY = 500


class Where:
    """An expression in CEL over a letter; what it may name is in `NAMES`.

    `original` is the original value where it is JSON, else null. Raises `BadExpression`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._program = cel.compile(text)
        except ValueError as error:
            raise BadExpression(f"{text!r}: {_first_line(error)}") from None
        used = self._program.variables()
        self._names = [name for name in NAMES if name in used]

    def holds(self, letter: Letter, event: DeadLetter) -> bool:
        """Whether it is true of the letter; not where it needs a field that is not there.

        Raises `BadExpression` for a name that does not exist, and for what is neither true nor
        false.
        """
        values = {name: _VALUES[name](letter, event) for name in self._names}
        try:
            result = self._program.execute(values)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            return False
        except RuntimeError as error:
            known = f"there are {', '.join(NAMES)}; a text goes in quotes"
            raise BadExpression(f"{self.text!r}: {_first_line(error)}: {known}") from None
        if not isinstance(result, bool):
            raise BadExpression(
                f"{self.text!r} is {result!r} at {letter.at}, neither true nor false: compare it"
            )
        return result


@dataclass(frozen=True)
class Filter:
    """Letters by the dead record's topic, the reason, who buried it, and an expression."""

    topics: Sequence[str] = ()
    reasons: Sequence[str] = ()
    processors: Sequence[str] = ()
    where: Where | None = None

    @property
    def takes_all(self) -> bool:
        """Whether nothing is asked of a letter."""
        return not (self.topics or self.reasons or self.processors or self.where)

    def select(
        self, log: Log, letters: Sequence[Letter], report: Report = lambda what, done, of: None
    ) -> list[Letter]:
        """The letters that pass, in the order given; only an expression reads the log again."""
        light = [letter for letter in letters if self._passes(letter)]
        if self.where is None:
            return light
        return list(self._where(log, light, self.where, report))

    def _where(
        self, log: Log, letters: Sequence[Letter], where: Where, report: Report
    ) -> Iterator[Letter]:
        for done, (letter, _, event) in enumerate(contents(log, letters), start=1):
            if done % _REPORT_EVERY == 0:
                report("letters looked at", done, len(letters))
            if where.holds(letter, event):
                yield letter

    def _passes(self, letter: Letter) -> bool:
        asked = (
            (self.topics, letter.origin_topic),
            (self.reasons, letter.reason),
            (self.processors, letter.processor),
        )
        return all(not wanted or value in wanted for wanted, value in asked)


def chosen(log: Log, book: Book, places: Sequence[str], by: Filter, report: Report) -> list[Letter]:
    """The letters that are named, or else those that wait and pass the filter.

    Raises `NoSuchLetter`, `BadExpression`, `LogError`.
    """
    if not places:
        return by.select(log, list(book.waiting()), report)
    named = {letter.at: letter for place in places for letter in book.named(place)}
    return by.select(log, sorted(named.values(), key=lambda one: one.offset), report)


_VALUES: Mapping[str, Callable[[Letter, DeadLetter], Any]] = {
    "at": lambda letter, event: letter.at,
    "origin": lambda letter, event: letter.origin,
    "topic": lambda letter, event: letter.origin_topic,
    "reason": lambda letter, event: letter.reason,
    "detail": lambda letter, event: event.detail,
    "processor": lambda letter, event: letter.processor,
    "headers": lambda letter, event: dict(event.headers),
    "timestamp_ms": lambda letter, event: event.timestamp_ms,
    "buried_ms": lambda letter, event: letter.buried_ms,
    "size_bytes": lambda letter, event: letter.size_bytes,
    "original": lambda letter, event: document_of(unpacked(event.value_base64) or b""),
}
NAMES = tuple(_VALUES)
"""What an expression may name: the letter, the record that it is of, and that record's value."""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
