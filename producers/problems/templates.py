"""Templates such as `{word}=`: text with fields of an item, by name and index only.

`str.format` would follow attributes (`{x.__class__}`) and pad to any width (`{x:>999999999}`); a
mission is input from outside, so neither is understood here.
"""

import json
import re
from collections.abc import Mapping
from string import Formatter

from pydantic import JsonValue

_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9_]*)((?:\[[^\[\]{}]+\])*)")
_INDEX = re.compile(r"\[([^\[\]]+)\]")

Part = tuple[str, tuple[str, ...]]
"""Literal text, then the path of the field that follows it (empty at the end)."""


class TemplateError(ValueError):
    """The template is malformed, or names what the item does not have."""


def compile_template(text: str) -> list[Part]:
    """The parts of a template; raises `TemplateError` naming the field that is not allowed."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise TemplateError(f"template {text!r}: {error}") from error
    return [(literal, _path(text, field, spec, conv)) for literal, field, spec, conv in parts]


def _path(
    text: str, field: str | None, spec: str | None, conversion: str | None
) -> tuple[str, ...]:
    if field is None:
        return ()
    match = _FIELD.fullmatch(field)
    if match is None or spec or conversion:
        raise TemplateError(
            f"template {text!r}: {{{field}}} is not allowed; write {{name}} or {{name[key]}}"
        )
    return (match[1], *_INDEX.findall(match[2]))


def render(parts: list[Part], fields: Mapping[str, JsonValue]) -> str:
    """The text for one item; raises `TemplateError` for a field that the item lacks."""
    return "".join(
        literal + (_text(_lookup(path, fields)) if path else "") for literal, path in parts
    )


def _lookup(path: tuple[str, ...], fields: Mapping[str, JsonValue]) -> JsonValue:
    value: JsonValue = dict(fields)
    for depth, key in enumerate(path):
        try:
            value = value[int(key)] if isinstance(value, list) else _member(value, key)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            wanted = path[0] + "".join(f"[{k}]" for k in path[1 : depth + 1])
            known = ", ".join(sorted(fields))
            raise TemplateError(f"the item has no {{{wanted}}}; its fields are: {known}") from error
    return value


def _member(value: JsonValue, key: str) -> JsonValue:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} has no members")
    return value[key]


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
