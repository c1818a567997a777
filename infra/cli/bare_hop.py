"""One hop of a bare chain: what a confluent-kafka program without RALO does with a record.

python -m infra.cli.bare_hop BOOTSTRAP FROM TO BYTES: passes on the number that begins each record,
in a payload of so many bytes, until its standard input ends.
"""

import sys
import threading

from confluent_kafka import Consumer, Producer, TopicPartition

HEAD_BYTES = 8
"""A record begins with its number, big-endian."""


def client(bootstrap: str) -> dict[str, object]:
    """What both clients are given; everything else is the client's default."""
    return {"bootstrap.servers": bootstrap, "log_level": 2}


def producer(bootstrap: str) -> Producer:
    """A producer that waits for no second record."""
    return Producer(client(bootstrap) | {"linger.ms": 0})


def consumer(bootstrap: str, topic: str) -> Consumer:
    """A consumer of the topic's one partition, from its beginning, in no group."""
    reader = Consumer(client(bootstrap) | {"group.id": "bare", "enable.auto.commit": False})
    reader.assign([TopicPartition(topic, 0, 0)])
    return reader


def pass_on(bootstrap: str, source: str, target: str, size_bytes: int) -> None:
    """Read, answer with as many bytes, again and again."""
    reader, writer, ended = consumer(bootstrap, source), producer(bootstrap), threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(ended,), daemon=True).start()
    rest = b"x" * max(0, size_bytes - HEAD_BYTES)
    while not ended.is_set():
        message = reader.poll(0.1)
        writer.poll(0)
        if message is not None and message.error() is None:
            writer.produce(target, message.value()[:HEAD_BYTES] + rest)
    writer.flush(1.0)
    reader.close()


def _wait_for_the_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    pass_on(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
