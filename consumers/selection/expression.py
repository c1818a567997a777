"""Expressions over records, in the Common Expression Language (https://cel.dev)."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from schemas.records import Record

_MACRO = re.compile(r"\b(?:all|exists|exists_one|map|filter)\(\s*(\w+)\s*,")
_FIELD = re.compile(r"\bevent\.(\w+)")
_WHOLE = re.compile(r"\bevent\b(?!\.\w)")

# The language has no list of its own; these are the standard ones.
_TYPES = {"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"}
_FUNCTIONS = (_TYPES - {"list", "map", "null_type"}) | {
    *("size", "contains", "startsWith", "endsWith", "matches", "dyn", "duration", "timestamp"),
    *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
    *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
}


class BadExpression(ValueError):
    """The text is no expression over records, or its result is neither true nor false."""


class Expression:
    """One expression, compiled; what it may name is in `NAMES`.

    `event` is the decoded value as a map, empty where it does not decode. Raises `BadExpression`
    for what does not compile, and for a name or a function that does not exist.
    """

    def __init__(self, text: str) -> None:
        # Imported here: with its own command line it takes most of a second.
        import cel

        self.text = text
        self.unfit = 0
        """Records for which it could not be reckoned, such as a text where a number is compared."""
        self.unfit_because = ""
        """Why, of the first of these."""
        try:
            self._program = cel.compile(text)
        except ValueError as error:
            raise BadExpression(f"{text!r}: {_first_line(error)}") from None
        self._names = [name for name in self._program.variables() if name in _VALUES]
        self._refuse_unknown()
        fields = frozenset(_FIELD.findall(text))
        self._fields = None if _WHOLE.search(text) else fields

    def holds(self, record: Record) -> bool:
        """Whether it is true of the record; not where it needs a field that the event has not.

        Raises `BadExpression` where the result is neither true nor false.
        """
        values = {name: _VALUES[name](record) for name in self._names if name != "event"}
        if "event" in self._names:
            values["event"] = _event(record, self._fields)
        try:
            result = self._program.execute(values)
        except LookupError:
            return False
        except (TypeError, ValueError, ArithmeticError) as error:
            self.unfit += 1
            self.unfit_because = self.unfit_because or f"{record.at}: {_first_line(error)}"
            return False
        except RuntimeError as error:
            raise BadExpression(f"{self.text!r}: {_first_line(error)}") from None
        if not isinstance(result, bool):
            raise BadExpression(
                f"{self.text!r} is {result!r} at {record.at}, neither true nor false: compare it"
            )
        return result

    def _refuse_unknown(self) -> None:
        bound = set(_MACRO.findall(self.text))
        for name in self._program.variables():
            if name not in _VALUES and name not in bound | _TYPES:
                raise BadExpression(
                    f"{self.text!r}: no name {name!r}: there are {', '.join(NAMES)}; "
                    "a text goes in quotes, a field of the event is `event.field`"
                )
        for name in self._program.functions():
            if name.isidentifier() and name not in _FUNCTIONS:
                known = ", ".join(sorted(_FUNCTIONS))
                raise BadExpression(f"{self.text!r}: no function {name!r}: there are {known}")

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


def _event(record: Record, fields: frozenset[str] | None) -> dict[str, Any]:
    """The event as a map; of a large one only what is asked for is made."""
    if record.event is None:
        return {}
    include = None if fields is None else set(fields)
    return record.event.model_dump(mode="json", exclude_none=True, include=include)


def _key(record: Record) -> str:
    return (record.key or b"").decode(errors="replace")


def _headers(record: Record) -> dict[str, str]:
    return {name: value.decode(errors="replace") for name, value in record.headers.items()}


_VALUES: Mapping[str, Callable[[Record], Any]] = {
    "topic": lambda record: record.partition.topic,
    "partition": lambda record: record.partition.number,
    "offset": lambda record: record.offset,
    "at": lambda record: record.at,
    "timestamp_ms": lambda record: record.timestamp_ms,
    "key": _key,
    "headers": _headers,
    "event": lambda record: _event(record, None),
    "size_bytes": lambda record: len(record.value or b""),
}
NAMES = tuple(_VALUES)
"""What an expression may name."""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
