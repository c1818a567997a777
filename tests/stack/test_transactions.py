"""Kafka's own test of transactions, through the product's driver.

100,000 messages are copied in transactions of 750 by processes that are ended again and again, as
is the broker, hard (SIGKILL) or clean (SIGTERM). What a read_committed reader finds, while all this
goes on and afterwards, is what was there to copy: nothing lost, nothing twice, in order.

After Apache Kafka's system test of the same purpose, kafkatest/tests/core/transactions_test.py
(100,000 messages, 750 a transaction, hard and clean bounces), which bounces either brokers or
clients in a case; here both are in each.
"""

import contextlib
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import copier
import pytest
from containers import Servers
from robots import provisioned

from infra.envelope import message
from infra.kafka.log import KafkaLog
from infra.log import LogUnavailable
from schemas.learning import Problem, SampleGroup
from schemas.missions import Verifier
from schemas.topics import decode

pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.chaos,
    pytest.mark.timeout(600),
]

MESSAGES, IN_A_TRANSACTION, COPIERS = 100_000, 750, 2
BOUNCES = ("copier-0", "copier-1", "kafka") * 3
"""In this order, at equal steps of progress."""
PROGRESS_S = 90.0
STOP_S = 60.0
How = Literal["hard", "clean"]


def seed(log: KafkaLog) -> dict[int, list[str]]:
    """Append the messages; answers their ids by partition, in order."""
    found: dict[int, list[str]] = {}
    for start in range(0, MESSAGES, 5000):
        problems = (_problem(index) for index in range(start, min(MESSAGES, start + 5000)))
        records = log.append([message(problem) for problem in problems])
        for record in sorted(records, key=lambda record: record.offset):
            found.setdefault(record.partition.number, []).append((record.key or b"").decode())
    return found


def _problem(index: int) -> Problem:
    name = f"message-{index}"
    return Problem(
        problem_id=name,
        mission_id="m",
        policy="main",
        epoch=0,
        index=index,
        question=name,
        prompt=name,
        answer="",
        verifier=Verifier(),
    )


class Copiers:
    """The copying processes; one that gives up by itself is started again, as by a supervisor."""

    def __init__(self, bootstrap: str, namespace: str, folder: Path) -> None:
        self._arguments, self._folder = (bootstrap, namespace), folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.gave_up = 0

    def start(self, name: str) -> None:
        """Start one, under the name that its predecessor had."""
        program = [sys.executable, copier.__file__, *self._arguments, name]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*program, str(IN_A_TRANSACTION)], stdout=log, stderr=log
            )

    def tend(self) -> None:
        """Start again what has ended by itself, which only `try again` may do."""
        for name, process in self._processes.items():
            status = process.poll()
            if status is not None:
                assert status == copier.EXIT_TRY_AGAIN, f"{name}: {status}\n{self.last_words()}"
                self.gave_up += 1
                self.start(name)

    def bounce(self, name: str, how: How) -> None:
        """End one and start it again."""
        process = self._processes[name]
        process.send_signal(signal.SIGKILL if how == "hard" else signal.SIGTERM)
        status = process.wait(STOP_S)
        assert status == (-signal.SIGKILL if how == "hard" else 0), self.last_words()
        self.start(name)

    def stop(self) -> None:
        """End all."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()

    def last_words(self) -> str:
        """The ends of their logs."""
        logs = sorted(self._folder.glob("copier-*.log"))
        return "\n".join("\n".join(log.read_text().splitlines()[-12:]) for log in logs)


class Reader(threading.Thread):
    """Reads the copies as they are committed, through every outage of the broker."""

    def __init__(self, log: KafkaLog) -> None:
        super().__init__(daemon=True)
        self._reader = log.state_reader({p: 0 for p in log.ends("samples")})
        self.quit = threading.Event()
        self.copies: dict[int, list[SampleGroup]] = {}
        self.count = 0

    def run(self) -> None:
        """Gather until told to end."""
        while not self.quit.is_set():
            with contextlib.suppress(LogUnavailable):
                for record in self._reader.poll(2000, 0.1):
                    event = decode("samples", record.value)
                    assert isinstance(event, SampleGroup)
                    self.copies.setdefault(record.partition.number, []).append(event)
                    self.count += 1
        self._reader.close()

    def ids(self) -> dict[int, list[str]]:
        """What was copied, by partition, in order."""
        return {n: [copy.problem_id for copy in copies] for n, copies in self.copies.items()}


@contextlib.contextmanager
def reading(log: KafkaLog) -> Iterator[Reader]:
    """A reader from the first copy on."""
    reader = Reader(log)
    reader.start()
    try:
        yield reader
    finally:
        reader.quit.set()
        reader.join(30)


def until(look: Callable[[], bool], copiers: Copiers, reader: Reader, limit_s: float) -> None:
    """Tend the copiers until a look is true; fails where nothing is copied for so long."""
    since, seen = time.monotonic(), reader.count
    while not look():
        copiers.tend()
        if reader.count > seen:
            since, seen = time.monotonic(), reader.count
        late = time.monotonic() - since > limit_s
        assert not late, (
            f"{seen:,} copied, then nothing for {limit_s:.0f} s\n{copiers.last_words()}"
        )
        time.sleep(0.02)


def bounce_broker(servers: Servers, how: How) -> None:
    """End the broker and start it again on what it has written."""
    if how == "hard":
        servers.kill("kafka")
        servers.up(lambda line: None)
    else:
        servers.restart("kafka", lambda line: None)


@pytest.mark.parametrize("how", ["hard", "clean"])
def test_transactions(servers: Servers, namespace: str, tmp_path: Path, how: How) -> None:
    log, began = provisioned(servers.check(), namespace), time.monotonic()
    wanted = seed(log)
    seeded = time.monotonic()
    copiers = Copiers(log.bootstrap, namespace, tmp_path)
    bounced: Counter[str] = Counter()
    with reading(log) as reader, contextlib.ExitStack() as ends:
        ends.callback(copiers.stop)
        for number in range(COPIERS):
            copiers.start(f"copier-{number}")
        for step, name in enumerate(BOUNCES, start=1):
            goal = MESSAGES * step // (len(BOUNCES) + 1)
            until(lambda goal=goal: reader.count >= goal, copiers, reader, PROGRESS_S)
            bounced[name] += 1
            if name == "kafka":
                bounce_broker(servers, how)
            else:
                copiers.bounce(name, how)
        until(lambda: reader.count >= MESSAGES, copiers, reader, PROGRESS_S)
        # What would be copied twice comes after the last.
        time.sleep(3.0)
        copied = time.monotonic()
    assert reader.ids() == wanted
    with reading(log) as again:
        until(lambda: again.count >= MESSAGES, Copiers("", "", tmp_path), again, PROGRESS_S)
        time.sleep(1.0)
    assert again.ids() == wanted
    assert_contiguous(again)
    sizes = Counter(c.batch.batch_id for cs in again.copies.values() for c in cs if c.batch)
    full = sum(size == IN_A_TRANSACTION for size in sizes.values())
    print(
        f"{how}: {again.count:,} messages copied once each, in order, in {len(sizes):,} "
        f"transactions ({full:,} of {IN_A_TRANSACTION}); bounced: "
        + ", ".join(f"{name} {count}" for name, count in sorted(bounced.items()))
        + f"; gave up and tried again {copiers.gave_up}; seeded in {seeded - began:.0f} s, "
        f"copied in {copied - seeded:.0f} s, all {time.monotonic() - began:.0f} s"
    )


def assert_contiguous(reader: Reader) -> None:
    """The sources of the copies cover each partition from its start, without overlap or gap."""
    for number, copies in reader.copies.items():
        ranges = [copy.source[f"problems-{number}"] for copy in copies]
        assert ranges[0][0] == 0
        assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
