"""Readers in memory: a static member of a group for work, and plain assignment for state."""

from collections.abc import Iterable, Mapping, Sequence

from infra.log import Changes, Expelled, LogError, LogUnavailable, Mark, Membership, Message
from infra.memory.view import View
from schemas.records import Partition, Record


class _Cursor:
    """Positions in some partitions, and reading on from them in turn."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._turn = 0
        self.positions: dict[Partition, int] = {}

    def read(self, partitions: Iterable[Partition], limit: int) -> list[Record]:
        """Up to `limit` records, beginning with another partition each time."""
        # Most have nothing new, and a simulation polls often.
        moved = (p for p in partitions if self._view.partition(p).end != self.positions[p])
        order = sorted(moved, key=str)
        self._turn += 1
        turn = self._turn % max(len(order), 1)
        records: list[Record] = []
        for partition in order[turn:] + order[:turn]:
            records += self._read(partition, limit - len(records))
        return records

    def _read(self, partition: Partition, limit: int) -> list[Record]:
        found, after = self._view.partition(partition).read(self.positions[partition], limit)
        self.positions[partition] = after
        return [
            to_record(partition, offset, entry.timestamp_ms, entry.message)
            for offset, entry in found
            if entry.message is not None
        ]


def to_record(partition: Partition, offset: int, stamp_ms: int, message: Message) -> Record:
    """The record that a message became."""
    return Record(partition, offset, message.key, message.value, dict(message.headers), stamp_ms)


class MemoryWorkReader:
    """One member of a group; see `infra.log.WorkReader`."""

    def __init__(self, view: View, group: str, topics: Sequence[str], instance: str) -> None:
        self._cluster = view.cluster
        self._cursor = _Cursor(view)
        self._paused: set[Partition] = set()
        self._owned: set[Partition] = set()
        self._gained: list[Partition] = []
        self._revoked: list[Partition] = []
        self._closed = False
        with self._cluster.lock:
            self._partitions = [p for topic in topics for p in view.ends(topic)]
            self._group = self._cluster.group(view.out(group))
            self._member = self._group.join(instance, self._partitions)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Records in order per partition; raises `Expelled` when a newer incarnation has joined."""
        with self._cluster.lock:
            self._serve()
            ready = self._owned - self._paused
            if self._cluster.faults.take("empty_polls"):
                ready = set()
            records = self._cursor.read(ready, max_records)
        if not records:
            self._cluster.wait(timeout_s)
        return records

    def changes(self) -> Changes:
        """What rebalances did since the last call."""
        changes = Changes(tuple(self._gained), tuple(self._revoked))
        self._gained, self._revoked = [], []
        return changes

    def assignment(self) -> set[Partition]:
        """The partitions that this member owns now, as of its last poll."""
        return set(self._owned)

    def membership(self) -> Membership:
        """The generation now, which moves on in the background, before a poll tells why."""
        with self._cluster.lock:
            return self._group.membership(self._member)

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Mark | None]:
        """The group's marks; raises `LogUnavailable` while a transaction has some pending."""
        with self._cluster.lock:
            return self._cluster.committed(self._group.name, partitions)

    def start(self, at: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets on, resuming them."""
        foreign = [str(p) for p in at if p not in self._owned]
        if foreign:
            raise LogError(f"group {self._group.name}: {', '.join(foreign)} is not assigned here")
        self._cursor.positions.update(at)
        self._paused -= at.keys()

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stop fetching these; what is no longer assigned is passed over, as by Kafka's client."""
        self._paused.update(self._owned.intersection(partitions))

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Fetch these again from where they are; what is no longer assigned is passed over."""
        mine = self._owned.intersection(partitions)
        unknown = [str(p) for p in mine if p not in self._cursor.positions]
        if unknown:
            raise LogError(f"{', '.join(unknown)}: no position yet; call start")
        self._paused -= mine

    def position(self, partition: Partition) -> int | None:
        """The next offset to be read, control records included; None when unknown."""
        return self._cursor.positions.get(partition)

    def commit(self, marks: Mapping[Partition, Mark]) -> None:
        """Commit positions outside a transaction; raises `Fenced` when no longer a member."""
        with self._cluster.lock:
            if self._cluster.faults.take("unavailable_commits"):
                raise LogUnavailable("the group coordinator does not answer")
            self._group.check(self._group.membership(self._member))
            self._group.marks.update(marks)

    def close(self) -> None:
        """Stop; the group keeps the assignment until the session of this instance expires."""
        self._closed = True
        self._lose(self._owned)

    def _serve(self) -> None:
        if self._closed:
            raise LogError(f"group {self._group.name}: this reader is closed")
        if self._group.is_replaced(self._member):
            raise Expelled(f"group {self._group.name}: {self._member.instance} runs elsewhere")
        if self._cluster.faults.take("unavailable_polls"):
            raise LogUnavailable("the broker does not answer")
        if self._group.is_expired(self._member):
            self._lose(self._owned)
            self._member = self._group.join(self._member.instance, self._partitions)
            return
        gained, revoked = self._group.poll(self._member)
        self._lose(revoked)
        self._gained += sorted(gained, key=str)
        self._owned |= gained
        self._paused |= gained

    def _lose(self, partitions: Iterable[Partition]) -> None:
        for partition in sorted(partitions, key=str):
            self._owned.discard(partition)
            self._paused.discard(partition)
            self._cursor.positions.pop(partition, None)
            self._revoked.append(partition)


class MemoryStateReader:
    """Reads partitions outside any group; see `infra.log.StateReader`."""

    def __init__(self, view: View, start: Mapping[Partition, int]) -> None:
        self._view, self._cluster = view, view.cluster
        self._cursor = _Cursor(view)
        self._cursor.positions.update(start)
        self._ends: dict[Partition, int] = {}

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """The next records, in order per partition."""
        with self._cluster.lock:
            if self._cluster.faults.take("unavailable_polls"):
                raise LogUnavailable("the broker does not answer")
            deaf = self._cluster.faults.take("empty_state_polls")
            records = self._cursor.read(() if deaf else self._cursor.positions, max_records)
        if not records:
            self._cluster.wait(timeout_s)
        return records

    def behind(self, topics: Sequence[str]) -> bool:
        """Whether the position is before the end as of the last `snapshot`."""
        return any(
            self._cursor.positions[p] < end for p, end in self._ends.items() if p.topic in topics
        )

    def snapshot(self, topics: Sequence[str]) -> None:
        """Remember the ends now, open transactions included."""
        for topic in topics:
            ends = self._view.ends(topic).items()
            self._ends.update({p: end for p, (_, end) in ends if p in self._cursor.positions})

    def positions(self) -> dict[Partition, int]:
        """The next offset to be read of each partition, control records included."""
        return dict(self._cursor.positions)

    def close(self) -> None:
        """Stop reading."""
        self._cursor.positions.clear()
        self._ends.clear()
