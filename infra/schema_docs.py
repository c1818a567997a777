"""JSON Schemas of all events and an AsyncAPI document of all topics, generated from the models.

The files are in the repository, so that producers in other languages have them, and so that a
change which old events or old readers would not survive is refused when it is made.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import schemas
from infra.schema_changes import incompatibilities
from schemas.base import Event
from schemas.topics import SCHEMA_VERSION, TOPICS, Topic

GENERATED = Path(schemas.__file__).parent / "generated"
ASYNCAPI = "asyncapi.json"
KAFKA_BINDING = "0.5.0"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class IncompatibleSchema(Exception):
    """A schema was changed so that old events, or old readers, would break."""


def event_type(event: type[Event]) -> str:
    """The text in the `type` field of this event."""
    return str(event.model_fields["type"].default)


def events() -> Iterator[type[Event]]:
    """All events, in the order of their topics."""
    for topic in TOPICS.values():
        yield from topic.events


def json_schema(event: type[Event]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of an event's value: what a producer may send."""
    return {
        "$schema": DIALECT,
        "$id": f"{event_type(event)}.schema.json",
    } | event.model_json_schema()


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document: a channel a topic, a message an event."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "RALO Streams",
            "version": str(SCHEMA_VERSION),
            "description": "Topics and events. The namespace of a process comes before each "
            "address; values are JSON; keys decide the partition by murmur2, as in Java.",
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in TOPICS.values()},
        "components": {"messages": {event_type(event): _message(event) for event in events()}},
    }


def _channel(topic: Topic) -> dict[str, Any]:
    names = [event_type(event) for event in topic.events]
    settings = topic.config()
    configuration = {
        "cleanup.policy": [settings["cleanup.policy"]],
        "retention.ms": int(settings["retention.ms"]),
        "max.message.bytes": int(settings["max.message.bytes"]),
    }
    binding = {
        "topic": topic.name,
        "partitions": topic.partitions,
        "topicConfiguration": configuration,
        "bindingVersion": KAFKA_BINDING,
    }
    return {
        "address": topic.name,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {"kafka": binding},
    }


def _message(event: type[Event]) -> dict[str, Any]:
    name = event_type(event)
    key = {"type": "string", "description": f"`{event.key_field}` of the value"}
    return {
        "name": name,
        "title": event.__name__,
        "summary": (event.__doc__ or "").split("\n")[0],
        "contentType": "application/json",
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": f"./{name}.schema.json"},
        },
        "bindings": {"kafka": {"key": key, "bindingVersion": KAFKA_BINDING}},
    }


def documents() -> dict[str, str]:
    """All files by name, as they should be; the same text on every machine."""
    found = {f"{event_type(event)}.schema.json": json_schema(event) for event in events()}
    return {name: _text(document) for name, document in (found | {ASYNCAPI: asyncapi()}).items()}


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def committed(directory: Path = GENERATED) -> dict[str, str]:
    """All files by name, as they are."""
    return {path.name: path.read_text("utf-8") for path in sorted(directory.glob("*.json"))}


def stale(directory: Path = GENERATED) -> list[str]:
    """The names of files that are not as they should be, are missing, or should not be there."""
    wanted, found = documents(), committed(directory)
    return sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))


def breaches(directory: Path = GENERATED) -> list[str]:
    """What the models would break of the committed schemas, one line each; empty is well."""
    wanted, lines = documents(), []
    for name, text in committed(directory).items():
        if name == ASYNCAPI:
            continue
        event = name.removesuffix(".schema.json")
        if name not in wanted:
            lines.append(f"{event}: the event is gone")
            continue
        found = incompatibilities(json.loads(text), json.loads(wanted[name]))
        lines += [f"{event}.{line}" for line in found]
    return lines


def write(directory: Path = GENERATED, incompatible: bool = False) -> list[str]:
    """Bring the files up to date; answers the names changed.

    Raises `IncompatibleSchema` for a change that breaks old events, unless `incompatible`.
    """
    if not incompatible and (lines := breaches(directory)):
        raise IncompatibleSchema(
            "old events or readers would break: " + "; ".join(lines) + ". Add an optional field "
            "or a new event instead; before a release, write with --incompatible"
        )
    names, wanted = stale(directory), documents()
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name in wanted:
            (directory / name).write_text(wanted[name], "utf-8")
        else:
            (directory / name).unlink()
    return names
