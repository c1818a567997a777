"""No transaction is left open by a broker that dies while it settles some.

Kafka from 4.1 on, where the metadata cache is Java's, takes a partition without a leader for a
deleted one (KAFKA-20734). A broker that is alone has no leaders for a moment after it died: it
then counted what it had been about to commit as settled, and never told the partitions.
"""

import contextlib
import threading
import time

import pytest
from containers import Servers
from robots import provisioned

from infra.kafka.log import KafkaLog
from infra.log import LogError, LogUnavailable, Message
from schemas.records import Partition

pytestmark = [pytest.mark.stack, pytest.mark.slow]

WRITERS = 8
"""Of small transactions without a pause: some are always being settled."""
KILLS = 2
TIMES_OUT_S = 25.0
"""The transactions' timeout, what the coordinator waits before it looks, and some time to do it."""


def test_a_killed_broker_leaves_no_transaction_open(servers: Servers, namespace: str) -> None:
    log = provisioned(servers.check(), namespace)
    partitions = list(log.ends("samples"))
    for _ in range(KILLS):
        stop = threading.Event()
        writers = [
            threading.Thread(target=_publish, args=(log, f"w{n}", stop)) for n in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        time.sleep(2.0)
        servers.kill("kafka")
        stop.set()
        servers.up(lambda line: None)
        for writer in writers:
            writer.join()
        assert _settled(log, partitions), "a transaction hangs open"


def _publish(log: KafkaLog, name: str, stop: threading.Event) -> None:
    try:
        writer = log.writer(name)
        number = 0
        while not stop.is_set():
            key = f"{name}-{number}".encode()
            writer.publish([Message("samples", key, b"{}")] * 4, {}, name, None)
            number += 1
    except LogError:
        return


def _settled(log: KafkaLog, partitions: list[Partition]) -> bool:
    until = time.monotonic() + TIMES_OUT_S
    while time.monotonic() < until:
        # Its answers are refused for a while: partitions are a broker's some time after it answers.
        with contextlib.suppress(LogUnavailable):
            ends = log.ends("samples")
            if log.stable_ends(partitions) == {p: end for p, (_, end) in ends.items()}:
                return True
        time.sleep(0.5)
    return False
