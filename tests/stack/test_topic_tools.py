"""`ralo topics`, `cat` and `tail` on a real broker and store, as processes in pipes."""

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.lags import lags
from consumers.selection import Selection, merged, parse_range
from consumers.selection.newest import newest
from infra import envelope
from infra.cli.bench_stack import delete_topics
from infra.connect import connect_store
from infra.embedded.stack import Endpoints
from infra.kafka.inspect import KafkaInspector
from infra.kafka.log import KafkaLog
from infra.log import Aborted, Mark, Message
from infra.settings import KafkaSettings, S3Settings, Settings
from schemas.base import Event
from schemas.learning import Evaluation, GradientUpload
from schemas.missions import MissionControl
from schemas.records import Partition
from schemas.tensors import TensorRef
from schemas.topics import EVALUATIONS, MISSIONS, TOPICS

pytestmark = [pytest.mark.stack, pytest.mark.slow]

POLICIES = tuple(f"p{n}" for n in range(8))
PER_POLICY = 40
BEGAN_MS = 1_795_305_600_000


@pytest.fixture(scope="module")
def config(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    s3 = stack.s3
    return Settings(
        state_dir=tmp_path_factory.mktemp("state"),
        namespace=f"topictools{os.getpid()}.",
        kafka=KafkaSettings(bootstrap_servers=stack.kafka),
        s3=S3Settings(
            endpoint=s3.address,
            access_key=s3.access_key,
            secret_key=s3.secret_key,
            bucket=s3.bucket,
            secure=s3.secure,
        ),
    )


@pytest.fixture(scope="module")
def log(config: Settings) -> Iterator[KafkaLog]:
    """A log with evaluations of eight policies, and with transactions, one of them aborted."""
    assert config.kafka.bootstrap_servers
    found = KafkaLog(config.kafka.bootstrap_servers, config.namespace)
    found.provision(list(TOPICS.values()))
    found.append(
        [
            message(evaluation(n, policy), at_ms=BEGAN_MS + 10 * n + p)
            for n in range(PER_POLICY)
            for p, policy in enumerate(POLICIES)
        ]
    )
    transact(found)
    yield found
    delete_topics(found)


def evaluation(version: int, policy: str) -> Evaluation:
    return Evaluation(
        policy=policy,
        mission_id="m1",
        version=version,
        accuracy=0.5,
        correct=1,
        total=2,
        reward=0.0,
        heldout_sha256="0" * 64,
    )


def message(event: Event, at_ms: int | None = None) -> Message:
    plain = envelope.message(event)
    return Message(plain.topic, plain.key, plain.value, plain.headers, at_ms)


def control(n: int) -> Message:
    return message(MissionControl(mission_id=f"m{n}", action="pause"))


def transact(log: KafkaLog) -> None:
    """Missions 0 and 1 in a transaction, 2 aborted, 3 alone; a group that is one policy behind."""
    writer = log.writer("tools")
    reader = log.work_reader("gate.p0", [EVALUATIONS], "tools")
    try:
        until = time.monotonic() + 30
        while not reader.assignment() and time.monotonic() < until:
            reader.poll(1, 0.1)
        marks = {p: Mark(first) for p, (first, _) in log.ends(EVALUATIONS.name).items()}
        writer.publish([control(0), control(1)], marks, "gate.p0", reader.membership())

        def stop(point: str) -> None:
            if point == "sent_outputs":
                raise Aborted("as a crash would")

        with pytest.raises(Aborted):
            writer.publish([control(2)], {}, "gate.p0", None, stop)
        # The successor with the same id aborts what is open.
        log.writer("tools").publish([control(3)], {}, "gate.p0", None)
    finally:
        reader.close()


def environ(config: Settings) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RALO_")}
    s3 = config.s3
    assert config.kafka.bootstrap_servers and s3.endpoint and s3.access_key and s3.secret_key
    ours = {
        "STATE_DIR": str(config.state_dir),
        "NAMESPACE": config.namespace,
        "KAFKA__BOOTSTRAP_SERVERS": config.kafka.bootstrap_servers,
        "S3__ENDPOINT": s3.endpoint,
        "S3__ACCESS_KEY": s3.access_key.get_secret_value(),
        "S3__SECRET_KEY": s3.secret_key.get_secret_value(),
        "S3__BUCKET": s3.bucket,
    }
    return kept | {f"RALO_{name}": value for name, value in ours.items()}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "infra.cli", *arguments]


def ralo(config: Settings, *arguments: str) -> str:
    ran = subprocess.run(
        command(*arguments), env=environ(config), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_ranges_and_the_merge_on_real_transactions(log: KafkaLog) -> None:
    whole = Selection(("missions", "evaluations"))
    records = list(merged(log, whole))
    stamps = [r.timestamp_ms for r in records if r.partition.topic == "evaluations"]
    assert stamps == [BEGAN_MS + 10 * n + p for n in range(PER_POLICY) for p in range(8)]
    missions = [r for r in records if r.partition.topic == "missions"]
    assert [r.key for r in missions] == [b"m0", b"m1", b"m3"]
    # A marker each: of the commit, of the abort and of the last commit.
    assert log.ends("missions")[Partition("missions", 0)] == (0, 7)
    in_time = parse_range(f"@{BEGAN_MS + 100}:{BEGAN_MS + 200}")
    cut = list(merged(log, Selection(("evaluations",), in_time)))
    assert [r.timestamp_ms for r in cut] == [BEGAN_MS + 100 + 10 * n + p for n in range(10)
                                             for p in range(8)]  # fmt: skip
    last = newest(log, whole, 2, {p: e for t in TOPICS for p, (_, e) in log.ends(t).items()
                                  if t in whole.topics})  # fmt: skip
    assert [r.key for r in last] == [b"m1", b"m3"]


def test_a_merge_that_is_hardly_read_goes_on_later(log: KafkaLog) -> None:
    found = merged(log, Selection(("evaluations",)))
    first = list(itertools.islice(found, 3))
    time.sleep(1.0)
    assert len(first) + len(list(found)) == PER_POLICY * len(POLICIES)


def test_topics_and_groups_as_the_broker_says(log: KafkaLog, config: Settings) -> None:
    rows = {row["topic"]: row for row in json.loads(ralo(config, "topics", "list", "--json"))}
    assert rows.keys() == TOPICS.keys()
    assert rows["evaluations"]["offsets"] == PER_POLICY * len(POLICIES)
    assert rows["evaluations"]["first_ms"] == BEGAN_MS
    assert rows["evaluations"]["newest_ms"] == BEGAN_MS + 10 * (PER_POLICY - 1) + 7
    assert rows["samples"]["first_ms"] is None

    found = json.loads(ralo(config, "topics", "describe", "evaluations", "--json"))
    assert not any(setting["differs"] for setting in found["settings"])
    assert [p["leader"] for p in found["by_partition"]] == [1] * 4

    inspector = KafkaInspector(log.bootstrap, log.namespace, {})
    (group,) = inspector.groups()
    assert (group.name, group.marks.keys()) == ("gate.p0", log.ends("evaluations").keys())
    waiting = list(lags(log, group.name, group.marks))
    assert sum(one.offsets for one in waiting) == PER_POLICY * len(POLICIES)
    assert sum(one.records for one in waiting) == PER_POLICY
    assert [one.since_ms for one in waiting if one.records] == [BEGAN_MS]


def test_cat_into_head_ends_cleanly_and_json_is_a_document_a_line(
    log: KafkaLog, config: Settings
) -> None:
    shell = (
        f"{sys.executable} -m infra.cli cat evaluations --json | head -n 2; echo ${{PIPESTATUS[0]}}"
    )
    ran = subprocess.run(
        ["bash", "-c", shell], env=environ(config), capture_output=True, text=True, check=True
    )
    *documents, status = ran.stdout.splitlines()
    assert [json.loads(line)["timestamp_ms"] for line in documents] == [BEGAN_MS, BEGAN_MS + 1]
    assert (status, ran.stderr) == ("0", "")


def test_references_are_fetched_from_the_store(log: KafkaLog, config: Settings) -> None:
    store = connect_store(config)
    store.ensure_bucket()
    values = (b"\x00\x00\x40\x40" + b"\x00\x00\x80\x40", bytes(8))
    keys = [f"{config.namespace}gradients/{name}" for name in ("kept", "gone")]
    chunks = [
        TensorRef(**store.put(key, data).model_dump(), dtype="float32", shape=(2,))
        for key, data in zip(keys, values, strict=True)
    ]
    store.delete(keys[1:])
    upload = GradientUpload(
        upload_id="u1",
        policy="p0",
        mission_id="m1",
        base_version=3,
        chunks=chunks,
        weight=1,
        groups=[],
        records_sha256="0" * 64,
        source={"samples-0": (0, 5)},
    )
    log.append([message(upload)])
    (line,) = ralo(config, "cat", "gradient-chunks", "--resolve", "--json").splitlines()
    kept, gone = json.loads(line)["resolved"]
    assert (kept["state"], kept["tensors"][0]["norm"]) == ("ok", 5.0)
    assert (gone["state"], "NoSuchKey" in gone["detail"]) == ("missing", True)
    store.delete(keys[:1])


def test_tail_shows_what_comes_until_ctrl_c(log: KafkaLog, config: Settings) -> None:
    arguments = command("tail", "missions", "-n", "1", "--json", "--where", "key != 'm7'")
    with subprocess.Popen(
        arguments, env=environ(config), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        assert json.loads(process.stdout.readline())["key"] == "m3"
        log.append([control(7), control(8)])
        ready, _, _ = select.select([process.stdout], [], [], 20)
        assert ready, "nothing came in 20 s"
        assert json.loads(process.stdout.readline())["key"] == "m8"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == ""


def test_tail_ends_when_nobody_reads_and_nothing_comes(log: KafkaLog, config: Settings) -> None:
    with subprocess.Popen(
        command("tail", "releases"), env=environ(config), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        time.sleep(0.1)
        process.stdout.close()
        assert process.wait(30) == 0


def test_no_broker_is_one_line(config: Settings, tmp_path: Path) -> None:
    alone = {k: v for k, v in environ(config).items() if "KAFKA" not in k}
    alone["RALO_STATE_DIR"] = str(tmp_path)
    ran = subprocess.run(
        command("cat", MISSIONS.name), env=alone, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr == "ralo: no broker: run `ralo up`, or set RALO_KAFKA__BOOTSTRAP_SERVERS\n"
