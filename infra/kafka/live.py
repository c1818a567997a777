"""Reader and writer for control paths: `assign()`, no group, no transaction, no linger."""

from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import Message as Read

from infra.kafka.config import Names, logger, translate
from infra.kafka.readers import to_record
from infra.kafka.writer import give_up
from infra.log import Message
from schemas.records import Partition, Record


class KafkaLiveReader:
    """Plain assignment; see `infra.live.LiveReader`."""

    def __init__(
        self, client: dict[str, Any], names: Names, start: Mapping[Partition, int]
    ) -> None:
        self._names = names
        # The client wants a group although it never joins one.
        self._consumer = Consumer(client | {"group.id": "live"})
        self._consumer.assign([names.tp(p, offset) for p, offset in start.items()])

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """What is there, at once; waits only while nothing is.

        `consume` would wait its whole time out for the number that it was asked for.
        """
        messages: list[Read] = []
        try:
            found = self._consumer.poll(timeout_s)
            while found is not None:
                messages.append(found)
                found = self._consumer.poll(0) if len(messages) < max_records else None
        except KafkaException as error:
            raise translate(error, "read") from error
        return [self._record(message) for message in messages if self._is_good(message)]

    def _record(self, message: Any) -> Record:
        return to_record(message, self._names)

    def _is_good(self, message: Any) -> bool:
        error = message.error()
        if error is not None and not error.retriable():
            raise translate(error, f"read {message.topic()}[{message.partition()}]")
        return error is None

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()


class KafkaLiveWriter:
    """An idempotent producer without linger; see `infra.live.LiveWriter`."""

    def __init__(self, client: dict[str, Any], names: Names) -> None:
        self._names = names
        self._producer = Producer(client)
        self._lost = 0

    def send(self, message: Message) -> bool:
        """Hand over one message; False where its bound is reached, and the message is not taken."""
        try:
            self._producer.produce(
                self._names.out(message.topic),
                value=message.value,
                key=message.key,
                headers=dict(message.headers),
                on_delivery=self._delivered,
            )
        except BufferError:
            return False
        return True

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._lost += 1
            logger.debug("given up: %s", error)

    def serve(self) -> None:
        """Let the client do its call-backs; call it now and then."""
        self._producer.poll(0)

    @property
    def lost(self) -> int:
        """Messages that were taken and given up, the broker having been away for too long."""
        return self._lost

    def flush(self, timeout_s: float) -> int:
        """Wait until all is delivered, so long at most; answers how many are not."""
        return int(self._producer.flush(timeout_s))

    def close(self) -> None:
        """Give up what is not delivered."""
        give_up(self._producer)
