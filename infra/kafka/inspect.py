"""What brokers say of topics and groups, for people: settings, leaders, ends, committed offsets."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, TopicMetadata

from infra.kafka import config
from infra.kafka.config import Names, translate
from schemas.records import Partition

_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One partition: who has it, what it holds, and from when to when.

    `stable` is where a reader of committed records comes to rest; `first_ms` and `newest_ms` are
    timestamps of records, None where there are none.
    """

    leader: int
    replicas: int
    in_sync: int
    first: int
    end: int
    stable: int
    first_ms: int | None
    newest_ms: int | None


@dataclass(frozen=True, slots=True)
class GroupState:
    """One consumer group: its members now, and the offsets that it has committed."""

    name: str
    state: str
    members: int
    marks: Mapping[Partition, int] = field(default_factory=dict)


class KafkaInspector:
    """Asks the brokers; topics and groups of one namespace, named without it.

    All raise `LogUnavailable` or another `LogError`.
    """

    def __init__(self, bootstrap: str, namespace: str, extra: Mapping[str, str]) -> None:
        self._admin = AdminClient(config.common(bootstrap, extra))
        self._names = Names(namespace)

    def partitions(self, topics: Collection[str]) -> dict[Partition, PartitionState]:
        """Those of the topics that exist."""
        known = self._metadata(topics)
        places = [Partition(t, n) for t, metadata in known.items() for n in metadata.partitions]
        offsets = {
            name: self._list_offsets(places, spec, isolation)
            for name, (spec, isolation) in _OFFSETS.items()
        }
        found = {}
        for place in places:
            metadata = known[place.topic].partitions[place.number]
            at = {name: listed[place] for name, listed in offsets.items()}
            found[place] = PartitionState(
                leader=metadata.leader,
                replicas=len(metadata.replicas),
                in_sync=len(metadata.isrs),
                first=at["first"].offset,
                end=at["end"].offset,
                stable=at["stable"].offset,
                first_ms=_stamp(at["oldest"]),
                newest_ms=_stamp(at["newest"]),
            )
        return found

    def settings(self, topic: str) -> dict[str, str]:
        """The topic's settings as the broker has them, its defaults included."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, self._names.out(topic))
        futures = self._admin.describe_configs([resource], request_timeout=_TIMEOUT_S)
        entries = _result(futures[resource], f"describe the settings of {topic}")
        return {name: str(entry.value) for name, entry in sorted(entries.items())}

    def groups(self) -> list[GroupState]:
        """The groups of the namespace that have committed offsets in its topics, by name."""
        listing = _result(
            self._admin.list_consumer_groups(request_timeout=_TIMEOUT_S), "list groups"
        )
        ids = sorted(g.group_id for g in listing.valid if g.group_id.startswith(self._names.prefix))
        return [group for group in self._described(ids) if group.marks] if ids else []

    def _described(self, ids: Sequence[str]) -> Iterator[GroupState]:
        described = self._admin.describe_consumer_groups(ids, request_timeout=_TIMEOUT_S)
        # One group a request is all that the client takes, so all requests are made first.
        marks = {
            id_: self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(id_)], request_timeout=_TIMEOUT_S
            )[id_]
            for id_ in ids
        }
        for id_ in ids:
            group = _result(described[id_], f"describe group {id_}")
            committed = _result(marks[id_], f"list the offsets of group {id_}").topic_partitions
            yield GroupState(
                name=id_.removeprefix(self._names.prefix),
                state=group.state.name.lower(),
                members=len(group.members),
                marks={
                    self._names.partition(tp): tp.offset
                    for tp in committed
                    if tp.offset >= 0 and tp.topic.startswith(self._names.prefix)
                },
            )

    def _metadata(self, topics: Collection[str]) -> dict[str, TopicMetadata]:
        try:
            found = self._admin.list_topics(timeout=_TIMEOUT_S).topics
        except KafkaException as error:
            raise translate(error, "list topics") from error
        names = {topic: self._names.out(topic) for topic in topics}
        return {topic: found[name] for topic, name in names.items() if name in found}

    def _list_offsets(
        self, places: Sequence[Partition], spec: OffsetSpec, isolation: IsolationLevel
    ) -> dict[Partition, Any]:
        if not places:
            return {}
        futures = self._admin.list_offsets(
            {self._names.tp(place): spec for place in places},
            isolation_level=isolation,
            request_timeout=_TIMEOUT_S,
        )
        return {
            self._names.partition(tp): _result(future, f"list offsets of {tp.topic}")
            for tp, future in futures.items()
        }


_ALL, _COMMITTED = IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED
_OFFSETS: Mapping[str, tuple[OffsetSpec, IsolationLevel]] = {
    "first": (OffsetSpec.earliest(), _ALL),
    "end": (OffsetSpec.latest(), _ALL),
    "stable": (OffsetSpec.latest(), _COMMITTED),
    # The first record from any time on, and the one with the latest time.
    "oldest": (OffsetSpec.for_timestamp(0), _ALL),
    "newest": (OffsetSpec.max_timestamp(), _ALL),
}


def _stamp(listed: Any) -> int | None:
    return int(listed.timestamp) if listed.offset >= 0 and listed.timestamp >= 0 else None


def _result(future: Any, doing: str) -> Any:
    try:
        return future.result()
    except KafkaException as error:
        raise translate(error, doing) from error
