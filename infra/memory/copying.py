"""Copying in memory; see `infra.copying`."""

from collections.abc import Sequence

from infra.copying import REPLAY_OF, Raw
from infra.log import LogError, LogUnavailable, Message
from infra.memory.view import View
from schemas.records import Partition


class MemoryRawReader:
    """Reads one partition; see `infra.copying.RawReader`."""

    def __init__(self, view: View, at: Partition, first: int) -> None:
        self._view, self._cluster, self._at = view, view.cluster, at
        self.position = first

    def poll(self, max_records: int, timeout_s: float) -> list[Raw]:
        """The next records; none where none came in that time."""
        with self._cluster.lock:
            if self._cluster.faults.take("unavailable_polls"):
                raise LogUnavailable("the broker does not answer")
            log = self._view.partition(self._at)
            found, self.position = log.read(self.position, max_records)
        if not found:
            self._cluster.wait(timeout_s)
        return [
            Raw(offset, entry.timestamp_ms, m.key, m.value, tuple(m.headers.items()))
            for offset, entry in found
            if (m := entry.message) is not None
        ]

    def close(self) -> None:
        """Stop reading."""


class MemoryCopier:
    """Appends at once; see `infra.copying.Copier`. Of headers with one name it keeps the last."""

    def __init__(self, view: View) -> None:
        self._view, self._cluster = view, view.cluster
        self._closed = False

    def copy(self, to: Partition, origin: str, records: Sequence[Raw]) -> None:
        """Append copies whose header `replay-of` is `origin@offset`, after what they have."""
        if self._closed:
            raise LogError("this copier is closed")
        with self._cluster.lock:
            log = self._view.partition(to)
            for raw in records:
                headers = {name: value or b"" for name, value in raw.headers}
                headers[REPLAY_OF] = f"{origin}@{raw.offset}".encode()
                message = Message(to.topic, raw.key, raw.value or b"", headers, raw.timestamp_ms)
                log.append(message, raw.timestamp_ms, None)

    def flush(self) -> None:
        """All is in the log."""

    def close(self) -> None:
        """Copy no more."""
        self._closed = True
