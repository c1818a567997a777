"""`ralo topics`: what the topics hold, how they are set, and how far groups are."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli import PLAIN
from infra.cli.records import QUIET_S, utc
from infra.cli.stack import AsJson, duration, megabytes, say
from infra.cli.topic_parties import ALL_READ, PARTIES
from infra.settings import kafka_bootstrap, settings
from schemas.topics import FOR_EVER, TOPICS, Topic

if TYPE_CHECKING:
    from infra.kafka.inspect import KafkaInspector, PartitionState
    from schemas.records import Partition

app = typer.Typer(no_args_is_help=True, **PLAIN)


class NoSuchTopic(ValueError):
    """There is no topic of this name."""


@app.command("list")
def list_topics(as_json: AsJson = False) -> None:
    """List all topics: how much they hold, from when to when, for how long it is kept."""
    held = _by_topic(_inspector().partitions(list(TOPICS)))
    rows = [_row(topic, held.get(topic.name, {})) for topic in TOPICS.values()]
    if as_json:
        print(json.dumps(rows))
        return
    _table(
        {
            "topic": row["topic"],
            "partitions": row["partitions"],
            "offsets": "missing: ralo provision" if row["offsets"] is None else row["offsets"],
            "size": megabytes(row["size_bytes"]),
            "kept": _kept(row["retention_ms"], row["compacted"]),
            "key": row["key"],
            "events": ", ".join(row["events"]),
            "first": _time(row["first_ms"]),
            "newest": _time(row["newest_ms"]),
        }
        for row in rows
    )


@app.command()
def describe(
    topic: Annotated[str, typer.Argument(help="A topic.")], as_json: AsJson = False
) -> None:
    """Show one topic: its events, who writes and reads it, its settings and its partitions."""
    from infra.schema_docs import event_type

    known = _known(topic)
    inspector = _inspector()
    held = _by_topic(inspector.partitions([topic])).get(topic)
    if held is None:
        raise NoSuchTopic(f"the broker has no topic {topic} yet: `ralo provision` makes it")
    found = {
        **_row(known, held),
        "schemas": [f"schemas/generated/{event_type(e)}.schema.json" for e in known.events],
        "written_by": PARTIES[topic].written_by,
        "read_by": PARTIES[topic].read_by,
        "settings": _settings(known, inspector.settings(topic)),
        "by_partition": [{"partition": p.number} | asdict(held[p]) for p in held],
    }
    if as_json:
        print(json.dumps(found))
    else:
        _describe(found)


@app.command()
def lag(
    group: Annotated[
        str | None, typer.Argument(help="Only groups whose names begin so, such as trainer.")
    ] = None,
    behind: Annotated[bool, typer.Option("--behind", help="Only where records wait.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what waits for each consumer group, by partition.

    `offsets` is what Kafka calls lag; `records` are those of them that are the group's own work,
    without other policies' and without markers of transactions. Processors of robots are in no
    group: they read what is newest.
    """
    from consumers.lags import lags
    from infra.connect import connect_log

    log, began_s = connect_log(settings()), time.monotonic()
    rows: list[dict[str, Any]] = []
    for state in _inspector().groups():
        marks = {p: offset for p, offset in state.marks.items() if p.topic in TOPICS}
        if not state.name.startswith(group or ""):
            continue
        if time.monotonic() - began_s > QUIET_S:
            say(f"lag: {state.name}")
        for found in lags(log, state.name, marks) if marks else ():
            place = {"topic": found.partition.topic, "partition": found.partition.number}
            lag = {k: v for k, v in asdict(found).items() if k not in ("group", "partition")}
            if found.records or not behind:
                rows.append(
                    {"group": state.name, "state": state.state, "members": state.members}
                    | place
                    | lag
                )
    if as_json:
        print(json.dumps(rows))
    elif rows:
        _table(map(_lag_line, rows))
    else:
        say("no group has committed offsets here" if not behind else "nothing waits")


def _inspector() -> KafkaInspector:
    from infra.kafka.inspect import KafkaInspector

    config = settings()
    return KafkaInspector(kafka_bootstrap(config), config.namespace, config.kafka.extra)


def _known(topic: str) -> Topic:
    if topic not in TOPICS:
        raise NoSuchTopic(f"no topic {topic!r}: there are {', '.join(TOPICS)}")
    return TOPICS[topic]


def _by_topic(
    held: Mapping[Partition, PartitionState],
) -> dict[str, dict[Partition, PartitionState]]:
    found: dict[str, dict[Partition, PartitionState]] = {}
    for partition, state in held.items():
        found.setdefault(partition.topic, {})[partition] = state
    return found


def _row(topic: Topic, held: Mapping[Partition, PartitionState]) -> dict[str, Any]:
    """What a topic holds; `offsets` is None where the broker does not have it."""
    from infra.schema_docs import event_type

    states = held.values()
    firsts = [state.first_ms for state in states if state.first_ms is not None]
    newest = [state.newest_ms for state in states if state.newest_ms is not None]
    return {
        "topic": topic.name,
        "partitions": len(held) or topic.partitions,
        "offsets": sum(state.end - state.first for state in states) if held else None,
        "size_bytes": _size_bytes(topic.name) if held else None,
        "retention_ms": topic.retention_ms,
        "compacted": topic.compacted,
        "key": topic.events[0].key_field,
        "events": [event_type(event) for event in topic.events],
        "first_ms": min(firsts, default=None),
        "newest_ms": max(newest, default=None),
    }


def _size_bytes(topic: str) -> int | None:
    """What a topic takes on disk; known of the broker that `ralo up` started on this machine."""
    config = settings()
    if config.kafka.bootstrap_servers:
        return None
    folders = (config.state_dir / "kafka").glob(f"{config.namespace}{topic}-*")
    sizes = (
        path.stat().st_size
        for folder in folders
        if folder.name.rpartition("-")[2].isdecimal()
        for path in folder.glob("*.log")
    )
    return sum(sizes)


def _settings(topic: Topic, on_broker: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each setting that `schemas/topics.py` makes, and those that say how safe the data is."""
    wanted = topic.config()
    names = [*wanted, "min.insync.replicas", "compression.type", "segment.bytes"]
    return [
        {"setting": name, "broker": on_broker.get(name), "schemas": wanted.get(name)}
        | {"differs": name in wanted and on_broker.get(name) != wanted[name]}
        for name in names
    ]


def _describe(found: Mapping[str, Any]) -> None:
    print(f"{found['topic']}: {found['offsets']:,} offsets in {found['partitions']} partitions")
    for name, text in (
        ("kept", _kept(found["retention_ms"], found["compacted"])),
        ("on disk", megabytes(found["size_bytes"])),
        ("key", found["key"]),
        ("events", ", ".join(found["events"])),
        ("schemas", ", ".join(found["schemas"])),
        ("written by", ", ".join(found["written_by"])),
        ("read by", ", ".join(found["read_by"])),
        ("", ALL_READ),
    ):
        if text:
            print(f"  {name:<11} {text}")
    print()
    _table(
        {name: value for name, value in row.items() if name != "differs"}
        | {"": "DIFFERS: ralo provision does not change it" if row["differs"] else ""}
        for row in found["settings"]
    )
    print()
    _table(
        {name: _time(value) if name.endswith("_ms") else value for name, value in row.items()}
        for row in found["by_partition"]
    )


def _lag_line(row: Mapping[str, Any]) -> dict[str, Any]:
    since_ms = row["since_ms"]
    waits = None if since_ms is None else max(0.0, time.time() - since_ms / 1000)
    return {
        "group": row["group"],
        "state": row["state"],
        "members": row["members"],
        "partition": f"{row['topic']}[{row['partition']}]",
        "committed": row["committed"],
        "end": row["end"],
        "offsets": row["offsets"],
        "records": f"{row['records']:,}{'' if row['whole'] else ' or more'}",
        "waits for": duration(waits),
    }


def _kept(retention_ms: int, compacted: bool) -> str:
    if compacted:
        return "newest a key"
    return "for ever" if retention_ms == FOR_EVER else duration(retention_ms / 1000)


def _time(timestamp_ms: int | None) -> str:
    return "" if timestamp_ms is None else utc(timestamp_ms)


def _table(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows in columns, numbers to the right; a line is as long as it is, also in a pipe."""
    lines: Sequence[Mapping[str, Any]] = list(rows)
    if not lines:
        return
    numbers = {n for n in lines[0] if all(isinstance(line[n], int | None) for line in lines)}
    cells = [
        {n: "" if v is None else f"{v:,}" if n in numbers else str(v) for n, v in line.items()}
        for line in lines
    ]
    widths = {name: max(len(name), *(len(cell[name]) for cell in cells)) for name in lines[0]}
    for cell in [{name: name for name in lines[0]}, *cells]:
        padded = (
            text.rjust(widths[name]) if name in numbers else text.ljust(widths[name])
            for name, text in cell.items()
        )
        print("  ".join(padded).rstrip())
