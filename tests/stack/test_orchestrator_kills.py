"""The orchestrator on a real broker: killed at any moment, it publishes one result a mission."""

import asyncio
import contextlib
import gc
import json
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaError
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from containers import Servers

from infra.embedded.stack import Endpoints
from infra.embedded.state import choose_port
from infra.kafka.log import KafkaLog
from schemas.base import Event
from schemas.headers import headers_of
from schemas.learning import Environment, Evaluation, Layout, Totals, WeightVersion
from schemas.missions import (
    AlgorithmSpec,
    Budget,
    Mission,
    MissionControl,
    MissionReport,
    MissionResult,
    ProblemSource,
    Target,
)
from schemas.topics import PROVISIONED, decode
from streams.missions.outbox import Outbox
from streams.missions.security import Security
from streams.missions.topics import CHANGELOG, INPUTS

pytestmark = pytest.mark.stack

HASH = "0" * 64
MAIN = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
from streams.missions.app import run
bootstrap, namespace, port, state = sys.argv[1:]
sys.exit(run(bootstrap, namespace, "127.0.0.1", int(port), Path(state), {}))
"""


class Orchestrator:
    """The orchestrator as a process of its own."""

    def __init__(self, bootstrap: str, namespace: str, state: Path, port: int = 0) -> None:
        self.port = port or choose_port("127.0.0.1")
        self.log = state / "orchestrator.log"
        arguments = [bootstrap, namespace, str(self.port), str(state)]
        self._command = [sys.executable, "-c", MAIN, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log, stdout=log)

    def end(self, how: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(30)

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(60)

    def restart_if_ended(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self.start()

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGKILL)

    def get(self, path: str) -> Any:
        """The JSON at a path, or None where nobody answers with it yet."""
        url = f"http://127.0.0.1:{self.port}{path}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
        return None


class Writers:
    """A plain producer and a transactional one, as users and processors have them."""

    def __init__(self, bootstrap: str, namespace: str) -> None:
        settings = {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"}
        self._namespace = namespace
        self._plain = Producer(settings)
        self._transactional = Producer(
            {
                **settings,
                "transactional.id": f"{namespace}test",
                "retry.backoff.ms": 2,
                "retry.backoff.max.ms": 20,
            }
        )
        self._transactional.init_transactions()

    def say(self, *events: Event) -> None:
        for event in events:
            self.raw(event.topic, event.to_bytes(), event.key)

    def raw(self, topic: str, value: bytes | None, key: str = "k") -> None:
        self._plain.produce(self._namespace + topic, value, key)
        assert self._plain.flush(10) == 0

    def commit(self, *events: Event) -> None:
        self._transact(events)
        self._transactional.commit_transaction()

    def abort(self, *events: Event) -> None:
        self._transact(events)
        self._transactional.abort_transaction()

    def _transact(self, events: tuple[Event, ...]) -> None:
        self._transactional.begin_transaction()
        for event in events:
            self._transactional.produce(
                self._namespace + event.topic, event.to_bytes(), event.key.encode()
            )
        assert self._transactional.flush(10) == 0


def read(bootstrap: str, namespace: str, topic: str, isolation: str = "read_committed") -> Consumer:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{namespace}reader",
            "isolation.level": isolation,
            "enable.auto.commit": False,
        }
    )
    consumer.assign([TopicPartition(namespace + topic, 0, OFFSET_BEGINNING)])
    return consumer


def events_of(consumer: Consumer, topic: str, quiet_s: float = 1.0) -> list[Event]:
    """What comes until nothing comes for a while."""
    found = []
    while (message := consumer.poll(quiet_s)) is not None:
        assert message.error() is None, message.error()
        with contextlib.suppress(ValueError):
            found.append(decode(topic, message.value()))
    return found


def eventually(what: Callable[[], Any], limit_s: float = 60.0) -> Any:
    until = time.monotonic() + limit_s
    while not (answer := what()):
        assert time.monotonic() < until, f"not within {limit_s:.0f} s: {what}"
        time.sleep(0.1)
    return answer


@pytest.fixture
def kafka(stack: Endpoints, namespace: str) -> str:
    """The broker, with this test's topics."""
    KafkaLog(stack.kafka, namespace).provision(PROVISIONED)
    return stack.kafka


@pytest.fixture
def writers(kafka: str, namespace: str) -> Writers:
    return Writers(kafka, namespace)


@pytest.fixture
def orchestrator(kafka: str, namespace: str, tmp_path: Path) -> Iterator[Orchestrator]:
    process = Orchestrator(kafka, namespace, tmp_path)
    yield process
    process.kill()
    print(process.log.read_text() if process.log.exists() else "")


def mission(id_: str, **fields: Any) -> Mission:
    return Mission(mission_id=id_, policy=f"p.{id_}", problems=ProblemSource(name="x"), **fields)


def report(id_: str, stage: Any, **fields: Any) -> MissionReport:
    return MissionReport(mission_id=id_, policy=f"p.{id_}", stage=stage, **fields)


def version(id_: str, number: int) -> WeightVersion:
    return WeightVersion(
        policy=f"p.{id_}",
        version=number,
        kind="step" if number else "base",
        mission_id=id_,
        algorithm=AlgorithmSpec(),
        code_sha256=HASH,
        files={},
        shards={},
        layout=Layout(parameters=1, chunk_elements=1, sha256=HASH),
        totals=Totals(samples=32 * number),
        environment=Environment(torch="2", threads=1, cpu_capability="x"),
    )


def evaluation(id_: str, number: int, correct: int, final: bool = False) -> Evaluation:
    return Evaluation(
        policy=f"p.{id_}",
        mission_id=id_,
        version=number,
        accuracy=correct / 10,
        correct=correct,
        total=10,
        reward=correct / 10,
        final=final,
        heldout_sha256=HASH,
    )


def results(kafka: str, namespace: str) -> list[Event]:
    consumer = read(kafka, namespace, "mission-results")
    try:
        return events_of(consumer, "mission-results")
    finally:
        consumer.close()


def ends(kafka: str, namespace: str) -> list[str]:
    consumer = read(kafka, namespace, "missions")
    try:
        events = events_of(consumer, "missions")
    finally:
        consumer.close()
    found = [e for e in events if isinstance(e, MissionControl) and e.action == "end"]
    return [e.mission_id for e in found]


def learn(writers: Writers, id_: str) -> None:
    """What the processors publish of a mission with a target until it is reached."""
    writers.say(mission(id_, target=Target(heldout=0.9)))
    writers.commit(report(id_, "prepared", heldout_size=10))
    writers.commit(version(id_, 0))
    writers.say(evaluation(id_, 0, 1))
    writers.abort(version(id_, 1), evaluation(id_, 1, 10))
    writers.commit(version(id_, 1))
    writers.commit(version(id_, 2), evaluation(id_, 2, 9))


def drain(writers: Writers, id_: str) -> None:
    """What they publish once the mission was told to end."""
    writers.commit(version(id_, 3), report(id_, "drained", problems=77))
    writers.abort(evaluation(id_, 3, 2, final=True))
    writers.say(evaluation(id_, 3, 10, final=True))


def expected(result: Event) -> MissionResult:
    """The result that `learn` and `drain` must give, with the measured seconds."""
    assert isinstance(result, MissionResult) and result.seconds > 0
    return MissionResult(
        mission_id=result.mission_id,
        policy=f"p.{result.mission_id}",
        outcome="target",
        reason="target",
        seconds=result.seconds,
        problems=77,
        samples=96,
        versions=3,
        final_version=3,
        heldout_before=0.1,
        heldout_after=1.0,
        reward_before=0.1,
        reward_after=1.0,
    )


def test_a_mission_ends_on_its_target_and_its_view_is_its_result(
    kafka: str, namespace: str, orchestrator: Orchestrator, writers: Writers
):
    orchestrator.start()
    for topic in INPUTS:
        writers.raw(topic.name, b"\xff not json")
        writers.raw(topic.name, None)
        writers.raw(topic.name, b'{"type":"mission-result","mission_id":7}')
    writers.abort(mission("ghost", budget=Budget(problems=1)))
    learn(writers, "m")
    eventually(lambda: ends(kafka, namespace) == ["m"])
    assert results(kafka, namespace) == []
    drain(writers, "m")
    [result] = eventually(lambda: results(kafka, namespace))
    assert result == expected(result)
    view = eventually(lambda: finished(orchestrator, "m"))
    assert view["result"] == result.model_dump(mode="json")
    [listed] = orchestrator.get("/missions")["missions"]
    assert listed == view
    assert orchestrator.get("/health")["skipped"] == 3 * len(INPUTS)
    assert orchestrator.end(signal.SIGTERM) == 0


def finished(orchestrator: Orchestrator, id_: str) -> Any:
    view = orchestrator.get(f"/missions/{id_}")
    return view if view and view["phase"] == "finished" else None


@pytest.mark.slow
def test_killed_whenever_it_publishes_and_in_between_it_publishes_once(
    kafka: str, namespace: str, orchestrator: Orchestrator, writers: Writers
):
    chance = random.Random(5)
    ids = [f"m{number}" for number in range(3)]
    watchers = [
        read(kafka, namespace, topic, "read_uncommitted")
        for topic in ("missions", "mission-results")
    ]
    for id_ in ids:
        learn(writers, id_)
    kills = kill_on_every_deed(orchestrator, watchers, chance, len(ids), "end")
    assert ends(kafka, namespace) and set(ends(kafka, namespace)) == set(ids)
    for id_ in ids:
        drain(writers, id_)
    kills += kill_on_every_deed(orchestrator, watchers, chance, len(ids), "result")
    views = {id_: eventually(lambda id_=id_: kept_up(orchestrator, id_)) for id_ in ids}
    time.sleep(3)
    found = results(kafka, namespace)
    assert sorted(r.key for r in found) == ids, f"after {kills} kills"
    assert sorted(ends(kafka, namespace)) == ids, f"after {kills} kills"
    for result in found:
        assert result == expected(result)
        assert views[result.key]["result"] == result.model_dump(mode="json")
    assert kills >= 2 * len(ids)


def kept_up(orchestrator: Orchestrator, id_: str) -> Any:
    """What a supervisor does, until the mission is finished."""
    orchestrator.restart_if_ended()
    return finished(orchestrator, id_)


def kill_on_every_deed(
    orchestrator: Orchestrator,
    watchers: list[Consumer],
    chance: random.Random,
    many: int,
    kind: str,
) -> int:
    """Kill the process when a deed is seen, committed or not, and at random; the kills.

    Goes on until `many` deeds were seen whose key was new.
    """
    seen: set[str] = set()
    kills, until = 0, time.monotonic() + 150
    patience = 2.0
    orchestrator.restart_if_ended()
    began = time.monotonic()
    while len(seen) < many:
        assert time.monotonic() < until, f"{seen} after {kills} kills"
        orchestrator.restart_if_ended()
        id_ = deed_seen(watchers, kind)
        if id_ is not None and chance.random() < 0.5:
            time.sleep(chance.uniform(0, 0.05))
        if id_ is not None or time.monotonic() - began > patience:
            orchestrator.kill()
            kills += 1
            seen |= {id_} if id_ else set()
            orchestrator.start()
            # Now and then while it starts, else when it has had the time to publish.
            began, patience = time.monotonic(), chance.choice([1.5, 3.0, 30.0])
    # What the last kill undid is done again.
    time.sleep(8)
    return kills


def deed_seen(watchers: list[Consumer], kind: str) -> str | None:
    for watcher in watchers:
        message = watcher.poll(0.005)
        if message is None or message.error() is not None:
            continue
        topic = "missions" if message.topic().endswith("missions") else "mission-results"
        event = decode(topic, message.value())
        is_end = isinstance(event, MissionControl) and event.action == "end"
        if (kind == "end" and is_end) or (kind == "result" and isinstance(event, MissionResult)):
            return event.key
    return None


def test_without_its_table_it_starts_again_from_the_log_and_publishes_nothing_twice(
    kafka: str, namespace: str, orchestrator: Orchestrator, writers: Writers
):
    orchestrator.start()
    learn(writers, "m")
    eventually(lambda: ends(kafka, namespace))
    drain(writers, "m")
    view = eventually(lambda: finished(orchestrator, "m"))
    assert orchestrator.end(signal.SIGTERM) == 0
    lose(kafka, namespace + CHANGELOG.name)
    eventually(lambda: provisioned(kafka, namespace))
    orchestrator.start()
    # Topics are read side by side: the result may be known before all that led to it.
    assert eventually(lambda: finished(orchestrator, "m") == view)
    writers.say(mission("next", budget=Budget(problems=1)), report("next", "rejected"))
    eventually(lambda: finished(orchestrator, "next"))
    assert [r.key for r in results(kafka, namespace)] == ["m", "next"]
    assert ends(kafka, namespace) == ["m"]


def lose(kafka: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.delete_topics([topic]).values():
        future.result(30)


def provisioned(kafka: str, namespace: str) -> bool:
    # A topic's deletion ends a moment after it was acknowledged.
    return CHANGELOG.name in KafkaLog(kafka, namespace).provision([CHANGELOG])


def test_only_one_of_two_goes_on(
    kafka: str, namespace: str, orchestrator: Orchestrator, writers: Writers, tmp_path: Path
):
    orchestrator.start()
    eventually(lambda: orchestrator.get("/health"))
    (tmp_path / "second").mkdir()
    second = Orchestrator(kafka, namespace, tmp_path / "second")
    second.start()
    try:
        eventually(lambda: second.get("/health"))
        learn(writers, "m")
        assert orchestrator.wait() == 75
        eventually(lambda: ends(kafka, namespace))
        drain(writers, "m")
        eventually(lambda: finished(second, "m"))
    finally:
        second.kill()
        print("the second:", second.log.read_text())
    assert [r.key for r in results(kafka, namespace)] == ["m"]
    assert ends(kafka, namespace) == ["m"]


def test_an_outbox_knows_what_its_predecessor_published_and_fences_it(kafka: str, namespace: str):
    done = MissionResult(mission_id="done", policy="p", outcome="ended")
    end = MissionControl(mission_id="done", action="end", reason="target")
    late = MissionResult(mission_id="late", policy="p", outcome="ended")

    async def scenario() -> None:
        old, new = (Outbox(kafka, namespace, Security()) for _ in range(2))
        await old.start([])
        await old.publish(done)
        await old.publish(end)
        await new.start([])
        assert new.did(done) and new.did(end) and not new.did(late)
        with pytest.raises(KafkaError):
            await old.publish(late)
        await new.publish(late)
        await old.stop()
        await new.stop()

    asyncio.run(scenario())
    # aiokafka leaves a future of the fenced producer behind, which complains when it is collected.
    gc.collect()
    assert [r.key for r in results(kafka, namespace)] == ["done", "late"]
    consumer = read(kafka, namespace, "mission-results")
    first = consumer.poll(10)
    consumer.close()
    assert first is not None
    assert dict(first.headers() or []) == headers_of(done, first.value() or b"")


@pytest.mark.slow
def test_after_a_crash_of_the_broker_it_goes_on_or_ends_to_be_started_again(
    servers: Servers, kafka: str, namespace: str, orchestrator: Orchestrator, writers: Writers
):
    orchestrator.start()
    learn(writers, "m")
    eventually(lambda: ends(kafka, namespace))
    servers.kill("kafka")
    servers.up(lambda line: None)
    drain(Writers(kafka, namespace), "m")
    eventually(lambda: kept_up(orchestrator, "m"), limit_s=120)
    assert [r.key for r in results(kafka, namespace)] == ["m"]
    assert ends(kafka, namespace) == ["m"]


def test_who_cannot_serve_does_not_fence_who_does(
    kafka: str, namespace: str, orchestrator: Orchestrator, writers: Writers, tmp_path: Path
):
    orchestrator.start()
    eventually(lambda: orchestrator.get("/health"))
    (tmp_path / "second").mkdir()
    second = Orchestrator(kafka, namespace, tmp_path / "second", orchestrator.port)
    second.start()
    assert second.wait() == 75
    assert f"127.0.0.1:{orchestrator.port} for the views" in second.log.read_text()
    learn(writers, "m")
    eventually(lambda: ends(kafka, namespace))
    assert orchestrator.end(signal.SIGTERM) == 0


def test_without_its_topics_it_says_what_to_do(stack: Endpoints, namespace: str, tmp_path: Path):
    process = Orchestrator(stack.kafka, namespace, tmp_path)
    process.start()
    assert process.wait() == 75
    assert "`ralo up` makes them" in process.log.read_text()
