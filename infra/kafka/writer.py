"""The transactional producer: outputs and offsets, all or nothing."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer

from infra.kafka.bounded import Bounded, Stuck
from infra.kafka.config import TRANSACTION_TIMEOUT_MS, Names, logger, translate
from infra.log import Aborted, Doubtful, Fenced, LogError, Mark, Membership, Message, Point
from schemas.records import Partition

_TIMEOUT_S = TRANSACTION_TIMEOUT_MS / 1000
_LIMIT_S = _TIMEOUT_S + 2.0
"""The client is given its own time-out first."""
INIT_LIMIT_S = 60.0


class KafkaWriter:
    """One transactional producer; see `infra.log.Writer`."""

    def __init__(self, client: dict[str, Any], names: Names) -> None:
        self._names = names
        self._producer = Producer(client)
        self._bounded = Bounded(self._producer, client["transactional.id"])
        self._usable = True
        self._init()

    def _init(self) -> None:
        # Settles what a predecessor with this id left open, so it may have to wait for that.
        until = time.monotonic() + INIT_LIMIT_S
        while True:
            try:
                self._producer.init_transactions(_TIMEOUT_S)
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > until:
                    raise translate(error, "open a transactional producer") from error

    def publish(
        self,
        messages: Sequence[Message],
        marks: Mapping[Partition, Mark],
        group: str,
        membership: Membership,
        point: Point = lambda name: None,
    ) -> None:
        """Append the messages and commit the group's marks, all or nothing."""
        if not self._usable:
            raise Doubtful("this producer was given up")
        try:
            self._fill(messages, marks, membership, point)
            self._commit()
        except Stuck as error:
            self._usable = False
            raise Doubtful(str(error)) from error
        point("committed")

    def _fill(
        self,
        messages: Sequence[Message],
        marks: Mapping[Partition, Mark],
        membership: Membership,
        point: Point,
    ) -> None:
        offsets = [self._names.tp(p, mark) for p, mark in marks.items()]
        try:
            self._producer.begin_transaction()
            for message in messages:
                produce(self._producer, message, self._names)
            self._producer.flush(_TIMEOUT_S)
            point("sent_outputs")
            # Without offsets there is no group, so no membership to give.
            if offsets:
                send = self._producer.send_offsets_to_transaction
                self._bounded(_LIMIT_S, send, offsets, membership, _TIMEOUT_S)
            point("sent_offsets")
        except KafkaException as error:
            raise self._abort(translate(error, f"publish {len(messages)} events")) from error

    def _commit(self) -> None:
        try:
            self._bounded(_LIMIT_S, self._producer.commit_transaction, _TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                raise self._abort(translate(error, "commit")) from error
            self._usable = False
            cause = translate(error, "commit")
            raise cause if isinstance(cause, Fenced) else Doubtful(str(cause)) from error

    def _abort(self, cause: LogError) -> LogError:
        """Abort; answers `Aborted` when nothing can be visible, else `Doubtful`."""
        try:
            self._bounded(_LIMIT_S, self._producer.abort_transaction, _TIMEOUT_S)
        except KafkaException as error:
            logger.debug("abort: %s", error)
            self._usable = False
            return cause if isinstance(cause, Fenced) else Doubtful(f"{cause}; abort: {error}")
        return cause if isinstance(cause, Aborted) else Aborted(str(cause))

    def close(self) -> None:
        """Give the producer up; an open transaction is aborted by its successor or a time-out."""
        self._usable = False
        self._bounded.end()
        give_up(self._producer)


def give_up(producer: Producer) -> None:
    """Drop what is not delivered; one that failed for good is given up like any other."""
    producer.purge()
    # The client raises what it failed of from the next call of this kind, whichever that is.
    with contextlib.suppress(KafkaException):
        producer.flush(1.0)


def produce(producer: Producer, message: Message, names: Names, on_delivery: Any = None) -> None:
    """Queue one message, waiting while the queue is full."""
    fields: dict[str, Any] = {"on_delivery": on_delivery} if on_delivery else {}
    if message.timestamp_ms is not None:
        fields["timestamp"] = message.timestamp_ms
    while True:
        try:
            producer.produce(
                names.out(message.topic),
                value=message.value,
                key=message.key,
                headers=dict(message.headers),
                **fields,
            )
            return
        except BufferError:
            producer.poll(0.1)
