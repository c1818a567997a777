"""Mission files: YAML to a mission, with errors that name file, line and field."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.dotted import set_dotted
from schemas.missions import Mission, RobotMission, parse_mission, parse_robot_mission

_GIVEN = {"type", "mission_id", "schema_version"}
"""Fields of the event that a file does not have."""


class MissionFileError(Exception):
    """The file is no mission; one line for each thing to mend."""


class _Loader(yaml.SafeLoader):
    """YAML where `1e-4` is a number and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping without repeated keys; raises yaml.MarkedYAMLError."""
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where a float needs a dot.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def load_mission(
    path: Path,
    *,
    mission_id: str | None = None,
    policy: str = "main",
    overrides: Sequence[str] = (),
    now: datetime | None = None,
) -> Mission | RobotMission:
    """Read a mission, one for robots where it names `robots`.

    `overrides` are `field.field=value`, `policy` counts where a learning mission has none. Paths in
    it are looked for beside the file, then in the working directory. Raises `MissionFileError`.
    """
    document, node = _read(path)
    for override in overrides:
        set_field(document, override)
    named = {"mission_id": mission_id or _default_id(path, now)}
    model = RobotMission if "robots" in document else Mission
    try:
        if model is RobotMission:
            return parse_robot_mission({**document, **named})
        document.setdefault("policy", policy)
        _anchor(document, path.parent)
        return parse_mission({**document, **named})
    except ValidationError as error:
        raise MissionFileError(_readable(path, node, model, error)) from error


def _read(path: Path) -> tuple[dict[str, Any], yaml.Node]:
    try:
        text = path.read_text()
        document, node = yaml.load(text, _Loader), yaml.compose(text, _Loader)
    except OSError as error:
        raise MissionFileError(f"{path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise MissionFileError(f"{where}: {error.problem or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MissionFileError(f"{path}: {error}") from error
    if not isinstance(document, dict) or node is None:
        raise MissionFileError(f"{path}: a mission is a mapping of fields, such as `policy: main`")
    given = sorted(_GIVEN & set(document))
    if given:
        raise MissionFileError(f"{path}: {', '.join(given)} does not belong in a file; see --id")
    return document, node


def set_field(document: dict[str, Any], text: str) -> None:
    """Set what `field.field=value` says; raises `MissionFileError` for what says nothing."""
    try:
        set_dotted(document, text, lambda value: _value(text, value), "training.micro_batch=8")
    except ValueError as error:
        raise MissionFileError(str(error)) from error


def _value(text: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise MissionFileError(f"--set {text}: {error}") from error


def _anchor(document: dict[str, Any], folder: Path) -> None:
    """Make paths absolute where they are there, since the provider runs in another directory."""
    sections = [("model", "base")] if _is_procedural(document) else [*_PATHS]
    for section, field in sections:
        inner = document.get(section)
        if not isinstance(inner, dict):
            continue
        name = inner.get(field)
        if not isinstance(name, str) or name == "new":
            continue
        for path in (folder / name, Path(name)):
            if path.exists():
                inner[field] = str(path.resolve())
                break


_PATHS = (("model", "base"), ("problems", "name"))


def _is_procedural(document: Mapping[str, Any]) -> bool:
    problems = document.get("problems")
    source = problems.get("source") if isinstance(problems, dict) else None
    return source in (None, "reasoning-gym", "gymnasium")


def _default_id(path: Path, now: datetime | None) -> str:
    stem = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).lstrip("._-") or "mission"
    return f"{stem[:80]}-{(now or datetime.now()).strftime('%Y%m%d-%H%M%S')}"


def _readable(path: Path, node: yaml.Node, model: type[BaseModel], error: ValidationError) -> str:
    return "\n".join(_line(path, node, model, e) for e in error.errors(include_url=False))


def _line(path: Path, node: yaml.Node, model: type[BaseModel], error: ErrorDetails) -> str:
    place = [str(part) for part in error["loc"]]
    number = _line_of(node, place)
    where = f"{path}:{number}" if number else str(path)
    if error["type"] == "extra_forbidden":
        what = f"no such field{near(model, place)}"
    else:
        what = error["msg"].removeprefix("Value error, ")
        if error["type"] != "missing" and not isinstance(error["input"], dict):
            what += f", not {error['input']!r}"
    field = ".".join(place)
    return f"{where}: {field}: {what}" if field else f"{where}: {what}"


def _line_of(node: yaml.Node, place: Iterable[str]) -> int | None:
    """The line of the deepest part of the field that the file has; None at the top."""
    line = None
    for name in place:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((k, v) for k, v in pairs if str(k.value) == name), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def near(model: Any, place: Sequence[str]) -> str:
    """What may have been meant by a field that the model does not have there, as a clause."""
    for name in place[:-1]:
        info = model.model_fields.get(name) if _is_model(model) else None
        kinds = [info.annotation, *get_args(info.annotation)] if info else []
        model = next((kind for kind in kinds if _is_model(kind)), None)
    known = sorted(set(model.model_fields) - _GIVEN) if _is_model(model) else []
    near = difflib.get_close_matches(place[-1], known, n=1)
    if near or not known:
        return f"; did you mean {near[0]}?" if near else ""
    return f"; there are {', '.join(known)}"


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
