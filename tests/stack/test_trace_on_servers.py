"""`ralo trace` on a real broker: seeks, the marks of transactions, and what was aborted."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from consumers.read import decoded, read, read_until
from consumers.trace import Traced, UnknownId, trace
from infra.cli.bench_stack import delete_topics
from infra.embedded.stack import Endpoints
from infra.envelope import message
from infra.kafka.log import KafkaLog
from schemas.base import Event, Sources
from schemas.ids import problem_id
from schemas.learning import (
    AppliedUpload,
    Environment,
    GradientUpload,
    GroupUse,
    Layout,
    Problem,
    Rollout,
    SampleGroup,
    WeightHead,
    WeightVersion,
)
from schemas.missions import AlgorithmSpec, Verifier, parse_mission
from schemas.records import Record
from schemas.topics import TOPICS

pytestmark = pytest.mark.stack

SHA, POLICY, STEPS, GROUPS = "0" * 64, "main", 5, 8


class Writer:
    """Publishes in transactions; an odd one is aborted first, as by a process that was killed."""

    def __init__(self, log: KafkaLog) -> None:
        self._log, self._turn = log, 0

    def __call__(self, *events: Event) -> list[Record]:
        """Where the events came to lie."""
        messages, self._turn = [message(event) for event in events], self._turn + 1
        before = {e.topic: self._log.ends(e.topic) for e in events}
        if self._turn % 7 == 1:
            self._killed(messages)
        self._log.writer("writer").publish(messages, {}, "", None)
        values = [m.value for m in messages]
        found: list[Record] = []
        for topic, ends in before.items():
            after = self._log.ends(topic)
            fresh = {p: (end, after[p][1]) for p, (_, end) in ends.items() if end < after[p][1]}
            records = map(decoded, read_until(self._log, fresh))
            found += (record for record in records if record.value in values)
        return sorted(found, key=lambda record: values.index(record.value or b""))

    def _killed(self, messages: Any) -> None:
        def die(name: str) -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            self._log.writer("writer").publish(messages, {}, "", None, die)


@pytest.fixture
def log(stack: Endpoints, namespace: str) -> Iterator[KafkaLog]:
    found = KafkaLog(stack.kafka, namespace)
    found.provision(list(TOPICS.values()))
    yield found
    delete_topics(found)


def learnt(log: KafkaLog) -> list[list[Record]]:
    """A version for each upload of a few groups; answers the groups of each version from 1 on."""
    write, made = Writer(log), list[list[Record]]()
    mission = {"mission_id": "m", "policy": POLICY, "problems": {"name": "x"}}
    log.append([message(parse_mission({**mission, "budget": {"problems": 1}}))])
    write(_version(0, [], {}), WeightHead(policy=POLICY, version=0))
    for step in range(STEPS):
        problems = write(*(_problem(GROUPS * step + index) for index in range(GROUPS)))
        groups = write(*(_group(record, step) for record in problems))
        (upload,) = write(_upload(groups, step))
        made.append(groups)
        resume = {str(upload.partition): upload.offset + 1}
        write(_version(step + 1, [upload], resume), WeightHead(policy=POLICY, version=step + 1))
    return made


def test_a_version_is_traced_by_the_pieces_that_it_names(log: KafkaLog) -> None:
    made = learnt(log)
    whole = STEPS * 2 * GROUPS  # Of problems and groups alone.
    for number in (1, STEPS):
        traced = trace(f"{POLICY}@{number}", log, down=False)
        assert _places(traced, "group") == {record.at for record in made[number - 1]}
        assert len(_places(traced, "problem")) == GROUPS and not traced.missing
        assert traced.read["read_records"] < whole
    one = made[3][0]
    below = trace(one.at, log, up=False)
    kinds = [node.name for node in below.graph.nodes.values()]
    assert [str(name) for name in kinds[1:]] == ["upload:u3", f"version:{POLICY}@4"]
    _says_what_was_aborted(log)
    document = json.loads(_ralo(log, f"{POLICY}@{STEPS}", "--json"))
    assert document["summary"].startswith(
        f"version {STEPS} of {POLICY}: step of 1 upload, 8 groups"
    )


def _says_what_was_aborted(log: KafkaLog) -> None:
    ends = log.ends("gradient-chunks")
    there = {record.at for record in read("gradient-chunks", log=log)}
    gone = [
        f"gradient-chunks[{p.number}]@{offset}"
        for p, (first, end) in ends.items()
        for offset in range(first, end)
        if f"gradient-chunks[{p.number}]@{offset}" not in there
    ]
    with pytest.raises(UnknownId, match=r"no such record at gradient-chunks.*aborted, or"):
        trace(gone[0], log)


def _ralo(log: KafkaLog, *arguments: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RALO_")}
    ours = {"RALO_NAMESPACE": log.namespace, "RALO_KAFKA__BOOTSTRAP_SERVERS": log.bootstrap}
    command = [sys.executable, "-m", "infra.cli", "trace", *arguments]
    done = subprocess.run(command, env=kept | ours, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _places(traced: Traced, kind: str) -> set[str]:
    return {node.at for node in traced.graph.nodes.values() if node.name.kind == kind}


# -- events ---------------------------------------------------------------------------------------


def _problem(index: int) -> Problem:
    question = f"question {index}"
    return Problem(
        problem_id=problem_id("m", 0, question),
        mission_id="m",
        policy=POLICY,
        epoch=0,
        index=index,
        question=question,
        prompt=question,
        answer="a",
        verifier=Verifier(),
    )


def _group(of: Record, under: int) -> SampleGroup:
    assert isinstance(of.event, Problem)
    return SampleGroup(
        problem_id=of.event.problem_id,
        mission_id="m",
        policy=POLICY,
        rollouts=[Rollout(tokens=[1], logprobs=[-0.5], reward=1.0, stop="eos")],
        version=under,
        source={str(of.partition): (of.offset, of.offset + 1)},
    )


def _upload(groups: list[Record], base: int) -> GradientUpload:
    source: Sources = {}
    for record in groups:
        first, after = source.get(str(record.partition), (record.offset, 0))
        source[str(record.partition)] = min(first, record.offset), max(after, record.offset + 1)
    return GradientUpload(
        upload_id=f"u{base}",
        policy=POLICY,
        mission_id="m",
        base_version=base,
        chunks=[],
        weight=1.0,
        groups=[_use(record) for record in groups],
        records_sha256=SHA,
        source=source,
    )


def _use(record: Record) -> GroupUse:
    event = record.event
    assert isinstance(event, SampleGroup)
    return GroupUse(group_id=event.group_id, at=record.at, version=event.version, rollouts=1)


def _version(number: int, uploads: list[Record], resume: dict[str, int]) -> WeightVersion:
    return WeightVersion(
        policy=POLICY,
        version=number,
        previous=number - 1 if number else None,
        parent=number - 1 if number else None,
        kind="step" if number else "base",
        mission_id="m",
        algorithm=AlgorithmSpec(),
        code_sha256=SHA,
        files={},
        shards={},
        layout=Layout(parameters=1, chunk_elements=1, sha256=SHA),
        uploads=[_applied(record) for record in uploads],
        resume=resume,
        environment=Environment(torch="2", threads=1, cpu_capability="AVX2"),
    )


def _applied(record: Record) -> AppliedUpload:
    event = record.event
    assert isinstance(event, GradientUpload)
    return AppliedUpload(
        upload_id=event.upload_id,
        at=record.at,
        record_sha256=SHA,
        base_version=event.base_version,
        weight=1.0,
        groups=len(event.groups),
        dropped=0,
    )
