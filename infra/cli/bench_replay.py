"""`ralo bench replay`: a replay as fast as it goes beside plain confluent-kafka, and its pace.

Both copy the same topic, filled in this run, with the same settings of the producer, key, headers,
timestamp and partition kept; they take turns, each pair in the other order. The pace is that of
`ralo replay --speed 1` over two topics of robots that send at uneven times.
"""

from __future__ import annotations

import contextlib
import json as json_module
import os
import platform
import random
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import cycle, islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.bench_stack import delete_topics, say, stack_of

if TYPE_CHECKING:
    from infra.kafka.log import KafkaLog
    from infra.log import Message
    from infra.settings import Settings

RATIO_MIN = 0.5
OFF_MAX_MS = 5.0
"""What is held to be good: the median of the pairs, and the times between records at p99."""
ROBOTS = 8
DISTINCT = 2000
CHUNK = 10_000
BATCH = 1000
RATES_HZ = (50.0, 100.0, 200.0)


class BenchError(Exception):
    """The bench itself went wrong."""


def replay(
    events: Annotated[int, typer.Option(min=1000, help="Sensor frames to copy.")] = 200_000,
    pairs: Annotated[int, typer.Option(min=1, help="So often, ours and plain.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the recording to pace.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Of the uneven times.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Copy as fast as it goes beside plain confluent-kafka, and replay at the recorded pace.

    Uses the stack that runs, or one of its own. Exit status 1 where the median ratio is below 0.5,
    or the times between records are off by more than 5 ms at p99.
    """
    with contextlib.ExitStack() as undo:
        config = stack_of(undo)
        figures = {
            "copy": _copying(config, events, pairs, undo),
            "pace": _pacing(config, seconds, seed, undo),
            "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
        }
    print(json_module.dumps(figures, indent=2) if json else _text(figures))
    good = figures["pace"]["interval_off_ms"]["p99"] <= OFF_MAX_MS
    if not good or figures["copy"]["ratio"] < RATIO_MIN:
        raise typer.Exit(1)


def _logs(config: Settings, undo: contextlib.ExitStack, *names: str) -> list[KafkaLog]:
    """A log for each, in a namespace of this run, whose topics are deleted at the end."""
    from infra.connect import connect_log

    run = uuid.uuid4().hex[:8]
    logs = [
        connect_log(config.model_copy(update={"namespace": f"{name}bench-{run}."}))
        for name in names
    ]
    for log in logs:
        undo.callback(delete_topics, log)
    return logs


# -- as fast as it goes -------------------------------------------------------------------------


def _copying(
    config: Settings, events: int, pairs: int, undo: contextlib.ExitStack
) -> dict[str, Any]:
    from schemas.topics import FOR_EVER, SENSOR_FRAMES

    source, ours, plain = _logs(config, undo, "", "sandbox.", "sandbox.plain-")
    for log in (source, ours, plain):
        log.provision([replace(SENSOR_FRAMES, retention_ms=FOR_EVER)])
    size_bytes = _fill(source, events)
    found = []
    for number in range(-1, pairs):
        one = _pair(source, ours, plain, events, ours_first=number % 2 == 0)
        if number < 0:
            continue  # The first pair warms the broker up.
        found.append(one)
        say(
            f"pair {number + 1} of {pairs}: {one['ralo_per_s']:,.0f} events/s, "
            f"plain {one['plain_per_s']:,.0f}: {one['ratio']:.2f}"
        )
    return {
        "events": events,
        "bytes": size_bytes,
        "pairs": found,
        "ratio": round(statistics.median(one["ratio"] for one in found), 3),
        "ratio_min": RATIO_MIN,
    }


def _fill(log: KafkaLog, events: int) -> int:
    """Frames of several rovers; answers the bytes of their values."""
    messages, size_bytes = cycle(list(_frames())), 0
    first_ms = int(time.time() * 1000) - events
    for begin in range(0, events, CHUNK):
        chunk = list(islice(messages, min(CHUNK, events - begin)))
        log.append([replace(m, timestamp_ms=first_ms + begin + n) for n, m in enumerate(chunk)])
        size_bytes += sum(len(message.value) for message in chunk)
        if begin % (5 * CHUNK) == 0:
            say(f"{begin + len(chunk):,} of {events:,} frames written")
    return size_bytes


def _frames() -> Iterator[Message]:
    from infra.cli.rover_frames import rover_frames
    from infra.envelope import message

    for number, frame in enumerate(rover_frames(DISTINCT)):
        yield message(frame.model_copy(update={"robot_id": f"rover-{number % ROBOTS}"}))


def _pair(
    source: KafkaLog, ours: KafkaLog, plain: KafkaLog, events: int, ours_first: bool
) -> dict[str, float]:
    both: dict[str, Callable[[], None]] = {
        "ralo_per_s": lambda: _our_copy(source, ours, events),
        "plain_per_s": lambda: _plain_copy(source, plain, events),
    }
    rates = {}
    for name in both if ours_first else reversed(both):
        began_s = time.perf_counter()
        both[name]()
        rates[name] = round(events / (time.perf_counter() - began_s), 1)
    return rates | {"ratio": round(rates["ralo_per_s"] / rates["plain_per_s"], 3)}


def _our_copy(source: KafkaLog, into: KafkaLog, events: int) -> None:
    """What `ralo replay --topic sensor-frames --speed max` does from the command line."""
    from consumers.replay import send, whole
    from consumers.selection import Selection

    found = whole(source, Selection(("sensor-frames",)))
    sent = send(source, into, found.offsets, source.namespace)
    if sent.records != events:
        raise BenchError(f"ours copied {sent.records:,} of {events:,} events")


def _plain_copy(source: KafkaLog, into: KafkaLog, events: int) -> None:
    """A loop as one writes it with confluent-kafka: consume, produce, flush."""
    from confluent_kafka import Consumer, Producer, TopicPartition

    from infra.kafka.copying import copying_producer

    name, target = f"{source.namespace}sensor-frames", f"{into.namespace}sensor-frames"
    reader = Consumer(
        {
            "bootstrap.servers": source.bootstrap,
            "group.id": "plain",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
        | dict(source.extra)
    )
    ends = source.ends("sensor-frames").items()
    reader.assign([TopicPartition(name, p.number, first) for p, (first, _) in ends])
    writer = Producer(copying_producer(source.bootstrap, source.extra, paced=False))
    copied = 0
    while copied < events:
        for message in reader.consume(BATCH, 0.02):
            if message.error() is not None:
                raise BenchError(f"plain: {message.error()}")
            while True:
                try:
                    writer.produce(
                        target,
                        message.value(),
                        message.key(),
                        partition=message.partition(),
                        timestamp=message.timestamp()[1],
                        headers=message.headers(),
                    )
                    break
                except BufferError:
                    writer.poll(0.05)
            copied += 1
        writer.poll(0)
    if left := writer.flush(60):
        raise BenchError(f"plain: {left} events were not confirmed")
    reader.close()


# -- at the recorded pace -----------------------------------------------------------------------


def _pacing(
    config: Settings, seconds: float, seed: int, undo: contextlib.ExitStack
) -> dict[str, Any]:
    from consumers.replay import Pace, prepare, send, whole
    from consumers.selection import Selection

    source, into = _logs(config, undo, "", "sandbox.")
    topics = ("sensor-frames", "fused-states")
    events = _record(source, seconds, seed)
    prepare(source, into, topics)
    say(f"replaying {events:,} events of {seconds:.0f} s at their pace")
    found = whole(source, Selection(topics))
    sent = send(source, into, found.offsets, source.namespace, Pace())
    return {
        "events": sent.records,
        "seconds": round(sent.seconds, 3),
        **sent.punctuality.figures(),
        "interval_off_p99_max_ms": OFF_MAX_MS,
    }


def _record(log: KafkaLog, seconds: float, seed: int) -> int:
    """Three rovers of different rates that jitter and pause, and a state after each frame."""
    from schemas.topics import FOR_EVER, FUSED_STATES, SENSOR_FRAMES

    log.provision(
        [replace(topic, retention_ms=FOR_EVER) for topic in (SENSOR_FRAMES, FUSED_STATES)]
    )
    draw, first_ms = random.Random(seed), time.time() * 1000 - seconds * 1000
    values = cycle(_frames())
    found: list[tuple[float, Message]] = []
    for rate_hz in RATES_HZ:
        at_ms = draw.uniform(0, 1000 / rate_hz)
        while at_ms < seconds * 1000:
            frame = replace(next(values), key=f"rover-{rate_hz:g}".encode())
            found.append((at_ms, frame))
            found.append((at_ms + draw.uniform(1, 4), replace(frame, topic=FUSED_STATES.name)))
            pause_ms = draw.uniform(100, 500) if draw.random() < 0.002 else 0.0
            at_ms += draw.uniform(0.5, 1.5) * 1000 / rate_hz + pause_ms
    found.sort(key=lambda one: one[0])
    log.append([replace(m, timestamp_ms=int(first_ms + at_ms)) for at_ms, m in found])
    return len(found)


# -- what is said -------------------------------------------------------------------------------


def _text(figures: Mapping[str, Any]) -> str:
    copy, pace = figures["copy"], figures["pace"]
    lines = [f"{copy['events']:,} sensor frames, {copy['bytes'] / 1e6:.1f} MB, copied by turns:"]
    for one in copy["pairs"]:
        lines.append(
            f"  ralo {one['ralo_per_s']:>9,.0f} events/s   plain {one['plain_per_s']:>9,.0f}   "
            f"ratio {one['ratio']:.2f}"
        )
    lines.append(f"  ralo over plain: {copy['ratio']:.2f} at the median (at least {RATIO_MIN})")
    off, late = pace["interval_off_ms"], pace["late_ms"]
    lines.append(
        f"{pace['events']:,} events at their pace, {pace['seconds']:.1f} s: times between them off "
        f"by p50 {off['p50']:.2f}, p99 {off['p99']:.2f}, at most {off['max']:.1f} ms (p99 at most "
        f"{OFF_MAX_MS:g} ms); late p50 {late['p50']:.2f}, p99 {late['p99']:.2f}, at most "
        f"{late['max']:.1f} ms"
    )
    return "\n".join(lines)
