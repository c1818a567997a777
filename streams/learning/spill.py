"""Keeps events small: the longest fields of a large one move to an object that the event names.

A small event stays as it is, and costs no object. What was moved is empty in the event and counted
in `spilled`; whoever needs the entries gets the object.
"""

import json
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from pydantic import TypeAdapter

from schemas.effects import BadObject, Effect, Get, Put
from schemas.ids import digest
from schemas.learning import Spilling
from schemas.tensors import Spilled
from schemas.topics import INLINE_BYTES

E = TypeVar("E", bound=Spilling)
_REFERENCE_BYTES = 512
"""Room for what the event says of the object instead."""


class BadSpill(ValueError):
    """The object that an event names does not hold the fields that were moved out of it."""


def spill(event: E, key: Callable[[str], str]) -> Generator[Effect, Any, E]:
    """The event at most 64 KiB large, where moving fields can do it: no more than must be moved.

    `key` makes the object's key from the SHA-256 of its bytes.
    """
    excess = len(event.to_bytes()) - INLINE_BYTES
    if excess <= 0:
        return event
    excess += _REFERENCE_BYTES
    texts = {name: _dumped(event, name) for name in event.spills}
    moved: dict[str, str] = {}
    for name in sorted(texts, key=lambda name: -len(texts[name])):
        if excess > 0:
            moved[name] = texts[name]
            excess -= len(texts[name])
    data = f"{{{','.join(f'{json.dumps(name)}:{text}' for name, text in moved.items())}}}".encode()
    ref = yield Put(key(digest(data)), data)
    counts = {name: len(getattr(event, name)) for name in moved}
    emptied: dict[str, Any] = {name: type(getattr(event, name))() for name in moved}
    spilled = Spilled(**ref.model_dump(), counts=counts)
    return event.model_copy(update={**emptied, "spilled": spilled})


def whole(event: E, *names: str) -> Generator[Effect, Any, E]:
    """The event with all its fields; nothing is fetched where none of `names` was moved.

    No names are all. Raises `BadSpill`.
    """
    if event.spilled is None or (names and event.spilled.counts.keys().isdisjoint(names)):
        return event
    try:
        data = yield Get(event.spilled)
    except BadObject as error:
        raise BadSpill(str(error)) from error
    fields = moved_fields(type(event), event.spilled, data)
    return event.model_copy(update={**fields, "spilled": None})


def moved_fields(kind: type[Spilling], spilled: Spilled, data: bytes) -> dict[str, Any]:
    """The fields of an event of this kind that the object holds; raises `BadSpill`."""
    try:
        document, fields = json.loads(data), {}
        for name, count in spilled.counts.items():
            if name not in kind.spills:
                raise ValueError(f"{name} may not be moved")
            fields[name] = _adapter(kind, name).validate_python(document[name])
            if len(fields[name]) != count:
                raise ValueError(f"{len(fields[name])} {name}, the event says {count}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSpill(f"object {spilled.key}: {error}") from error
    return fields


def _adapter(kind: type[Spilling], name: str) -> TypeAdapter[Any]:
    annotation: Any = kind.model_fields[name].annotation
    return TypeAdapter(annotation)


def _dumped(event: Spilling, name: str) -> str:
    return _adapter(type(event), name).dump_json(getattr(event, name), exclude_none=True).decode()
