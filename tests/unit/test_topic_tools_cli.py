"""`ralo cat`, `tail` and `topics` on the memory log: what they print, refuse and know."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_selection import control, evaluation, group, put
from typer.testing import CliRunner

import infra.connect
from infra.cli import app
from infra.cli.processors import factory
from infra.cli.records import BadOption, Style, place, utc
from infra.cli.topic_parties import PARTIES
from infra.log import Message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from infra.settings import Settings
from schemas.learning import GradientUpload
from schemas.tensors import TensorRef
from schemas.topics import TOPICS
from streams.acting.control.controller import _inputs

Run = Callable[..., list[str]]
TRANSACTIONAL = ("provider", "sampler", "trainer", "aggregator", "evaluator", "gate")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    log = MemoryLog()
    log.provision(list(TOPICS.values()))
    monkeypatch.setattr(infra.connect, "connect_log", lambda config: log)
    return log


@pytest.fixture
def run(log: MemoryLog) -> Run:
    def lines(*arguments: str) -> list[str]:
        result = CliRunner().invoke(app, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout.splitlines()

    return lines


def offsets(lines: list[str]) -> list[int]:
    return [json.loads(line)["offset"] for line in lines]


def test_cat_prints_a_range_as_lines(log: MemoryLog, run: Run) -> None:
    for n in range(5):
        put(log, control(n), 1_795_305_600_000 + n)
    assert run("cat", "missions", "2:4") == [
        f"2026-11-22T00:00:00.00{n}Z  missions[0]@{n}  m{n}  mission-control  action=pause"
        for n in (2, 3)
    ]


def test_cat_takes_ranges_that_look_like_options(log: MemoryLog, run: Run) -> None:
    for n in range(5):
        put(log, control(n), n)
    assert offsets(run("cat", "missions", "-2", "--json")) == [3, 4]
    assert offsets(run("cat", "missions", "--json", "-4:-1")) == [1, 2, 3]
    assert offsets(run("cat", "missions", "-4:-1", "-n", "1", "--json")) == [1]


def test_cat_of_one_record_one_partition_and_several_topics(log: MemoryLog, run: Run) -> None:
    for n in range(9):
        put(log, evaluation(n, policy=f"p{n}"), 10 * n)
        put(log, control(n), 10 * n + 1)
    (one,) = run("cat", "missions[0]@4", "--json")
    assert json.loads(one)["event"]["mission_id"] == "m4"
    some = [json.loads(line) for line in run("cat", "evaluations[1]", "--json")]
    assert some and {found["partition"] for found in some} == {1}
    both = [json.loads(line) for line in run("cat", "missions,evaluations", "--json", "-n", "4")]
    assert [found["timestamp_ms"] for found in both] == [0, 1, 10, 11]


def test_json_of_what_does_not_decode(log: MemoryLog, run: Run) -> None:
    log.append([Message("evaluations", b"main", b"{broken")])
    (found,) = map(json.loads, run("cat", "evaluations", "--json"))
    assert found["value_base64"] == "e2Jyb2tlbg==" and "JSON" in found["undecodable"]
    (line,) = run("cat", "evaluations")
    assert "undecodable" in line and "JSON" in line


def test_raw_prints_the_bytes_with_a_line_feed_between_two(log: MemoryLog) -> None:
    log.append([Message("missions", b"k", value) for value in (b"\x00\xff", b"two")])
    runner = CliRunner()
    assert runner.invoke(app, ["cat", "missions", "--raw"]).stdout_bytes == b"\x00\xff\ntwo"
    assert runner.invoke(app, ["cat", "missions", "--raw", "1:"]).stdout_bytes == b"two"


def test_full_and_resolve(log: MemoryLog, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    monkeypatch.setattr(infra.connect, "connect_store", lambda config: store)
    refs = [
        TensorRef(**store.put(key, bytes(8)).model_dump(), dtype="float32", shape=(2,))
        for key in ("kept", "gone")
    ]
    store.delete(["gone"])
    upload = GradientUpload(
        upload_id="u1",
        policy="main",
        mission_id="m1",
        base_version=3,
        chunks=refs,
        weight=1,
        groups=[],
        records_sha256="0" * 64,
        source={"samples-0": (0, 5)},
    )
    put(log, upload, 0)
    lines = run("cat", "gradient-chunks", "--full", "--resolve")
    assert any('"samples-0": [ 0, 5 ]' in line for line in lines)
    assert "    header policy: main" in lines
    assert "    chunks[0]  kept  8 B  ok: tensor" in lines
    assert "        tensor  float32 [2]  norm 0, 0 to 0  [0, 0]" in lines
    (missing,) = (line for line in lines if "MISSING" in line)
    assert missing.startswith("    chunks[1]  gone  8 B  MISSING: object gone: NoSuchKey")
    (found,) = map(json.loads, run("cat", "gradient-chunks", "--resolve", "--json"))
    assert [one["state"] for one in found["resolved"]] == ["ok", "missing"]


def test_where_says_what_it_could_not_compare(log: MemoryLog) -> None:
    put(log, group("p"), 0)
    result = CliRunner().invoke(app, ["cat", "samples", "--where", "event.problem_id > 3"])
    assert result.exit_code == 0
    assert "could not be reckoned for 1 records" in result.stderr
    assert "no record of samples is in start and passes" in result.stderr


def test_tail_prints_the_last_of_several_topics(log: MemoryLog, run: Run) -> None:
    for n in range(9):
        put(log, evaluation(n), 10 * n)
        put(log, control(n), 10 * n + 5)
    lines = run("tail", "missions", "evaluations", "-n", "3", "--no-follow", "--json")
    assert [json.loads(line)["timestamp_ms"] for line in lines] == [75, 80, 85]
    assert run("tail", "missions", "--no-follow") == []
    some = run("tail", "evaluations", "-n", "2", "--no-follow", "--json", "--header", "policy=main")
    assert len(some) == 2
    assert run("tail", "evaluations", "-n", "2", "--no-follow", "--header", "policy=x") == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("cat", "evals"), "no topic 'evals': there are missions"),
        (("cat", "missions", "1..2"), "allowed are `start`"),
        (("cat", "missions[7]"), "missions has partitions 0 to 0, no 7"),
        (("cat", "missions", "--header", "x"), "write NAME=VALUE"),
        (("cat", "missions", "--where", "event."), "Failed to parse"),
        (("cat", "missions", "--raw", "--json"), "--raw prints bytes"),
        (("tail", "missions", "evals"), "no topic 'evals'"),
        (("tail", "missions", "missions"), "a topic is named twice"),
        (("topics", "describe", "evals"), "no topic 'evals': there are missions"),
    ],
)
def test_refusals_name_what_is_allowed(run: Run, arguments: tuple[str, ...], why: str) -> None:
    with pytest.raises(ValueError) as raised:
        run(*arguments)
    assert why in str(raised.value)
    # `ralo` prints errors of its own packages in a line, others with a traceback.
    assert type(raised.value).__module__.partition(".")[0] in ("infra", "consumers")


def test_places_and_times_and_styles() -> None:
    assert place("samples") == ("samples", None, None)
    assert place("gradient-chunks[2]") == ("gradient-chunks", 2, None)
    assert place("samples[2]@41") == ("samples", 2, 41)
    assert place("samples[x]") == ("samples[x]", None, None)
    assert utc(1_795_305_600_120) == "2026-11-22T00:00:00.120Z"
    assert utc(-1).strip() == "no time"
    with pytest.raises(BadOption):
        Style(as_json=False, raw=True, full=True, resolve=False)


def test_the_parties_of_topics_are_those_of_the_processors(tmp_path: Path) -> None:
    assert PARTIES.keys() == TOPICS.keys()
    reads: dict[str, set[str]] = {}
    for name in TRANSACTIONAL:
        processor: Any = factory(name)(Settings(policy="p", state_dir=tmp_path))
        inputs = {topic.name for topic in processor.work} | {s.topic.name for s in processor.state}
        for topic in inputs:
            reads.setdefault(topic, set()).add(name)
    for wanted in _inputs(with_releases=True):
        reads.setdefault(wanted.topic.name, set()).add("controller")
    of_all = {*TRANSACTIONAL, "controller"}
    for topic, parties in PARTIES.items():
        assert of_all & set(parties.read_by) == reads.get(topic, set()), topic
