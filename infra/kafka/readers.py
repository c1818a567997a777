"""Readers: a static member of a group for work, and plain assignment for state."""

import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from infra.kafka import config
from infra.kafka.bounded import Bounded, Stuck
from infra.kafka.config import Names, logger, translate
from infra.kafka.coverage import Coverage
from infra.log import Changes, Expelled, LogUnavailable, Mark, Membership
from schemas.records import Partition, Record

SEEK_LIMIT_S = 10.0
COMMIT_LIMIT_S = 20.0
CLOSE_LIMIT_S = 10.0
LEADER_PATIENCE_S = 5.0
LOOK_UP_S = 2.0


class _Positions:
    """Where each partition stands, by the records and ends that were seen."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.next: dict[Partition, int] = {}

    def take(self, messages: Sequence[Message]) -> list[Record]:
        """The records among the messages; raises on an error event."""
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                record = to_record(message, self._names)
                if self._advance(record.partition, record.offset, record.offset + 1):
                    records.append(record)
            elif error.code() == config.END:
                self._advance(self._names.partition(message), message.offset(), message.offset())
            elif not error.retriable():
                raise translate(error, f"read {message.topic()}[{message.partition()}]")
        return records

    def _advance(self, partition: Partition, at: int, after: int) -> bool:
        """Move on, unless this lies before where the partition was started, or it was not yet.

        A fetch from before a seek may still answer after it.
        """
        expected = self.next.get(partition)
        if expected is None or at < expected:
            return False
        self.next[partition] = after
        return True


def to_record(message: Message, names: Names) -> Record:
    """Our record for the client's message."""
    headers = message.headers() or ()
    return Record(
        partition=names.partition(message),
        offset=message.offset(),
        key=message.key(),
        value=message.value(),
        headers={name: value or b"" for name, value in headers},
        timestamp_ms=message.timestamp()[1],
    )


class KafkaWorkReader:
    """One static member of a group; see `infra.log.WorkReader`."""

    def __init__(
        self, client: dict[str, Any], admin: AdminClient, names: Names, topics: Mapping[str, int]
    ) -> None:
        self._names = names
        self._consumer = Consumer(client)
        self._bounded = Bounded(self._consumer, client["group.instance.id"])
        self._positions = _Positions(names)
        self._owned: set[Partition] = set()
        self._closing = False
        self._assigned: list[Partition] = []
        self._revoked: list[Partition] = []
        shares = {names.out(topic): count for topic, count in topics.items()}
        self._topics = list(shares)
        self._coverage = Coverage(admin, client["group.id"], shares)
        self._subscribe()

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            self._topics,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._closing:
            consumer.incremental_assign(partitions)
            return
        # Where they will be started: a query for the beginning, still under way, could undo a seek.
        try:
            known = consumer.committed(partitions, timeout=10)
        except KafkaException as error:
            logger.info("committed offsets: %s", error)
            known = partitions
        for tp, mark in zip(partitions, known, strict=True):
            tp.offset = mark.offset if mark.offset >= 0 else OFFSET_BEGINNING
        consumer.incremental_assign(partitions)
        # The driver starts them where they belong, once it knows what was published so far.
        consumer.pause(partitions)
        gained = [self._names.partition(tp) for tp in partitions]
        self._owned.update(gained)
        self._assigned.extend(gained)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign(partitions)
        gone = [self._names.partition(tp) for tp in partitions]
        for partition in gone:
            self._positions.next.pop(partition, None)
        self._owned.difference_update(gone)
        self._assigned = [p for p in self._assigned if p not in gone]
        self._revoked.extend(gone)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Records in order per partition; also serves the group, so call it often."""
        if unowned := self._coverage.lacks():
            names = ", ".join(f"{topic}[{number}]" for topic, number in sorted(unowned))
            logger.warning("nobody owns %s: joining the group anew", names)
            self._consumer.unsubscribe()
            self._subscribe()
        try:
            records = self._positions.take(self._consumer.consume(max_records, timeout_s))
        except KafkaException as error:
            raise translate(error, "read") from error
        return [record for record in records if record.partition in self._owned]

    def changes(self) -> Changes:
        """What rebalances did since the last call."""
        found = Changes(tuple(self._assigned), tuple(self._revoked))
        self._assigned, self._revoked = [], []
        return found

    def assignment(self) -> set[Partition]:
        """The partitions that this member owns now."""
        return set(self._owned)

    def membership(self) -> Membership:
        """The generation now; taken with the records, given back to `Writer.publish`."""
        metadata: Membership = self._consumer.consumer_group_metadata()
        return metadata

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Mark | None]:
        """The group's committed positions; None where there is none."""
        try:
            found = self._consumer.committed([self._names.tp(p) for p in partitions], timeout=10)
        except KafkaException as error:
            raise translate(error, "read the committed offsets") from error
        return {
            self._names.partition(tp): Mark(tp.offset, tp.metadata or "")
            if tp.offset >= 0
            else None
            for tp in found
        }

    def start(self, at: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets on, resuming them."""
        for partition, offset in at.items():
            self._positions.next[partition] = offset
            self._seek(self._names.tp(partition, offset))
        self._consumer.resume([self._names.tp(p) for p in at])

    def _seek(self, tp: TopicPartition) -> None:
        # A partition that was assigned a moment ago is not fetching yet and refuses a seek.
        until = time.monotonic() + SEEK_LIMIT_S
        while True:
            try:
                self._consumer.seek(tp)
                return
            except KafkaException as error:
                doing = f"seek {tp.topic}[{tp.partition}]"
                if error.args[0].code() != config.STATE:
                    raise translate(error, doing) from error
                if time.monotonic() > until:
                    # It may have been taken away meanwhile, which a poll would tell.
                    raise LogUnavailable(
                        f"{doing}: not fetching after {SEEK_LIMIT_S:.0f} s"
                    ) from error
                time.sleep(0.005)

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop fetching these; `poll` goes on serving the group."""
        self._consumer.pause([self._names.tp(p) for p in partitions])

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Fetch these again from where they are."""
        self._consumer.resume([self._names.tp(p) for p in partitions])

    def position(self, partition: Partition) -> int | None:
        """The next offset to be read, control records included; None when unknown."""
        return self._positions.next.get(partition)

    def commit(self, marks: Mapping[Partition, Mark]) -> None:
        """Commit positions outside a transaction; raises `Fenced` when no longer a member."""
        offsets = [self._names.tp(p, mark) for p, mark in marks.items()]
        try:
            self._bounded(COMMIT_LIMIT_S, self._commit, offsets)
        except Stuck as error:
            raise Expelled(str(error)) from error
        except KafkaException as error:
            raise translate(error, "commit offsets") from error

    def _commit(self, offsets: list[TopicPartition]) -> None:
        self._consumer.commit(offsets=offsets, asynchronous=False)

    def close(self) -> None:
        """Leave (a static member stays known to the group until its session ends)."""
        self._closing = True
        try:
            self._bounded(CLOSE_LIMIT_S, self._consumer.close)
        except Stuck as error:
            logger.warning("a reader is left open: %s", error)
        self._bounded.end()


class KafkaStateReader:
    """All partitions of some topics, by plain assignment; see `infra.log.StateReader`."""

    def __init__(
        self,
        client: dict[str, Any],
        admin: AdminClient,
        names: Names,
        start: Mapping[Partition, int],
    ) -> None:
        self._names, self._admin = names, admin
        self._consumer = Consumer(client | {"group.id": f"state-{uuid.uuid4()}"})
        self._positions = _Positions(names)
        self._positions.next.update(start)
        self._ends: dict[Partition, int] = {}
        self._consumer.assign([names.tp(p, offset) for p, offset in start.items()])

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """The next records, in order per partition."""
        try:
            return self._positions.take(self._consumer.consume(max_records, timeout_s))
        except KafkaException as error:
            raise translate(error, "read state") from error

    def snapshot(self, topics: Sequence[str]) -> None:
        """Remember the ends now, open transactions included: `behind` is judged by them."""
        wanted = [p for p in self._positions.next if p.topic in topics]
        self._ends.update(list_offsets(self._admin, self._names, wanted, OffsetSpec.latest()))

    def behind(self, topics: Sequence[str]) -> bool:
        """Whether the position is before the end as of the last `snapshot`."""
        return any(
            self._positions.next[p] < end for p, end in self._ends.items() if p.topic in topics
        )

    def positions(self) -> dict[Partition, int]:
        """The next offset to be read of each partition, control records included."""
        return dict(self._positions.next)

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()


def list_offsets(
    admin: AdminClient,
    names: Names,
    partitions: Sequence[Partition],
    spec: OffsetSpec,
    isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
) -> dict[Partition, int]:
    """Offsets by the broker's word, uncommitted records included unless said otherwise."""
    if not partitions:
        return {}
    # Leaders of topics made a moment ago, or of a broker that starts, are known a moment later.
    until = time.monotonic() + LEADER_PATIENCE_S
    while True:
        try:
            return _list_offsets(admin, names, partitions, spec, isolation)
        except LogUnavailable:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
            _look_up_leaders(admin)


def _look_up_leaders(admin: AdminClient) -> None:
    """Have the client learn the leaders' epochs anew.

    After a broker's restart it would go on asking with the old ones, for minutes.
    """
    with contextlib.suppress(KafkaException):
        admin.list_topics(timeout=LOOK_UP_S)


def _list_offsets(
    admin: AdminClient,
    names: Names,
    partitions: Sequence[Partition],
    spec: OffsetSpec,
    isolation: IsolationLevel,
) -> dict[Partition, int]:
    futures = admin.list_offsets(
        {names.tp(p): spec for p in partitions},
        isolation_level=isolation,
        request_timeout=10,
    )
    try:
        return {names.partition(tp): future.result().offset for tp, future in futures.items()}
    except KafkaException as error:
        raise translate(error, "list offsets") from error
