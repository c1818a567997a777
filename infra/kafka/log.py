"""`KafkaLog`: the contract of `infra.log` on a Kafka cluster."""

import functools
import time
from collections.abc import Mapping, Sequence

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec, TopicMetadata

from infra.kafka import config
from infra.kafka.config import Names, translate
from infra.kafka.copying import KafkaCopier, KafkaRawReader, copying_producer, raw_consumer
from infra.kafka.live import KafkaLiveReader, KafkaLiveWriter
from infra.kafka.readers import KafkaStateReader, KafkaWorkReader, list_offsets, to_record
from infra.kafka.writer import KafkaWriter, produce
from infra.log import LogError, LogUnavailable, Message
from schemas.records import Partition, Record
from schemas.topics import Topic

NO_EXTRA: Mapping[str, str] = {}


@functools.cache
def _kept_admin(bootstrap: str, extra: tuple[tuple[str, str], ...]) -> AdminClient:
    """One a cluster until the process ends: none may go while a question of its is under way."""
    return AdminClient(config.common(bootstrap, dict(extra)))


class KafkaLog:
    """A Kafka cluster seen through one namespace; see `infra.log.Log`."""

    def __init__(
        self,
        bootstrap: str,
        namespace: str = "",
        extra: Mapping[str, str] = NO_EXTRA,
        replication: int = 1,
        min_insync: int = 1,
    ) -> None:
        self.bootstrap, self.namespace, self.extra = bootstrap, namespace, extra
        self._names = Names(namespace)
        self._replication, self._min_insync = replication, min_insync

    @functools.cached_property
    def _admin(self) -> AdminClient:
        return _kept_admin(self.bootstrap, tuple(sorted(self.extra.items())))

    @functools.cached_property
    def _plain(self) -> Producer:
        return Producer(config.producer(self.bootstrap, self.extra))

    def provision(self, topics: Sequence[Topic]) -> list[str]:
        """Create what is missing; answers the names created. Refuses a wrong partition count."""
        wanted = {self._names.out(t.name): t for t in topics}
        created = []
        for name, future in self._admin.create_topics(
            [self._new(name, topic) for name, topic in wanted.items()], operation_timeout=10
        ).items():
            try:
                future.result()
                created.append(wanted[name].name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise translate(error, f"create topic {name}") from error
        self._check(wanted)
        return created

    def _new(self, name: str, topic: Topic) -> NewTopic:
        settings = topic.config() | {"min.insync.replicas": str(self._min_insync)}
        return NewTopic(name, topic.partitions, self._replication, config=settings)

    def _check(self, wanted: Mapping[str, Topic]) -> None:
        # Metadata follows a creation by a moment.
        until = time.monotonic() + 10
        while True:
            found = self._admin.list_topics(timeout=10).topics
            if all(name in found and found[name].partitions for name in wanted):
                break
            if time.monotonic() > until:
                missing = sorted(set(wanted) - set(found))
                raise LogUnavailable(f"topics {missing} were created but do not appear")
            time.sleep(0.05)
        for name, topic in wanted.items():
            count = len(found[name].partitions)
            if count != topic.partitions:
                raise LogError(
                    f"topic {name} has {count} partitions, {topic.partitions} are needed: the "
                    "count is fixed for a topic's life; use another namespace, or delete the topic"
                )

    def work_reader(self, group: str, topics: Sequence[Topic], instance: str) -> KafkaWorkReader:
        """Join a group as the static member `instance`."""
        client = config.member(self.bootstrap, self.extra, self._names.out(group), instance)
        partitions = {topic.name: topic.partitions for topic in topics}
        return KafkaWorkReader(client, self._admin, self._names, partitions)

    def state_reader(self, start: Mapping[Partition, int]) -> KafkaStateReader:
        """Read these partitions from these offsets on."""
        client = config.consumer(self.bootstrap, self.extra)
        return KafkaStateReader(client, self._admin, self._names, start)

    def live_reader(self, start: Mapping[Partition, int]) -> KafkaLiveReader:
        """Read these partitions from these offsets on, each record as soon as it is there."""
        return KafkaLiveReader(config.live_consumer(self.bootstrap, self.extra), self._names, start)

    def live_writer(self, patience_s: float = 10.0, compressed: bool = False) -> KafkaLiveWriter:
        """Publish without waiting; what is not delivered for so long is given up."""
        client = config.live_producer(self.bootstrap, self.extra, patience_s)
        if compressed:
            client["compression.type"] = "lz4"
        return KafkaLiveWriter(client, self._names)

    def raw_reader(self, partition: Partition, first: int) -> KafkaRawReader:
        """Read one partition from this offset on, as it is, to copy it."""
        client = raw_consumer(self.bootstrap, self.extra)
        return KafkaRawReader(client, self._names, partition, first)

    def copier(self, paced: bool = False) -> KafkaCopier:
        """Append copies; paced, each is sent at once, else many together."""
        return KafkaCopier(copying_producer(self.bootstrap, self.extra, paced), self._names)

    def writer(self, transactional_id: str) -> KafkaWriter:
        """A producer; an older one with this id is fenced and its open transaction settled."""
        id_ = self._names.out(transactional_id)
        return KafkaWriter(config.transactional(self.bootstrap, self.extra, id_), self._names)

    def append(self, messages: Sequence[Message]) -> list[Record]:
        """Append outside any transaction, durably; answers where the records lie."""
        records: list[Record] = []
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: object) -> None:
            if error is not None:
                failed.append(error)
            else:
                records.append(to_record(message, self._names))

        for message in messages:
            produce(self._plain, message, self._names, delivered)
        left = self._plain.flush(config.TRANSACTION_TIMEOUT_MS / 1000 + 5)
        if failed:
            raise translate(failed[0], f"append to {messages[0].topic}")
        if left:
            raise LogUnavailable(f"append to {messages[0].topic}: {left} records not confirmed")
        return records

    def ends(self, topic: str) -> dict[Partition, tuple[int, int]]:
        """The first and the next offset of each partition, open transactions included."""
        name = self._names.out(topic)
        metadata = self._describe(name)
        if metadata.error is not None:
            raise LogUnavailable(
                f"topic {name}: {metadata.error.str()}; `ralo up` makes the topics"
            )
        partitions = [Partition(topic, number) for number in sorted(metadata.partitions)]
        first = list_offsets(self._admin, self._names, partitions, OffsetSpec.earliest())
        after = list_offsets(self._admin, self._names, partitions, OffsetSpec.latest())
        return {p: (first[p], after[p]) for p in partitions}

    def stable_ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The last stable offset of each: there a read_committed reader comes to rest."""
        committed = IsolationLevel.READ_COMMITTED
        return list_offsets(self._admin, self._names, partitions, OffsetSpec.latest(), committed)

    def _describe(self, name: str) -> TopicMetadata:
        try:
            return self._admin.list_topics(name, timeout=10).topics[name]
        except KafkaException as error:
            raise translate(error, f"describe topic {name}") from error

    def offset_at(self, partition: Partition, timestamp_ms: int) -> int:
        """The first offset with this timestamp or a later one; the end when there is none."""
        spec = OffsetSpec.for_timestamp(timestamp_ms)
        found = list_offsets(self._admin, self._names, [partition], spec)[partition]
        return found if found >= 0 else self.ends(partition.topic)[partition][1]


def ping(bootstrap: str, extra: Mapping[str, str] = NO_EXTRA, timeout_s: float = 5.0) -> int:
    """The number of brokers that answer; raises `LogUnavailable`."""
    try:
        admin = AdminClient(config.common(bootstrap, extra))
        return len(admin.list_topics(timeout=timeout_s).brokers)
    except KafkaException as error:
        raise translate(error, f"reach {bootstrap}") from error
