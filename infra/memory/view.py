"""A cluster as seen through one namespace."""

from dataclasses import dataclass

from infra.memory.cluster import MemoryCluster
from infra.memory.partition import PartitionLog
from schemas.records import Partition


@dataclass(frozen=True, slots=True)
class View:
    """Adds the namespace to the names of topics, groups and producers."""

    cluster: MemoryCluster
    namespace: str

    def out(self, name: str) -> str:
        """The name on the cluster."""
        return self.namespace + name

    def partition(self, partition: Partition) -> PartitionLog:
        """The entries of a partition; raises `LogError` when the topic does not exist."""
        return self.cluster.partitions(self.out(partition.topic))[partition.number]

    def ends(self, topic: str) -> dict[Partition, tuple[int, int]]:
        """The first and the next offset of each partition, open transactions included."""
        with self.cluster.lock:
            logs = self.cluster.partitions(self.out(topic))
            return {Partition(topic, i): (log.first, log.end) for i, log in enumerate(logs)}
