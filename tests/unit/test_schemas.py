"""Events: what they accept, what they refuse, and that no change breaks what is in the log."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from infra import schema_docs
from infra.schema_changes import incompatibilities
from schemas import topics
from schemas.base import Event
from schemas.missions import Mission, RobotMission, parse_mission
from schemas.topics import TOPICS, NewerSchema, Undecodable, decode

EVENTS = list(schema_docs.events())
SHA = "0123456789abcdef" * 4
HEAVY = (
    "numpy",
    "torch",
    "confluent_kafka",
    "transformers",
    "faust",
    "aiokafka",
    "minio",
    "typer",
    "prometheus_client",
    "infra",
    "streams",
)


def example(model: type[BaseModel], full: bool) -> dict[str, Any]:
    """A valid document of a model: with all fields, or only with those that are required."""
    fields = model.model_fields.items()
    return {n: _value(n, f, full) for n, f in fields if full or f.is_required() or n == "type"}


def _value(name: str, field: FieldInfo, full: bool) -> Any:
    if isinstance(field.default, int | float):
        return field.default
    if "[0-9a-f]{64}" in str(field.metadata):
        return SHA
    if "a-z0-9" in str(field.metadata) or (
        name == "policy" and field.annotation in (str, str | None)
    ):
        return "a-name"
    if name == "budget":
        return {"problems": 10}
    return _of(field.annotation, full)


def _of(kind: Any, full: bool) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return SHA if "0-9a-f" in str(args[1:]) else _of(args[0], full)
    if origin is Literal:
        return args[0]
    if origin in (Union, UnionType):
        return _of(next(a for a in args if a is not type(None)), full)
    if origin is list:
        return [_of(args[0], full)]
    if origin is dict:
        return {"k": _of(args[1], full)}
    if origin is tuple:
        return [_of(a, full) for a in args if a is not Ellipsis]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return example(kind, full)
    plain: dict[Any, Any] = {str: "ä text", int: 8, float: 0.5, bool: True}
    return plain.get(kind, {"any": ["json", 1]})


def document(event: type[Event], full: bool) -> dict[str, Any]:
    """A valid document of an event."""
    made = example(event, full)
    if event is Mission:
        made["budget"] = {"problems": 3}
    if event is RobotMission:
        made["robots"] = {"rover-1": {"kind": "patrol", "waypoints": [[1.0, 2.0]]}}
    return made


def encoded(made: dict[str, Any]) -> bytes:
    return json.dumps(made).encode()


@pytest.mark.parametrize("event", EVENTS, ids=schema_docs.event_type)
@pytest.mark.parametrize("full", [True, False], ids=["full", "least"])
def test_every_event_makes_the_round_trip(event: type[Event], full: bool) -> None:
    made = decode(event.topic, encoded(document(event, full)))
    assert type(made) is event
    again = decode(event.topic, made.to_bytes())
    assert again == made
    assert again.to_bytes() == made.to_bytes()


@pytest.mark.parametrize("event", EVENTS, ids=schema_docs.event_type)
def test_the_key_is_a_field_that_must_be_given(event: type[Event]) -> None:
    assert event.model_fields[event.key_field].is_required()
    made = document(event, False)
    assert decode(event.topic, encoded(made)).key == made[event.key_field]


@pytest.mark.parametrize("event", EVENTS, ids=schema_docs.event_type)
def test_events_ignore_unknown_fields_and_missions_refuse_them(event: type[Event]) -> None:
    made = document(event, True) | {"of_tomorrow": {"x": 1}}
    if event in (Mission, RobotMission):
        with pytest.raises(Undecodable, match="of_tomorrow"):
            decode(event.topic, encoded(made))
    else:
        assert decode(event.topic, encoded(made)) == decode(
            event.topic, encoded(document(event, True))
        )


def test_a_misspelt_setting_deep_in_a_mission_is_named() -> None:
    made = document(Mission, False) | {"training": {"lerning_rate": 0.1}}
    with pytest.raises(ValidationError, match=r"training\.lerning_rate"):
        parse_mission(made)


def test_nothing_is_optional_that_says_what_an_event_is() -> None:
    for topic in TOPICS.values():
        for event in topic.events:
            assert event.topic == topic.name
            assert get_args(event.model_fields["type"].annotation) == (
                schema_docs.event_type(event),
            )
    types = [schema_docs.event_type(event) for event in EVENTS]
    assert len(types) == len(set(types))


def numbers(made: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where floats are in a document."""
    if isinstance(made, float):
        return [path]
    items = made.items() if isinstance(made, dict) else enumerate(made) if _many(made) else ()
    return [found for key, value in items for found in numbers(value, (*path, key))]


def _many(made: Any) -> bool:
    return isinstance(made, list)


def planted(made: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy of a document with one value replaced."""
    changed = copy.deepcopy(made)
    at: Any = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


FLOATS = [(e, p) for e in EVENTS for p in numbers(document(e, True))]


def test_there_are_numbers_to_refuse() -> None:
    assert len(FLOATS) > 10


@pytest.mark.parametrize(("event", "path"), FLOATS, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(event: type[Event], path: Any, value: float) -> None:
    with pytest.raises(Undecodable):
        decode(event.topic, encoded(planted(document(event, True), path, value)))
    with pytest.raises(ValidationError):
        event.model_validate(planted(document(event, True), path, value))


@pytest.mark.parametrize(
    "value",
    [None, b"", b"null", b"[]", b"\xff\xfe", b'{"type":"problem"', b"{}", b'"text"', b"1e999"],
    ids=repr,
)
@pytest.mark.parametrize("topic", TOPICS)
def test_what_is_no_event_is_undecodable(topic: str, value: bytes | None) -> None:
    with pytest.raises(Undecodable):
        decode(topic, value)


@pytest.mark.parametrize("open_", ["[", '{"a":'])
@pytest.mark.parametrize("topic", TOPICS)
def test_deep_nesting_is_undecodable_and_kills_nothing(topic: str, open_: str) -> None:
    with pytest.raises(Undecodable):
        decode(topic, open_.encode() * 40_000)


def test_an_event_of_a_newer_schema_is_told_apart() -> None:
    made = document(topics.PROBLEMS.events[0], False)
    for newer in ({"schema_version": 2}, {"schema_version": 2, "problem_id": ["changed"]}):
        with pytest.raises(NewerSchema, match="schema_version 2"):
            decode("problems", encoded(made | newer))


def test_a_letter_of_the_time_when_letters_were_alone_needs_no_type() -> None:
    letter, resolution = topics.DEAD_LETTERS.events
    old = document(letter, True)
    typed = decode("dead-letters", encoded(old))
    del old["type"]
    assert decode("dead-letters", encoded(old)) == typed
    with pytest.raises(Undecodable, match="does not match any"):
        decode("dead-letters", encoded(document(resolution, True) | {"type": "letter"}))


def test_schemas_import_nothing_heavier_than_pydantic() -> None:
    names = [p.stem for p in Path(topics.__file__).parent.glob("*.py") if p.stem != "__init__"]
    assert "topics" in names
    code = f"import sys; {'; '.join(f'import schemas.{n}' for n in names)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert "pydantic" in loaded
    assert loaded.isdisjoint(HEAVY)


# -- the generated files ----------------------------------------------------------------------


def test_no_schema_has_changed_in_a_way_that_breaks_old_events() -> None:
    assert schema_docs.breaches() == []


def test_the_generated_files_are_up_to_date() -> None:
    assert schema_docs.stale() == [], "run `ralo schemas --write`"


def test_every_event_has_a_schema_and_a_channel() -> None:
    made = json.loads(schema_docs.documents()[schema_docs.ASYNCAPI])
    assert set(made["channels"]) == set(TOPICS)
    named = {
        reference["$ref"].rpartition("/")[2]
        for channel in made["channels"].values()
        for reference in channel["messages"].values()
    }
    assert (
        named == set(made["components"]["messages"]) == {schema_docs.event_type(e) for e in EVENTS}
    )
    for message in made["components"]["messages"].values():
        file = message["payload"]["schema"]["$ref"].removeprefix("./")
        assert file in schema_docs.documents()


def test_a_stale_missing_or_left_over_file_is_found_and_mended(tmp_path: Path) -> None:
    assert len(schema_docs.write(tmp_path)) == len(EVENTS) + 1
    assert schema_docs.stale(tmp_path) == schema_docs.breaches(tmp_path) == []
    (tmp_path / "problem.schema.json").unlink()
    (tmp_path / "asyncapi.json").write_text("{}")
    assert schema_docs.stale(tmp_path) == ["asyncapi.json", "problem.schema.json"]
    schema_docs.write(tmp_path)
    assert schema_docs.stale(tmp_path) == []
    assert schema_docs.write(tmp_path) == []


def test_writing_refuses_what_breaks_unless_told(tmp_path: Path) -> None:
    schema_docs.write(tmp_path)
    path = tmp_path / "problem.schema.json"
    old = json.loads(path.read_text())
    old["properties"]["hint"] = {"type": "string"}
    path.write_text(json.dumps(old))
    (tmp_path / "omen.schema.json").write_text('{"type": "object"}')
    assert schema_docs.breaches(tmp_path) == [
        "omen: the event is gone",
        "problem.hint: the field is gone",
    ]
    with pytest.raises(schema_docs.IncompatibleSchema, match=r"problem\.hint: the field is gone"):
        schema_docs.write(tmp_path)
    assert schema_docs.write(tmp_path, incompatible=True) == [
        "omen.schema.json",
        "problem.schema.json",
    ]
    assert schema_docs.breaches(tmp_path) == schema_docs.stale(tmp_path) == []


# -- which changes break ----------------------------------------------------------------------

OLD: dict[str, Any] = {
    "$defs": {
        "Part": {
            "type": "object",
            "properties": {
                "size": {"type": "integer", "minimum": 1},
                "next": {"$ref": "#/$defs/Part"},
            },
            "required": ["size"],
        }
    },
    "type": "object",
    "properties": {
        "type": {"const": "thing", "type": "string", "default": "thing"},
        "name": {"type": "string"},
        "rate": {"type": "number"},
        "mode": {"enum": ["fast", "slow"], "type": "string"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}},
        "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "integer"}]},
        "sizes": {"type": "object", "additionalProperties": {"type": "integer"}},
        "any": {},
    },
    "required": ["name"],
}
PART = ("$defs", "Part", "properties", "size")


def at(*path: str) -> tuple[str, ...]:
    return ("properties", *path)


BREAKING = {
    "a field goes": (at("note"), None, "note: the field is gone"),
    "a nested field goes": (PART, None, "parts[].size: the field is gone"),
    "a field becomes required": (("required",), ["name", "rate"], "rate: required now"),
    "a new field is required": (("required",), ["name", "new"], "new: required now"),
    "a nested field is required": (
        ("$defs", "Part", "required"),
        ["size", "next"],
        "parts[].next: required now",
    ),
    "number to integer": (at("rate", "type"), "integer", "rate: was number, is integer"),
    "string to integer": (at("name", "type"), "integer", "name: was string, is integer"),
    "a nested type changes": (
        PART,
        {"type": "string"},
        "parts[].size: was integer, is string",
    ),
    "null no longer": (at("note"), {"type": "string"}, "note: was null, is string"),
    "anything no longer": (at("any"), {"type": "string"}, "any: was anything, is string"),
    "an enum value goes": (
        at("mode", "enum"),
        ["fast"],
        "mode: only ['fast'] is accepted now, was ['fast', 'slow']",
    ),
    "text becomes an enum": (
        at("name"),
        {"type": "string", "enum": ["a"]},
        "name: only ['a'] is accepted now, was anything",
    ),
    "the type changes": (at("type", "const"), "item", "type: was ['thing'], is ['item']"),
    "the type widens": (
        at("type"),
        {"enum": ["thing", "item"], "type": "string"},
        "type: was ['thing'], is ['thing', 'item']",
    ),
    "a bound is new": (at("rate", "maximum"), 1, "rate: maximum was None, is 1"),
    "a bound is tighter": ((*PART, "minimum"), 2, "parts[].size: minimum was 1, is 2"),
    "a pattern is new": (at("name", "pattern"), "^a", "name: pattern was None, is ^a"),
    "unknown fields are refused": (
        ("additionalProperties",),
        False,
        "*: what was accepted is refused now",
    ),
    "values of a map narrow": (
        at("sizes", "additionalProperties"),
        {"type": "boolean"},
        "sizes.*: was integer, is boolean",
    ),
    "a pair becomes a triple": (
        at("pair", "prefixItems"),
        [{"type": "integer"}] * 3,
        "pair: 2 elements became 3",
    ),
}
HARMLESS = {
    "an optional field": (at("new"), {"type": "string", "default": ""}),
    "a description": (at("name", "description"), "what it is called"),
    "another default": (at("note", "default"), "x"),
    "integer to number": (PART, {"type": "number", "minimum": 1}),
    "null too": (at("name"), {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    "a third alternative": (
        at("note"),
        {"anyOf": [{"type": "null"}, {"type": "integer"}, {"type": "string"}]},
    ),
    "an enum value more": (at("mode", "enum"), ["slow", "fast", "idle"]),
    "an enum becomes text": (at("mode"), {"type": "string"}),
    "anything instead": (at("name"), {}),
    "a looser bound": (PART, {"type": "integer", "minimum": 0}),
    "no longer required": (("required",), []),
    "in place of a reference": (
        at("parts", "items"),
        {"type": "object", "properties": OLD["$defs"]["Part"]["properties"]},
    ),
}


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The old schema with one thing set, or removed by None."""
    if value is not None:
        return planted(OLD, path, value)
    made = copy.deepcopy(OLD)
    parent: Any = made
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return made


def test_no_change_breaks_nothing() -> None:
    assert incompatibilities(OLD, copy.deepcopy(OLD)) == []
    for event in EVENTS:
        schema = schema_docs.json_schema(event)
        assert incompatibilities(schema, schema) == []


@pytest.mark.parametrize("name", BREAKING)
def test_a_breaking_change_is_named(name: str) -> None:
    path, value, line = BREAKING[name]
    assert incompatibilities(OLD, changed(path, value)) == [line]


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_change_passes(name: str) -> None:
    assert incompatibilities(OLD, changed(*HARMLESS[name])) == []


@pytest.mark.parametrize("event", EVENTS, ids=schema_docs.event_type)
def test_a_lost_or_required_field_of_any_event_is_noticed(event: type[Event]) -> None:
    schema = schema_docs.json_schema(event)
    for field in schema["properties"]:
        without = copy.deepcopy(schema)
        del without["properties"][field]
        (line,) = incompatibilities(schema, without)
        assert line.startswith(f"{field}: ")
        if field not in schema.get("required", ()):
            stricter = schema | {"required": [*schema.get("required", ()), field]}
            assert incompatibilities(schema, stricter) == [f"{field}: required now"]
