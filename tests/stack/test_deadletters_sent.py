"""Dead letters are requeued in bulk, each once, though `ralo dlq requeue` is killed on the way."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from robots import environ_of, provisioned

from consumers.audit.log import audit_log
from consumers.audit.objects import NoObjects
from consumers.deadletters.book import REQUEUE_OF, Book, event_of
from consumers.read import read
from infra.embedded.stack import Endpoints
from infra.envelope import dead_letter, message
from infra.kafka.log import KafkaLog
from infra.log import Message
from schemas.effects import Bury
from schemas.learning import DeadLetterResolution, Problem
from schemas.missions import Verifier, parse_mission

pytestmark = [pytest.mark.stack, pytest.mark.slow]

WAS_KILLED = -9
MISSION = {
    "mission_id": "m",
    "policy": "main",
    "problems": {"name": "spell"},
    "budget": {"problems": 100_000},
}


@pytest.fixture
def log(stack: Endpoints, namespace: str) -> KafkaLog:
    made = provisioned(stack, namespace)
    made.append([message(parse_mission(MISSION))])
    return made


@pytest.fixture
def environ(stack: Endpoints, namespace: str, tmp_path: Path) -> dict[str, str]:
    s3 = stack.s3
    return {
        **os.environ,
        **environ_of(stack, namespace, tmp_path),
        "RALO_S3__ENDPOINT": s3.address,
        "RALO_S3__ACCESS_KEY": s3.access_key,
        "RALO_S3__SECRET_KEY": s3.secret_key,
        "RALO_S3__BUCKET": s3.bucket,
        "OMP_NUM_THREADS": "1",
    }


def problem(index: int) -> Problem:
    question = f"spell word {index} backward"
    return Problem(
        problem_id=f"p{index}",
        mission_id="m",
        policy="main",
        epoch=0,
        index=index,
        question=question,
        prompt=question,
        answer="a",
        verifier=Verifier(),
    )


def broken(index: int) -> Message:
    """A problem that no sampler can read, for its policy is missing."""
    document = json.loads(problem(index).to_bytes())
    del document["policy"]
    return Message("problems", f"p{index}".encode(), json.dumps(document).encode())


def with_letters(log: KafkaLog, count: int) -> None:
    """So many broken problems and their letters, as a sampler's driver writes them."""
    for start in range(0, count, 1000):
        records = log.append([broken(i) for i in range(start, min(count, start + 1000))])
        buries = (Bury(record, "undecodable", "policy: Field required") for record in records)
        log.append([message(dead_letter(bury, "sampler")) for bury in buries])


def begin(environ: Mapping[str, str], batch: int, crash_at: str = "") -> subprocess.Popen[str]:
    """`ralo dlq requeue`, mending what is missing."""
    options = ["--reason", "undecodable", "--set", "policy=main", "--batch", str(batch), "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "infra.cli", "dlq", "requeue", *options],
        env={**environ, "RALO_CRASH_AT": crash_at},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def resolved(log: KafkaLog) -> Iterator[DeadLetterResolution]:
    for record in read("dead-letters", log=log, raw=True):
        event = event_of(record)
        if isinstance(event, DeadLetterResolution):
            yield event


def assert_each_once(log: KafkaLog, count: int) -> None:
    """By what a reader of `problems` finds: every problem once, mended, beside the broken one."""
    found = [record for record in read("problems", log=log) if record.event is not None]
    assert len(found) == count
    indices = Counter(r.event.index for r in found if isinstance(r.event, Problem))
    assert indices == dict.fromkeys(range(count), 1)
    letters = Counter(record.headers[REQUEUE_OF].decode() for record in found)
    assert letters == Counter(one.letter for one in resolved(log))
    book = Book.read(log)
    assert letters.keys() == book.letters.keys() and not list(book.waiting())
    report = audit_log(log, NoObjects())
    assert report.breaches == [], [i.first for i in report.invariants if i.broken]
    assert report.counts["letters_requeued"] == report.missions["m"].in_flight == count


def test_death_at_every_point_of_a_transaction_loses_and_repeats_nothing(
    log: KafkaLog, environ: dict[str, str]
) -> None:
    with_letters(log, 600)
    done = 0
    for crash_at, more in (("sent_outputs:2", 1), ("sent_offsets:1", 0), ("committed:2", 2)):
        assert ended(begin(environ, 100, crash_at))[0] == WAS_KILLED
        done += 100 * more
    status, output, errors = ended(begin(environ, 100))
    assert status == 0, errors
    result = json.loads(output)
    assert (result["done"], result["done_by_others"]) == (600 - done, 0)
    assert_each_once(log, 600)


def written(log: KafkaLog) -> int:
    """How far the letters' topic is written, open transactions included."""
    return sum(end for _, end in log.ends("dead-letters").values())


def await_writing(log: KafkaLog, process: subprocess.Popen[str]) -> None:
    """Wait until the process sends, or has ended."""
    before, until = written(log), time.monotonic() + 60
    while written(log) == before and process.poll() is None:
        assert time.monotonic() < until, "nothing was sent within a minute"
        time.sleep(0.01)


@pytest.mark.chaos
def test_ten_thousand_are_requeued_once_each_though_it_is_killed_at_random(
    log: KafkaLog, environ: dict[str, str]
) -> None:
    seed, count, kills = 20_261_122, 10_000, 0
    rng = random.Random(seed)
    with_letters(log, count)
    began = time.monotonic()
    for round_ in range(6):
        process = begin(environ, 250)
        if round_ % 3:
            await_writing(log, process)
            time.sleep(rng.uniform(0.0, 0.5))
        else:
            # While it starts, reads or judges.
            time.sleep(rng.uniform(0.2, 3.0))
        process.kill()
        kills += ended(process)[0] == WAS_KILLED
        print(f"kill {kills}: {sum(1 for _ in resolved(log)):,} of {count:,} requeued")
    status, output, errors = ended(begin(environ, 250))
    assert status == 0, errors
    last, took_s = json.loads(output)["done"], time.monotonic() - began
    print(f"seed {seed}: {kills} kills, the last run requeued {last:,}; {took_s:.0f} s")
    assert kills >= 4 and 0 < last < count
    assert_each_once(log, count)


@pytest.mark.chaos
def test_two_operators_at_once_requeue_ten_thousand_once_each(
    log: KafkaLog, environ: dict[str, str]
) -> None:
    with_letters(log, 10_000)
    operators = [begin(environ, 200) for _ in range(2)]
    found = [ended(operator) for operator in operators]
    print([(status, output[-200:], errors[-200:]) for status, output, errors in found])
    for status, _, errors in found:
        assert status == 0 or "another `ralo dlq` has taken over" in errors
    status, _, errors = ended(begin(environ, 500))
    assert status == 0, errors
    assert_each_once(log, 10_000)
