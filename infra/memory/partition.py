"""One partition in memory: records, control markers, and what a read_committed reader may see."""

from dataclasses import dataclass, field
from typing import Literal

from infra.log import Mark, Message, OffsetLost
from schemas.records import Partition


@dataclass(eq=False, slots=True)
class Transaction:
    """One transaction as its coordinator sees it; compared by identity."""

    producer: str
    state: Literal["open", "committed", "aborted"] = "open"
    touched: list["PartitionLog"] = field(default_factory=list)
    marks: dict[str, dict[Partition, Mark]] = field(default_factory=dict)
    """What it would commit, by group."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What takes one offset: a record, or a control marker (no message)."""

    message: Message | None
    timestamp_ms: int
    transaction: Transaction | None

    @property
    def visible(self) -> bool:
        """Whether a read_committed reader is given it, once it is below the last stable offset."""
        settled = self.transaction is None or self.transaction.state == "committed"
        return self.message is not None and settled


class PartitionLog:
    """Entries by offset; `first` moves up when old entries are deleted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.first = 0
        self._entries: list[Entry] = []
        self._open: dict[Transaction, int] = {}

    @property
    def end(self) -> int:
        """The next offset (Kafka's high watermark)."""
        return self.first + len(self._entries)

    @property
    def last_stable(self) -> int:
        """The first offset of the oldest open transaction, else the end."""
        return min(self._open.values(), default=self.end)

    def append(self, message: Message, timestamp_ms: int, transaction: Transaction | None) -> int:
        """Append a record; answers its offset."""
        offset = self.end
        if transaction is not None and transaction not in self._open:
            self._open[transaction] = offset
            transaction.touched.append(self)
        self._entries.append(Entry(message, timestamp_ms, transaction))
        return offset

    def settle(self, transaction: Transaction, timestamp_ms: int) -> None:
        """Append the marker of a transaction that ended; it takes an offset, as in Kafka."""
        del self._open[transaction]
        self._entries.append(Entry(None, timestamp_ms, transaction))

    def read(self, offset: int, limit: int) -> tuple[list[tuple[int, Entry]], int]:
        """Up to `limit` visible entries with their offsets, and the position after them.

        The position passes markers and aborted records, and stops at the last stable offset.
        Raises `OffsetLost` when `offset` is not in the log.
        """
        if not self.first <= offset <= self.end:
            raise OffsetLost(
                f"{self.name}@{offset}: the log holds {self.first} to {self.end}; "
                "the group was away for longer than the records are kept"
            )
        found: list[tuple[int, Entry]] = []
        stable = self.last_stable
        while offset < stable and len(found) < limit:
            entry = self._entries[offset - self.first]
            if entry.visible:
                found.append((offset, entry))
            offset += 1
        return found, offset

    def offset_at(self, timestamp_ms: int) -> int:
        """The first offset with this timestamp or a later one, else the end."""
        for index, entry in enumerate(self._entries):
            if entry.timestamp_ms >= timestamp_ms:
                return self.first + index
        return self.end

    def truncate(self, before: int) -> None:
        """Delete what lies before this offset, as retention does."""
        keep = min(max(before, self.first), self.end)
        del self._entries[: keep - self.first]
        self.first = keep
