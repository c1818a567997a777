"""Where problems come from: reasoning-gym, JSON Lines and Hugging Face datasets, read as items."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from producers.problems.reasoning import draw_items
from producers.problems.templates import Part, TemplateError, compile_template, render
from schemas.missions import ProblemSource
from schemas.topics import MAX_EVENT_BYTES

Fields = dict[str, Any]
Located = tuple[str, Fields]
"""Where an item was read (for messages) and its fields."""

_ROOM_BYTES = MAX_EVENT_BYTES - 8192
"""What the texts and metadata of a problem may take; the rest of the event is ids and names."""


class SourceError(ValueError):
    """The source cannot be read, or an item of it is no problem; says where and how to mend it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its prompt, its answer and what a verifier may need beside them."""

    question: str
    prompt: str
    answer: str
    metadata: dict[str, JsonValue]


def load_items(source: ProblemSource) -> Iterator[Item]:
    """Up to `size` items in the source's order, repetitions included; raises `SourceError`."""
    if source.source == "gymnasium":
        yield from _environments(source)
        return
    make = _maker(source)
    for where, fields in islice(_READERS[source.source](source), source.size):
        yield make(where, fields)


def _environments(source: ProblemSource) -> Iterator[Item]:
    """Tasks and seeds are problems without words: templates do not apply."""
    from producers.problems.environments import resets

    try:
        for text, metadata in resets(source):
            yield Item(question=text, prompt=text, answer="", metadata=metadata)
    except ValueError as error:
        raise SourceError(str(error)) from error


def _maker(source: ProblemSource) -> Callable[[str, Fields], Item]:
    templates = {}
    for name in ("question", "prompt", "answer"):
        try:
            templates[name] = compile_template(getattr(source, name))
        except TemplateError as error:
            raise SourceError(f"problems.{name}: {error}") from error
    return lambda where, fields: _item(where, fields, templates)


def _item(where: str, fields: Fields, templates: Mapping[str, list[Part]]) -> Item:
    fields, size = _plain(where, fields)
    metadata = fields.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {k: v for k, v in fields.items() if k not in ("question", "answer")}
    known = metadata | fields | {"metadata": metadata}
    texts = {}
    for name, template in templates.items():
        try:
            texts[name] = render(template, known)
        except TemplateError as error:
            raise SourceError(f"{where}: problems.{name}: {error}") from error
        if not texts[name].strip():
            raise SourceError(f"{where}: problems.{name} gives an empty text")
    size += sum(len(json.dumps(text)) for text in texts.values())
    if size > _ROOM_BYTES:
        raise SourceError(f"{where}: {size} bytes, a problem may have {_ROOM_BYTES}")
    return Item(**texts, metadata=metadata)


def _plain(where: str, fields: Fields) -> tuple[dict[str, JsonValue], int]:
    """The fields as JSON has them (tuples are lists, keys are text) and their size in bytes."""
    try:
        text = json.dumps(fields, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise SourceError(f"{where}: not JSON: {error}") from error
    plain: dict[str, JsonValue] = json.loads(text)
    return plain, len(text)


def _reasoning_gym(source: ProblemSource) -> Iterator[Located]:
    try:
        yield from draw_items(source.name, source.args, source.size, source.seed)
    except ValueError as error:
        raise SourceError(str(error)) from error


def _jsonl(source: ProblemSource) -> Iterator[Located]:
    if source.args:
        raise SourceError(f"problems.args: a JSON Lines file takes none, not {sorted(source.args)}")
    path = Path(source.name)
    try:
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(_ROOM_BYTES + 1), b"")
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}:{number}", _line(f"{path}:{number}", line)
    except OSError as error:
        raise SourceError(f"problems.name: {path}: {error.strerror}") from error


def _line(where: str, line: bytes) -> Fields:
    if len(line) > _ROOM_BYTES:
        raise SourceError(f"{where}: longer than {_ROOM_BYTES} bytes")
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: {error}") from error
    if not isinstance(value, dict):
        raise SourceError(f"{where}: an object is needed, this is {type(value).__name__}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _datasets(source: ProblemSource) -> Iterator[Located]:
    from producers.problems.huggingface import open_dataset

    try:
        rows = open_dataset(source.name, source.split, source.args)
    except ValueError as error:
        raise SourceError(str(error)) from error
    for number, row in enumerate(rows):
        yield f"{source.name}[{number}]", dict(row)


_READERS: dict[str, Callable[[ProblemSource], Iterator[Located]]] = {
    "reasoning-gym": _reasoning_gym,
    "jsonl": _jsonl,
    "datasets": _datasets,
}
