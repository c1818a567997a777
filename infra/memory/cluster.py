"""The cluster behind memory logs: topics, groups and the coordinator of transactions.

Transactions behave as Kafka's before KIP-890, which no Python client speaks: the coordinator knows
a producer by its epoch alone, so a commit that arrives twice may end the transaction after it.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from infra.log import Fenced, LogError, LogUnavailable, Mark, Message
from infra.memory.groups import Group
from infra.memory.partition import PartitionLog, Transaction
from schemas.partitioner import partition_for
from schemas.records import Partition
from schemas.topics import Topic


@dataclass
class Faults:
    """What goes wrong, and how many times from now on."""

    abort_next: int = 0
    """The transaction is aborted: `Aborted`."""
    fail_next_commit: int = 0
    """The commit request is lost on the way: `Doubtful`; `deliver_late` lets it arrive."""
    lose_next_commit_reply: int = 0
    """The commit happens and its reply is lost: `Doubtful`."""
    repeat_next_commit: int = 0
    """The commit happens; `deliver_late` lets a copy of the request arrive again."""
    unavailable_polls: int = 0
    """Polls raise `LogUnavailable`."""
    unavailable_commits: int = 0
    """Commits outside transactions raise `LogUnavailable`."""
    unavailable_writers: int = 0
    """Making a writer raises `LogUnavailable`."""
    lost_sends: int = 0
    """What live writers are given is taken and never delivered."""
    empty_polls: int = 0
    """Polls of a group's members find nothing, whatever waits."""
    empty_state_polls: int = 0
    """The same of state readers."""

    def take(self, name: str) -> bool:
        """Whether this fault is due now; counts it down."""
        due = bool(getattr(self, name) > 0)
        if due:
            setattr(self, name, getattr(self, name) - 1)
        return due


@dataclass(slots=True)
class _Producer:
    epoch: int = 0
    transaction: Transaction | None = None


@dataclass
class MemoryCluster:
    """Everything that brokers keep, under full names (namespace included)."""

    now: Callable[[], float] = time.time
    """Seconds since 1970; what stamps records."""
    wait: Callable[[float], None] = lambda timeout_s: None
    """Called with the timeout when a poll finds nothing; a simulation moves its clock here."""
    faults: Faults = field(default_factory=Faults)
    topics: dict[str, list[PartitionLog]] = field(default_factory=dict)
    limits_bytes: dict[str, int] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _producers: dict[str, _Producer] = field(default_factory=dict)
    _late: list[tuple[str, int]] = field(default_factory=list)

    def now_ms(self) -> int:
        """The clock in milliseconds."""
        return int(self.now() * 1000)

    def create(self, name: str, topic: Topic) -> bool:
        """Create a topic unless it is there; raises `LogError` on another partition count."""
        if name not in self.topics:
            self.topics[name] = [PartitionLog(f"{name}[{i}]") for i in range(topic.partitions)]
            self.limits_bytes[name] = int(topic.config()["max.message.bytes"])
            return True
        if len(self.topics[name]) != topic.partitions:
            raise LogError(
                f"topic {name} has {len(self.topics[name])} partitions, {topic.partitions} wanted: "
                "the count is fixed for a topic's life; use another namespace"
            )
        return False

    def partitions(self, topic: str) -> list[PartitionLog]:
        """The partitions of a topic; raises `LogError` when it was not provisioned."""
        if topic not in self.topics:
            raise LogError(f"topic {topic} does not exist: provision it")
        return self.topics[topic]

    def group(self, name: str) -> Group:
        """The group of this name."""
        return self.groups.setdefault(name, Group(name))

    def committed(
        self, group: str, partitions: Sequence[Partition]
    ) -> dict[Partition, Mark | None]:
        """A group's marks; raises `LogUnavailable` while an open transaction would change them."""
        for producer in self._producers.values():
            pending = producer.transaction and producer.transaction.marks.get(group)
            if pending and not pending.keys().isdisjoint(partitions):
                raise LogUnavailable(
                    f"group {group}: an open transaction holds its offsets; wait, or make a "
                    "writer with the same transactional id"
                )
        marks = self.group(group).marks
        return {p: marks.get(p) for p in partitions}

    def append(
        self, topic: str, message: Message, transaction: Transaction | None = None
    ) -> tuple[int, int, int]:
        """Append a message; answers partition number, offset and timestamp."""
        logs = self.partitions(topic)
        if len(message.value) > (limit := self.limits_bytes[topic]):
            raise LogError(
                f"{topic}: a record of {len(message.value)} bytes, the topic takes {limit}: "
                "store it as an object"
            )
        number = partition_for(message.key, len(logs)) if message.key is not None else 0
        stamp = self.now_ms() if message.timestamp_ms is None else message.timestamp_ms
        return number, logs[number].append(message, stamp, transaction), stamp

    def init_producer(self, id: str) -> int:
        """The next epoch of a transactional id; what the one before left open is aborted."""
        producer = self._producers.setdefault(id, _Producer())
        producer.epoch += 1
        self._settle(producer, "aborted")
        return producer.epoch

    def is_open(self, id: str, epoch: int) -> bool:
        """Whether the producer has a transaction open; raises `Fenced` when it was replaced."""
        return self._current(id, epoch).transaction is not None

    def send(self, id: str, epoch: int, topic: str, message: Message) -> None:
        """Append within the producer's transaction, beginning one if none is open."""
        self.append(topic, message, self._begun(id, epoch))

    def add_marks(
        self, id: str, epoch: int, group: str, membership: object, marks: Mapping[Partition, Mark]
    ) -> None:
        """Put a group's marks into the transaction; raises `Fenced` for a stale membership.

        The membership is checked now, as on the broker, and not again at the commit.
        """
        self._current(id, epoch)
        self.group(group).check(membership)
        self._begun(id, epoch).marks.setdefault(group, {}).update(marks)

    def end(self, id: str, epoch: int, commit: bool) -> None:
        """Commit or abort; without an open transaction, as after a repeated request, no effect."""
        self._settle(self._current(id, epoch), "committed" if commit else "aborted")

    def postpone_commit(self, id: str, epoch: int) -> None:
        """Keep a commit request back until `deliver_late`."""
        self._late.append((id, epoch))

    def deliver_late(self) -> None:
        """Let the commit requests that were kept back arrive; those of fenced producers fail."""
        late, self._late = self._late, []
        for id, epoch in late:
            if self._producers[id].epoch == epoch:
                self.end(id, epoch, commit=True)

    def _current(self, id: str, epoch: int) -> _Producer:
        producer = self._producers[id]
        if producer.epoch != epoch:
            raise Fenced(f"producer {id}: epoch {epoch} is over, now {producer.epoch}")
        return producer

    def _begun(self, id: str, epoch: int) -> Transaction:
        producer = self._current(id, epoch)
        producer.transaction = producer.transaction or Transaction(id)
        return producer.transaction

    def _settle(self, producer: _Producer, state: str) -> None:
        transaction, producer.transaction = producer.transaction, None
        if transaction is None:
            return
        transaction.state = "committed" if state == "committed" else "aborted"
        for log in transaction.touched:
            log.settle(transaction, self.now_ms())
        if transaction.state == "committed":
            for group, marks in transaction.marks.items():
                self.group(group).marks.update(marks)
