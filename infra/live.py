"""The log as a control path needs it: plain assignment, no groups, no transactions, no waiting.

Fusion, controller and actuator read what concerns their robots from where they say and publish
without waiting for the broker. What they publish is at least once and dropped by id by its readers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from schemas.records import Record

if TYPE_CHECKING:
    from infra.log import Message


class LiveReader(Protocol):
    """Reads given partitions from given offsets on, in order per partition."""

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """What is there, at once; waits only while nothing is. Raises `LogError`."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class LiveWriter(Protocol):
    """Publishes without waiting; keeps order per key, retries in the background."""

    def send(self, message: Message) -> bool:
        """Hand over one message; False where its bound is reached, and the message is not taken."""
        ...

    def serve(self) -> None:
        """Let the client do its call-backs; call it now and then."""
        ...

    @property
    def lost(self) -> int:
        """Messages that were taken and given up, the broker having been away for too long."""
        ...

    def flush(self, timeout_s: float) -> int:
        """Wait until all is delivered, so long at most; answers how many are not."""
        ...

    def close(self) -> None:
        """Give up what is not delivered."""
        ...
