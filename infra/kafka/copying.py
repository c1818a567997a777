"""Copying on Kafka: as little Python for each record as can be, for it decides how fast it goes."""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from infra.copying import REPLAY_OF, Raw
from infra.kafka import config
from infra.kafka.config import Names, translate
from infra.kafka.writer import give_up
from infra.log import LogUnavailable
from schemas.records import Partition

PATIENCE_S = 60.0
"""A record that is not in the log after so long is given up, and the copy with it."""
PREFETCH_KBYTES = 8192
"""Of one partition at most: as many as there are partitions may be read at the same time."""


def raw_consumer(bootstrap: str, extra: Mapping[str, str]) -> dict[str, Any]:
    """A reader of much: it fetches ahead, and reports ends so that control records are passed."""
    ahead = {
        "queued.min.messages": 10_000,
        "queued.max.messages.kbytes": PREFETCH_KBYTES,
        "fetch.wait.max.ms": 50,
    }
    return config.consumer(bootstrap, extra) | ahead


def copying_producer(bootstrap: str, extra: Mapping[str, str], paced: bool) -> dict[str, Any]:
    """An idempotent producer; paced, no record waits for the next."""
    return config.producer(bootstrap, extra) | {
        "linger.ms": 0 if paced else 5,
        "batch.size": 1_000_000,
        "message.timeout.ms": int(PATIENCE_S * 1000),
        "queue.buffering.max.messages": 100_000,
        # A call of Python for each record that went well would cost as much as sending it.
        "delivery.report.only.error": True,
        "socket.nagle.disable": True,
    }


class KafkaRawReader:
    """One partition, by plain assignment; see `infra.copying.RawReader`."""

    def __init__(self, client: dict[str, Any], names: Names, at: Partition, first: int) -> None:
        self._at, self.position = at, first
        self._consumer = Consumer(client | {"group.id": f"replay-{uuid.uuid4()}"})
        self._consumer.assign([names.tp(at, first)])

    def poll(self, max_records: int, timeout_s: float) -> list[Raw]:
        """The next records; none where none came in that time."""
        try:
            messages = self._consumer.consume(max_records, timeout_s)
        except KafkaException as error:
            raise translate(error, f"read {self._at}") from error
        records = [
            Raw(m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers() or ())
            for m in messages
            if m.error() is None
        ]
        if records:
            self.position = records[-1].offset + 1
        if len(records) < len(messages):
            self._heed([m for m in messages if m.error() is not None])
        return records

    def _heed(self, signs: Sequence[Any]) -> None:
        for sign in signs:
            if sign.error().code() == config.END:
                self.position = max(self.position, sign.offset())
            elif not sign.error().retriable():
                raise translate(sign.error(), f"read {self._at}")

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()


class KafkaCopier:
    """One idempotent producer; see `infra.copying.Copier`."""

    def __init__(self, client: dict[str, Any], names: Names) -> None:
        self._names = names
        self._failed: KafkaError | None = None
        self._producer = Producer(client | {"on_delivery": self._delivered})

    def copy(self, to: Partition, origin: str, records: Sequence[Raw]) -> None:
        """Append copies whose header `replay-of` is `origin@offset`, after what they have."""
        produce, topic, number = self._producer.produce, self._names.out(to.topic), to.number
        before = f"{origin}@"
        for offset, timestamp_ms, key, value, headers in records:
            more = [*headers, (REPLAY_OF, f"{before}{offset}".encode())]
            while True:
                try:
                    produce(
                        topic, value, key, partition=number, timestamp=timestamp_ms, headers=more
                    )
                    break
                except BufferError:
                    self._make_room()
                except KafkaException as error:
                    raise translate(error, f"copy {before}{offset}") from error
        self._producer.poll(0)
        self._raise_failed()

    def _make_room(self) -> None:
        self._producer.poll(0.05)
        self._raise_failed()

    def _raise_failed(self) -> None:
        if self._failed is not None:
            raise translate(self._failed, "copy")

    def _delivered(self, error: KafkaError | None, message: object) -> None:
        if error is not None:
            self._failed = self._failed or error

    def flush(self) -> None:
        """Wait until all is in the log; raises `LogError` where that cannot be."""
        until = time.monotonic() + PATIENCE_S + 10
        while left := self._producer.flush(1.0):
            self._raise_failed()
            if time.monotonic() > until:
                raise LogUnavailable(f"copy: {left} records are not confirmed")
        self._raise_failed()

    def close(self) -> None:
        """Give up what is not in the log yet."""
        give_up(self._producer)
