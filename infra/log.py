"""The log as the driver needs it: one contract, kept by Kafka and by the memory double.

Errors:

    LogError
    ├── LogUnavailable   no answer; wait with a limit
    ├── OffsetLost       the position is not in the log any more: stop loudly
    ├── Expelled         this reader is no member any more and never will be: join with a new one
    ├── Aborted          nothing of this transaction became visible: seek to the committed, redo
    │   └── Fenced       … because another member or producer took over
    └── Doubtful         whether the transaction committed is unknown: throw the writer away,
                         make a new one (which settles it), seek to the committed, redo
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from infra.copying import Copier, RawReader
from infra.live import LiveReader, LiveWriter
from schemas.records import Partition, Record
from schemas.topics import Topic


class LogError(Exception):
    """Something the log refused or could not do."""


class LogUnavailable(LogError):
    """The log does not answer."""


class OffsetLost(LogError):
    """A position that was committed is not in the log any more."""


class Expelled(LogError):
    """The group has thrown this reader out: another member with its instance has joined.

    After a broker's restart that other may be this very reader, its first request having been
    answered into a broken connection.
    """


class Aborted(LogError):
    """The transaction was aborted: nothing of it is visible, no offset moved."""


class Fenced(Aborted):
    """The transaction was refused because this member or producer has been replaced."""


class Doubtful(LogError):
    """The commit was sent and its reply did not come."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be appended."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A committed position of a group and the text committed with it."""

    offset: int
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """What rebalances did since last asked: partitions gained, partitions revoked or lost."""

    assigned: tuple[Partition, ...] = ()
    revoked: tuple[Partition, ...] = ()


Membership = object
"""Opaque: the group's generation as it was when the records were read."""

Point = Callable[[str], None]
"""Called at the named moments of a publication: `sent_outputs`, `sent_offsets`, `committed`."""


class WorkReader(Protocol):
    """One member of a consumer group, read_committed; nothing is committed behind its back.

    Newly assigned partitions stay paused until `seek` or `start` is called for them.
    """

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Records in order per partition; also serves the group, so call it often."""
        ...

    def changes(self) -> Changes:
        """What rebalances did since the last call."""
        ...

    def assignment(self) -> set[Partition]:
        """The partitions that this member owns now."""
        ...

    def membership(self) -> Membership:
        """The generation now; taken with the records, given back to `Writer.publish`."""
        ...

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Mark | None]:
        """The group's committed positions; None where there is none."""
        ...

    def start(self, at: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets on, resuming them."""
        ...

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop fetching these; `poll` goes on serving the group."""
        ...

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Fetch these again from where they are."""
        ...

    def position(self, partition: Partition) -> int | None:
        """The next offset to be read, control records included; None when unknown."""
        ...

    def commit(self, marks: Mapping[Partition, Mark]) -> None:
        """Commit positions outside a transaction; raises `Fenced` when no longer a member."""
        ...

    def close(self) -> None:
        """Leave (a static member stays known to the group until its session ends)."""
        ...


class StateReader(Protocol):
    """Reads all partitions of some topics, read_committed, outside any group."""

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """The next records, in order per partition."""
        ...

    def behind(self, topics: Sequence[str]) -> bool:
        """Whether the position is before the end as of the last `snapshot`."""
        ...

    def snapshot(self, topics: Sequence[str]) -> None:
        """Remember the ends now, open transactions included: `behind` is judged by them."""
        ...

    def positions(self) -> dict[Partition, int]:
        """The next offset to be read of each partition, control records included."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class Writer(Protocol):
    """One transactional producer."""

    def publish(
        self,
        messages: Sequence[Message],
        marks: Mapping[Partition, Mark],
        group: str,
        membership: Membership,
        point: Point = lambda name: None,
    ) -> None:
        """Append the messages and commit the group's marks, all or nothing.

        Raises `Aborted`, `Fenced` or `Doubtful`.
        """
        ...

    def close(self) -> None:
        """Give the producer up; an open transaction is aborted."""
        ...


class Log(Protocol):
    """A cluster, seen through one namespace: topic, group and producer names get its prefix."""

    def provision(self, topics: Sequence[Topic]) -> list[str]:
        """Create what is missing; answers the names created. Refuses a wrong partition count."""
        ...

    def work_reader(self, group: str, topics: Sequence[Topic], instance: str) -> WorkReader:
        """Join a group as the static member `instance`."""
        ...

    def state_reader(self, start: Mapping[Partition, int]) -> StateReader:
        """Read these partitions from these offsets on."""
        ...

    def live_reader(self, start: Mapping[Partition, int]) -> LiveReader:
        """Read these partitions from these offsets on, each record as soon as it is there."""
        ...

    def live_writer(self, patience_s: float = 10.0, compressed: bool = False) -> LiveWriter:
        """Publish without waiting; what is not delivered for so long is given up."""
        ...

    def raw_reader(self, partition: Partition, first: int) -> RawReader:
        """Read one partition from this offset on, as it is, to copy it."""
        ...

    def copier(self, paced: bool = False) -> Copier:
        """Append copies; paced, each is sent at once, else many together."""
        ...

    def writer(self, transactional_id: str) -> Writer:
        """A producer; an older one with this id is fenced and its open transaction settled."""
        ...

    def append(self, messages: Sequence[Message]) -> list[Record]:
        """Append outside any transaction, durably; answers where the records lie."""
        ...

    def ends(self, topic: str) -> dict[Partition, tuple[int, int]]:
        """The first and the next offset of each partition, open transactions included."""
        ...

    def stable_ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The last stable offset of each: there a read_committed reader comes to rest.

        It is the first offset of the oldest open transaction, else the next offset to be written.
        """
        ...

    def offset_at(self, partition: Partition, timestamp_ms: int) -> int:
        """The first offset with this timestamp or a later one; the end when there is none."""
        ...
