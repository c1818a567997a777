"""`ralo replay` on real servers: interrupted, taken up, exact to the record; and its sandboxes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from typer.testing import CliRunner

from consumers.replay import MissingReferences
from infra.cli.bench_stack import delete_topics
from infra.cli.replay import replay
from infra.cli.sandboxes import NoSandbox
from infra.copying import Raw, original_of
from infra.embedded.stack import Endpoints
from infra.envelope import message
from infra.kafka.log import KafkaLog
from infra.settings import settings
from schemas.acting import Reading, SensorFrame
from schemas.learning import SampleGroup
from schemas.tensors import ObjectRef
from schemas.topics import SAMPLES, SENSOR_FRAMES, TOPICS

pytestmark = [pytest.mark.stack, pytest.mark.slow]

FRAMES = 300
OLD_MS = int(time.time() * 1000) - 30 * 24 * 3600 * 1000
"""A month ago: older than frames are kept."""


@pytest.fixture
def log(stack: Endpoints, namespace: str) -> Iterator[KafkaLog]:
    found = KafkaLog(stack.kafka, namespace)
    found.provision([dataclasses.replace(topic, retention_ms=-1) for topic in TOPICS.values()])
    yield found
    delete_topics(found)


@pytest.fixture
def sandbox(log: KafkaLog, environ: dict[str, str]) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex[:12]}"
    yield name
    inside = KafkaLog(log.bootstrap, f"sandbox.{name}.")
    if has_topic(inside):
        delete_topics(inside)


@pytest.fixture
def environ(log: KafkaLog, stack: Endpoints, tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RALO_")}
    s3 = stack.s3
    ours = {
        "STATE_DIR": str(tmp_path),
        "NAMESPACE": log.namespace,
        "KAFKA__BOOTSTRAP_SERVERS": log.bootstrap,
        "S3__ENDPOINT": s3.address,
        "S3__ACCESS_KEY": s3.access_key,
        "S3__SECRET_KEY": s3.secret_key,
        "S3__BUCKET": s3.bucket,
    }
    return kept | {f"RALO_{name}": value for name, value in ours.items()}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "infra.cli", "replay", *map(str, arguments)]


def ralo(environ: dict[str, str], *arguments: object) -> Any:
    ran = subprocess.run(command(*arguments), env=environ, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def here(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """The verb in this process: what it says in JSON, or raises."""
    for name, value in environ.items():
        if name.startswith("RALO_"):
            monkeypatch.setenv(name, value)

    def verb(*arguments: object) -> Any:
        settings.cache_clear()
        found = CliRunner().invoke(replay, [*map(str, arguments), "--json"])
        if found.exception:
            raise found.exception
        return json.loads(found.stdout)

    yield verb
    settings.cache_clear()


def fill(log: KafkaLog) -> None:
    """Frames of three robots, 20 ms apart, with headers of two kinds that maps do not keep."""
    producer = Producer({"bootstrap.servers": log.bootstrap, "partitioner": "murmur2_random"})
    for seq in range(FRAMES):
        reading = Reading(channel="imu", seq=seq, stamp_ms=20.0 * seq, values=[0.1] * 6)
        frame = SensorFrame(
            robot_id=f"r{2 + seq % 3}",
            boot_id="b",
            seq=seq,
            stamp_ms=20.0 * seq,
            wall_ms=1.0,
            readings=[reading],
        )
        producer.produce(
            f"{log.namespace}sensor-frames",
            frame.to_bytes(),
            frame.key.encode(),
            timestamp=OLD_MS + 20 * seq,
            headers=[("tag", b"1"), ("tag", b"2"), ("none", None)],
        )
    assert producer.flush(10) == 0


def held(log: KafkaLog) -> dict[int, list[Raw]]:
    found: dict[int, list[Raw]] = {}
    for partition, (first, after) in log.ends("sensor-frames").items():
        reader, records = log.raw_reader(partition, first), list[Raw]()
        until = time.monotonic() + 20
        while reader.position < after and time.monotonic() < until:
            records += reader.poll(1000, 0.1)
        reader.close()
        if records:
            found[partition.number] = records
    return found


def test_interrupted_and_taken_up_each_record_is_there_once(
    log: KafkaLog, environ: dict[str, str], sandbox: str
) -> None:
    fill(log)
    selected = ("--topic", "sensor-frames", "--sandbox", sandbox, "--json")
    inside = KafkaLog(log.bootstrap, f"sandbox.{sandbox}.")
    said = interrupted(inside, environ, *selected)
    assert 0 < said["records"] < FRAMES
    assert "--resume" in said["resume"] and sandbox in said["resume"]
    twice = subprocess.run(command(*selected), env=environ, capture_output=True, text=True)
    assert twice.returncode == 1 and "holds records already" in twice.stderr
    rest = ralo(environ, *selected, "--speed", "max", "--resume")
    assert rest["records"] == FRAMES - said["records"] and not rest["interrupted"]
    originals, copies = held(log), held(inside)
    assert originals.keys() == copies.keys() and len(originals) > 1
    for number, records in originals.items():
        assert [raw[1:4] for raw in copies[number]] == [raw[1:4] for raw in records]
        assert [raw.headers[:-1] for raw in copies[number]] == [raw.headers for raw in records]
        assert records[0].headers == [("tag", b"1"), ("tag", b"2"), ("none", None)]
        origin = f"{log.namespace}sensor-frames[{number}]@"
        of = [original_of(raw.headers) for raw in copies[number]]
        assert of == [f"{origin}{raw.offset}" for raw in records]
    assert retention(inside) == "-1", "or what is old would be deleted at once"


def interrupted(inside: KafkaLog, environ: dict[str, str], *arguments: object) -> Any:
    """What a replay says that is interrupted on its way."""
    slow = subprocess.Popen(command(*arguments), env=environ, stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while not (has_topic(inside) and copied(inside) > 20):
            assert time.monotonic() < until and slow.poll() is None
            time.sleep(0.05)
        slow.send_signal(signal.SIGINT)
        said = json.loads(slow.communicate(timeout=60)[0])
    finally:
        slow.kill()
        slow.communicate()
    assert slow.returncode == 130 and said["interrupted"]
    return said


def copied(log: KafkaLog) -> int:
    return sum(after - first for first, after in log.ends("sensor-frames").values())


def has_topic(log: KafkaLog) -> bool:
    admin = AdminClient({"bootstrap.servers": log.bootstrap})
    return f"{log.namespace}sensor-frames" in admin.list_topics(timeout=10).topics


def retention(log: KafkaLog) -> str:
    name = f"{log.namespace}{SENSOR_FRAMES.name}"
    admin = AdminClient({"bootstrap.servers": log.bootstrap})
    (future,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)]).values()
    return str(future.result()["retention.ms"].value)


def test_missing_objects_and_sandboxes(
    log: KafkaLog, here: Callable[..., Any], sandbox: str
) -> None:
    gone = ObjectRef(key="samples/gone.json", sha256="0" * 64, size_bytes=9)
    group = SampleGroup(
        problem_id="q",
        mission_id="m",
        policy="p",
        rollouts_ref=gone,
        version=1,
        source={"problems-0": (0, 1)},
    )
    log.append([message(group)])
    chosen = ("--topic", SAMPLES.name, "--mission", "m", "--sandbox", sandbox, "--speed", "max")
    with pytest.raises(MissingReferences, match=r"samples/gone.json is missing") as refused:
        here(*chosen)
    assert "--allow-missing" in str(refused.value)
    dry = here(*chosen, "--dry-run")
    assert dry["topics"] == {"samples": {"sample-group": {"records": 1, "bytes": dry["bytes"]}}}
    assert (dry["references"]["objects"], dry["references"]["faults"]) == (1, 1)
    inside = KafkaLog(log.bootstrap, f"sandbox.{sandbox}.")
    assert not has_topic(inside), "nothing was made"
    assert here(*chosen, "--allow-missing")["records"] == 1
    listed = {"sandbox": sandbox, "records": 1, "topics": {"samples": 1}, "objects": 0}
    assert listed in here("list")
    with pytest.raises(NoSandbox, match=sandbox):
        here("drop", "nosuch", "--yes")
    assert here("drop", sandbox, "--yes")["records"] == 1
    assert not has_topic(inside)
    assert len(log.ends("samples")) == SAMPLES.partitions, "the original is there"


def test_the_bench_copies_all_and_says_how_fast(
    log: KafkaLog, environ: dict[str, str], tmp_path: Path
) -> None:
    """Whether it is good is for a quiet machine to say."""
    arguments = ["bench", "replay", "--events", "2000", "--pairs", "1", "--seconds", "1", "--json"]
    ran = subprocess.run(
        [sys.executable, "-m", "infra.cli", *arguments], env=environ, capture_output=True, text=True
    )
    figures = json.loads(ran.stdout)
    copy, pace = figures["copy"], figures["pace"]
    good = copy["ratio"] >= 0.5 and pace["interval_off_ms"]["p99"] <= 5
    assert ran.returncode == (not good), ran.stderr
    assert copy["pairs"][0]["plain_per_s"] > 0 and pace["events"] > 100
    assert 0 <= pace["late_ms"]["p50"] <= pace["late_ms"]["p99"] <= pace["late_ms"]["max"]
    admin = AdminClient({"bootstrap.servers": log.bootstrap})
    assert [topic for topic in admin.list_topics().topics if "bench-" in topic] == []
