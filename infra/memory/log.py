"""The log in memory: the contract of `infra.log`, with Kafka's transactions, groups and traps.

Nothing sleeps: timeouts go to the cluster's `wait`; sessions and transactions end when told to.
"""

from collections.abc import Mapping, Sequence

from infra.log import LogUnavailable, Message
from infra.memory.cluster import Faults, MemoryCluster
from infra.memory.copying import MemoryCopier, MemoryRawReader
from infra.memory.live import MemoryLiveWriter
from infra.memory.readers import MemoryStateReader, MemoryWorkReader, to_record
from infra.memory.view import View
from infra.memory.writer import MemoryWriter
from schemas.records import Partition, Record
from schemas.topics import Topic


class MemoryLog:
    """A cluster seen through one namespace; two views of one cluster share it as on Kafka."""

    def __init__(self, namespace: str = "", cluster: MemoryCluster | None = None) -> None:
        self.cluster = cluster or MemoryCluster()
        self._view = View(self.cluster, namespace)

    @property
    def faults(self) -> Faults:
        """What goes wrong next; counts, set by tests and by the simulation."""
        return self.cluster.faults

    def provision(self, topics: Sequence[Topic]) -> list[str]:
        """Create what is missing; raises `LogError` on a wrong partition count."""
        with self.cluster.lock:
            return [t.name for t in topics if self.cluster.create(self._view.out(t.name), t)]

    def work_reader(self, group: str, topics: Sequence[Topic], instance: str) -> MemoryWorkReader:
        """Join a group as the static member `instance`; an older holder of the name is fenced."""
        return MemoryWorkReader(self._view, group, [t.name for t in topics], instance)

    def state_reader(self, start: Mapping[Partition, int]) -> MemoryStateReader:
        """Read these partitions from these offsets on."""
        return MemoryStateReader(self._view, start)

    def live_reader(self, start: Mapping[Partition, int]) -> MemoryStateReader:
        """Read these partitions from these offsets on; in memory all is there at once."""
        return MemoryStateReader(self._view, start)

    def live_writer(self, patience_s: float = 10.0, compressed: bool = False) -> MemoryLiveWriter:
        """Publish without waiting."""
        return MemoryLiveWriter(self._view)

    def raw_reader(self, partition: Partition, first: int) -> MemoryRawReader:
        """Read one partition from this offset on, as it is, to copy it."""
        return MemoryRawReader(self._view, partition, first)

    def copier(self, paced: bool = False) -> MemoryCopier:
        """Append copies."""
        return MemoryCopier(self._view)

    def writer(self, transactional_id: str) -> MemoryWriter:
        """A producer; an older one with this id is fenced and its open transaction aborted."""
        if self.faults.take("unavailable_writers"):
            raise LogUnavailable("the transaction coordinator does not answer")
        return MemoryWriter(self._view, transactional_id)

    def append(self, messages: Sequence[Message]) -> list[Record]:
        """Append outside any transaction; answers where the records lie."""
        with self.cluster.lock:
            return [self._append(message) for message in messages]

    def ends(self, topic: str) -> dict[Partition, tuple[int, int]]:
        """The first and the next offset of each partition, open transactions included."""
        return self._view.ends(topic)

    def stable_ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The last stable offset of each: there a read_committed reader comes to rest."""
        with self.cluster.lock:
            return {p: self._view.partition(p).last_stable for p in partitions}

    def offset_at(self, partition: Partition, timestamp_ms: int) -> int:
        """The first offset with this timestamp or a later one; the end when there is none."""
        with self.cluster.lock:
            return self._view.partition(partition).offset_at(timestamp_ms)

    def expire(self, instance: str) -> None:
        """End the sessions of this instance in all groups, as the broker does after its timeout."""
        with self.cluster.lock:
            for group in self.cluster.groups.values():
                group.expire(instance)

    def time_out(self, transactional_id: str) -> None:
        """Abort what this producer has open and fence it, as the broker does after its timeout."""
        with self.cluster.lock:
            self.cluster.init_producer(self._view.out(transactional_id))

    def deliver_late(self) -> None:
        """Let commit requests arrive that `faults` kept back."""
        with self.cluster.lock:
            self.cluster.deliver_late()

    def truncate(self, partition: Partition, before: int) -> None:
        """Delete what lies before this offset, as retention does."""
        with self.cluster.lock:
            self._view.partition(partition).truncate(before)

    def _append(self, message: Message) -> Record:
        number, offset, stamp_ms = self.cluster.append(self._view.out(message.topic), message)
        return to_record(Partition(message.topic, number), offset, stamp_ms, message)
