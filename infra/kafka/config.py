"""Client settings, each with its reason, and the translation of names and errors."""

import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from infra.log import Aborted, Expelled, Fenced, LogError, LogUnavailable, Mark, OffsetLost
from schemas.records import Partition
from schemas.topics import PARTITIONER

logger = logging.getLogger("ralo.kafka")

TRANSACTION_TIMEOUT_MS = 10_000
SESSION_TIMEOUT_MS = 10_000
LIVE_QUEUE = 20_000
"""Messages that wait for an absent broker at most; more are refused."""

_FENCED = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError._FENCED,  # noqa: SLF001  (the client's own code has no public name)
    KafkaError.PRODUCER_FENCED,
}
_AWAY = {
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._MSG_TIMED_OUT,  # noqa: SLF001
    KafkaError._RESOLVE,  # noqa: SLF001
    KafkaError._WAIT_COORD,  # noqa: SLF001
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    # What a broker that starts again answers until its leaders and their epochs are known to all.
    KafkaError._NOENT,  # noqa: SLF001
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
}
_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}  # noqa: SLF001
FATAL = KafkaError._FATAL  # noqa: SLF001
END = KafkaError._PARTITION_EOF  # noqa: SLF001
STATE = KafkaError._STATE  # noqa: SLF001


class Names:
    """Adds and takes away the namespace."""

    def __init__(self, namespace: str) -> None:
        self.prefix = namespace

    def out(self, name: str) -> str:
        """The name on the cluster."""
        return self.prefix + name

    def tp(self, partition: Partition, mark: Mark | int | None = None) -> TopicPartition:
        """The client's partition, with an offset and metadata where given."""
        name = self.out(partition.topic)
        if mark is None:
            return TopicPartition(name, partition.number)
        if isinstance(mark, int):
            return TopicPartition(name, partition.number, mark)
        if not mark.metadata:
            return TopicPartition(name, partition.number, mark.offset)
        return TopicPartition(name, partition.number, mark.offset, mark.metadata)

    def partition(self, tp: Any) -> Partition:
        """Our partition from the client's, or from a message."""
        if isinstance(tp, TopicPartition):
            return Partition(tp.topic[len(self.prefix) :], tp.partition)
        return Partition(tp.topic()[len(self.prefix) :], tp.partition())


def translate(error: KafkaException | KafkaError, doing: str) -> LogError:
    """Our error for the client's, saying what was being done."""
    cause = error.args[0] if isinstance(error, KafkaException) else error
    text = f"{doing}: {cause.str()} ({cause.name()})"
    if cause.code() in _FENCED:
        return Fenced(text)
    if cause.code() == FATAL:
        return Expelled(text)
    if cause.code() in _LOST:
        return OffsetLost(f"{text}; the records were deleted before they were read")
    if cause.code() in _AWAY:
        return LogUnavailable(text)
    if cause.txn_requires_abort() or cause.code() == KafkaError.REBALANCE_IN_PROGRESS:
        return Aborted(text)
    return LogError(text)


def common(bootstrap: str, extra: Mapping[str, str]) -> dict[str, Any]:
    """What every client shares."""
    return {
        "bootstrap.servers": bootstrap,
        "error_cb": lambda error: logger.debug("client: %s", error),
        "log_level": 2,
        # A broker that restarts is back within seconds: do not wait longer than that to see it.
        "reconnect.backoff.max.ms": 2000,
        **extra,
    }


def consumer(bootstrap: str, extra: Mapping[str, str]) -> dict[str, Any]:
    """What both kinds of reader share."""
    return common(bootstrap, extra) | {
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        # Ends are reported, so that the position after control records is known.
        "enable.partition.eof": True,
        # Small prefetch; then the default of 1000 ms would make every hop wait up to a second.
        "queued.min.messages": 1,
        "fetch.queue.backoff.ms": 2,
        "fetch.wait.max.ms": 100,
    }


def member(bootstrap: str, extra: Mapping[str, str], group: str, instance: str) -> dict[str, Any]:
    """A static member of a group: after a kill its successor reads on at once."""
    return consumer(bootstrap, extra) | {
        "group.id": group,
        "group.instance.id": instance,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": SESSION_TIMEOUT_MS,
        "heartbeat.interval.ms": 3000,
        "max.poll.interval.ms": 900_000,
    }


def producer(bootstrap: str, extra: Mapping[str, str]) -> dict[str, Any]:
    """An idempotent producer whose keys go where Java's would."""
    return common(bootstrap, extra) | {
        "partitioner": PARTITIONER,
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "lz4",
        "linger.ms": 1,
        "message.timeout.ms": TRANSACTION_TIMEOUT_MS,
    }


def transactional(bootstrap: str, extra: Mapping[str, str], id_: str) -> dict[str, Any]:
    """A transactional producer; the default back-off of 100 ms would set the pace of the loop."""
    return producer(bootstrap, extra) | {
        "transactional.id": id_,
        "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        "retry.backoff.ms": 2,
        "retry.backoff.max.ms": 20,
    }


def live_consumer(bootstrap: str, extra: Mapping[str, str]) -> dict[str, Any]:
    """A reader on a control path: each record at once, and back within moments of a broker."""
    return common(bootstrap, extra) | {
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "fetch.error.backoff.ms": 50,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 250,
        "socket.nagle.disable": True,
    }


def live_producer(bootstrap: str, extra: Mapping[str, str], patience_s: float) -> dict[str, Any]:
    """A writer on a control path: nothing waits to be sent together, order is kept by retries."""
    return common(bootstrap, extra) | {
        "partitioner": PARTITIONER,
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 0,
        "message.timeout.ms": int(patience_s * 1000),
        "queue.buffering.max.messages": LIVE_QUEUE,
        "retry.backoff.ms": 20,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 250,
        "socket.nagle.disable": True,
    }
