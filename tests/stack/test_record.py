"""`ralo record` on a real broker: killed, it loses a second at most; asked to end, nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcap.reader import make_reader

from infra.cli.bench_stack import delete_topics
from infra.embedded.stack import Endpoints
from infra.envelope import message
from infra.kafka.log import KafkaLog
from schemas.acting import Reading, SensorFrame
from schemas.topics import TOPICS

pytestmark = [pytest.mark.stack, pytest.mark.slow]

FRAME_S = 0.02
LAG_MS = 1000.0


@pytest.fixture
def log(stack: Endpoints, namespace: str) -> Iterator[KafkaLog]:
    found = KafkaLog(stack.kafka, namespace)
    found.provision(list(TOPICS.values()))
    yield found
    delete_topics(found)


def environ(log: KafkaLog, folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RALO_")}
    ours = {
        "STATE_DIR": folder,
        "NAMESPACE": log.namespace,
        "KAFKA__BOOTSTRAP_SERVERS": log.bootstrap,
    }
    return kept | {f"RALO_{name}": str(value) for name, value in ours.items()}


def ralo(*arguments: object, **more: Any) -> dict[str, Any]:
    """What a verb says in JSON."""
    command = [sys.executable, "-m", "infra.cli", *map(str, arguments), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, **more)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@contextmanager
def recorder(log: KafkaLog, folder: Path, *options: str) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-m", "infra.cli", "record", str(folder / "x.mcap"), "--json"]
    process = subprocess.Popen(
        [*command, *options], env=environ(log, folder), stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def frame(seq: int) -> SensorFrame:
    wall_ms, stamp_ms = time.time() * 1000, time.monotonic() * 1000
    reading = Reading(channel="imu", seq=seq, stamp_ms=stamp_ms, values=[0.1] * 6)
    return SensorFrame(
        robot_id="rover",
        boot_id="b1",
        seq=seq,
        stamp_ms=stamp_ms,
        wall_ms=wall_ms,
        readings=[reading],
    )


def publish(log: KafkaLog, count: int, folder: Path) -> list[SensorFrame]:
    """So many frames, beginning when the recorder has opened its file."""
    until = time.monotonic() + 60
    while not (folder / "x.mcap").exists():
        assert time.monotonic() < until, "the recorder did not begin"
        time.sleep(0.05)
    writer, sent = log.live_writer(), []
    for seq in range(count):
        sent.append(frame(seq))
        assert writer.send(message(sent[-1]))
        writer.serve()
        time.sleep(FRAME_S)
    assert writer.flush(10) == 0
    return sent


def sequence(path: Path) -> list[int]:
    with path.open("rb") as file:
        found = make_reader(file, validate_crcs=True).iter_messages()
        return [json.loads(message.data)["seq"] for _, _, message in found]


def test_a_killed_recorder_loses_a_second_at_most(log: KafkaLog, tmp_path: Path) -> None:
    with recorder(log, tmp_path, "--from", "start") as process:
        sent = publish(log, 150, tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = ralo("record", "recover", tmp_path / "x.mcap", tmp_path / "y.mcap")
    assert found["damage"]["index"]
    kept = sequence(tmp_path / "y.mcap")
    assert kept == list(range(len(kept)))
    assert sent[-1].wall_ms - sent[len(kept) - 1].wall_ms < LAG_MS


def test_an_ended_recorder_loses_nothing(log: KafkaLog, tmp_path: Path) -> None:
    with recorder(log, tmp_path, "--from", "start") as process:
        sent = publish(log, 50, tmp_path)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(said)["events"] == {"sensor-frame": 50}
    assert not ralo("record", "info", tmp_path / "x.mcap")["damage"]["any"]
    assert sequence(tmp_path / "x.mcap") == list(range(50))
    assert ralo("record", "frames", tmp_path / "x.mcap", tmp_path / "f.jsonl")["frames"] == 50
    lines = (tmp_path / "f.jsonl").read_bytes().splitlines()
    assert [SensorFrame.model_validate_json(line) for line in lines] == sent


def test_what_was_is_recorded_to_its_end(log: KafkaLog, tmp_path: Path) -> None:
    log.append([message(frame(seq)) for seq in range(20)])
    out, options = tmp_path / "x.mcap", ("--from", "@-10m", "--once")
    said = ralo("record", out, *options, env=environ(log, tmp_path))
    assert said["events"] == {"sensor-frame": 20}
    again = [sys.executable, "-m", "infra.cli", "record", str(out), *options]
    ran = subprocess.run(again, env=environ(log, tmp_path), capture_output=True, text=True)
    assert ran.returncode == 1 and "x.mcap" in ran.stderr


def test_latency_is_measured_beside_a_bare_chain(log: KafkaLog, tmp_path: Path) -> None:
    """Whether it is good is for a quiet machine to say: here, that all frames are answered."""
    command = [sys.executable, "-m", "infra.cli", "bench", "latency", "--frames", "50", "--json"]
    ran = subprocess.run(
        command,
        env=environ(log, tmp_path) | {"RALO_S3__ENDPOINT": "127.0.0.1:1"},
        capture_output=True,
        text=True,
    )
    figures = json.loads(ran.stdout)
    assert ran.returncode == (figures["ratio_p50"] > figures["ratio_p50_max"]), ran.stderr
    for chain in ("ralo", "bare"):
        assert figures[chain]["frames"] == 50 and figures[chain]["without_command"] == 0
        assert 0 < figures[chain]["p50_ms"] <= figures[chain]["p99_ms"]
    left = [
        topic for topic in KafkaLog(log.bootstrap)._admin.list_topics().topics if "bench-" in topic
    ]
    assert left == []
