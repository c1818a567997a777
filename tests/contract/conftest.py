"""Each contract test runs twice: in memory, and on the real servers (marker `stack`)."""

from collections.abc import Callable, Iterator

import pytest
from commit_faults import CommitFaults, MemoryCommits
from contract_helpers import World

from infra.log import Log
from infra.memory.cluster import MemoryCluster
from infra.memory.groups import MemoryMembership
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from infra.store import Bucket
from schemas.records import Partition

BOTH = ["memory", pytest.param("kafka", marks=pytest.mark.stack)]


def _memory() -> World:
    cluster = MemoryCluster()

    def make(namespace: str) -> MemoryLog:
        return MemoryLog(namespace, cluster)

    def truncate(log: MemoryLog, partition: Partition, before: int) -> None:
        log.truncate(partition, before)

    nobody = MemoryMembership("nobody", 0, 0)
    return World("memory", "t.", make, truncate, nobody, patience_s=0, quiet_s=0)


def _kafka(bootstrap: str, namespace: str) -> World:
    from confluent_kafka import Consumer, TopicPartition
    from confluent_kafka.admin import AdminClient

    from infra.kafka.log import KafkaLog

    def truncate(log: KafkaLog, partition: Partition, before: int) -> None:
        tp = TopicPartition(log.namespace + partition.topic, partition.number, before)
        admin = AdminClient({"bootstrap.servers": bootstrap})
        for future in admin.delete_records([tp]).values():
            future.result()

    def make(prefix: str) -> KafkaLog:
        return KafkaLog(bootstrap, prefix)

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "nobody"})
    nobody = consumer.consumer_group_metadata()
    consumer.close()
    return World("kafka", namespace, make, truncate, nobody, patience_s=20, quiet_s=0.4)


@pytest.fixture(params=BOTH)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """The cluster under test."""
    if request.param == "memory":
        made = _memory()
    else:
        bootstrap = request.getfixturevalue("stack").kafka
        made = _kafka(bootstrap, request.getfixturevalue("namespace"))
    yield made
    made.close()


@pytest.fixture
def make_log(world: World) -> Callable[[], Log]:
    """Makes a log: another view of the same cluster each time."""
    return world.log


@pytest.fixture
def log(world: World) -> Log:
    """One view of the cluster."""
    return world.log()


@pytest.fixture
def faults(world: World, request: pytest.FixtureRequest) -> Iterator[CommitFaults]:
    """What can happen to commits, in the logs that the world makes from now on."""
    if world.name == "memory":
        yield MemoryCommits(world.log())
        return
    from broker_proxy import BrokerProxy

    from infra.kafka.log import KafkaLog

    # The client's patience with a commit, lest each lost reply should cost ten seconds.
    request.getfixturevalue("monkeypatch").setattr("infra.kafka.writer._TIMEOUT_S", 1.5)
    with BrokerProxy(request.getfixturevalue("stack").kafka) as proxy:
        world.make = lambda prefix: KafkaLog(proxy.address, prefix)
        yield proxy
        world.close()


@pytest.fixture
def store(world: World, request: pytest.FixtureRequest) -> Bucket:
    """The object store that goes with the cluster."""
    if world.name == "memory":
        return MemoryStore()
    return s3_store(request)


def s3_store(request: pytest.FixtureRequest) -> Bucket:
    """The store of the stack, in a bucket of its own for each test."""
    from infra.store import S3Store

    s3 = request.getfixturevalue("stack").s3
    bucket = request.getfixturevalue("namespace").lower().replace(".", "-").replace("_", "-")
    store = S3Store(s3.address, s3.access_key, s3.secret_key, bucket.strip("-"), s3.secure)
    store.ensure_bucket()
    return store
