"""The table of all fields of a mission, or of a robot's file, for its documentation.

`python -m streams.missions.fields docs/missions.md docs/robots.md` writes them into the pages.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas.missions import Mission
from schemas.robot_file import RobotFile

PAGES: dict[str, type[BaseModel]] = {"missions.md": Mission, "robots.md": RobotFile}
BEGIN, END = "<!-- fields: generated -->", "<!-- end of fields -->"


def fields_table(model: type[BaseModel]) -> str:
    """All fields with their defaults as a Markdown table, nested ones with dots."""
    rows = ["| field | default | values |", "|---|---|---|", *_rows(model, "")]
    return "\n".join(rows)


def with_table(page: str, model: type[BaseModel]) -> str:
    """The page with the table in its place; raises ValueError where the page has no place."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs {BEGIN} and {END}, each on a line of its own")
    return f"{head}{BEGIN}\n{fields_table(model)}\n{END}{tail}"


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, info in model.model_fields.items():
        if name in ("type", "schema_version"):
            continue
        inner, path = _inner(info.annotation, f"{prefix}{name}")
        if inner is None:
            yield f"| `{path}` | {_default(info)} | {_values(info)} |"
        else:
            yield f"| **`{path}`** | {_default(info)} | {_first_line(inner)} |"
            yield from _rows(inner, f"{path}.")


def _inner(annotation: Any, path: str) -> tuple[type[BaseModel] | None, str]:
    """The model in a field, and its path: of a mapping to models that of an entry."""
    kinds = [kind for kind in _members(annotation) if kind is not NoneType]
    if get_origin(kinds[0]) is dict:
        inner, _ = _inner(get_args(kinds[0])[1], path)
        return inner, f"{path}.<name>" if inner else path
    if len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel):
        return kinds[0], path
    return None, path


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    return (annotation,)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    if info.default is None:
        return "none"
    if isinstance(info.default, BaseModel):
        return ""
    return f"`{json.dumps(info.default)}`"


def _values(info: FieldInfo) -> str:
    words = [" or ".join(_word(kind) for kind in _members(info.annotation) if kind is not NoneType)]
    words += [bound for kind in info.metadata if (bound := _bound(kind))]
    if info.description:
        words.append(info.description)
    return ", ".join(words)


def _word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is tuple:
        return f"{len(get_args(kind))} numbers"
    if get_origin(kind) is dict:
        return "a mapping"
    if get_origin(kind) is list:
        return "a list"
    names = {int: "a whole number", float: "a number", str: "text", bool: "`true` or `false`"}
    return names[kind]


_SIGNS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _bound(constraint: Any) -> str:
    for name, sign in _SIGNS.items():
        if hasattr(constraint, name):
            return f"{sign} {getattr(constraint, name)}"
    pattern = getattr(constraint, "pattern", None)
    return f"matching `{pattern}`" if pattern else ""


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0].replace("|", "\\|").rstrip(".")


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_table(path.read_text(), PAGES[path.name]))
