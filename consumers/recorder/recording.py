"""An MCAP file that is being written: whatever ends the process, all but the newest is in it."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mcap.writer import CompressionType, Writer

from consumers.recorder.entries import Entry, Schema

CHUNK_BYTES = 256 * 1024
LIBRARY = "ralo-streams"
NS_PER_MS = 1_000_000
_SEQUENCE_MASK = 0xFFFFFFFF
"""A sequence number has 32 bits: of greater offsets the lower ones."""


class Recording:
    """Writes messages in small chunks; `flush` puts all that was written on the disk.

    Raises FileExistsError where the file is there already.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self.first_ms: float | None = None
        self.last_ms: float | None = None
        self._file = path.open("xb")
        self._writer = Writer(self._file, CHUNK_BYTES, CompressionType.ZSTD)
        self._writer.start(library=LIBRARY)
        self._writer.add_metadata("ralo", dict(about))
        self._schemas: dict[Schema, int] = {}
        self._channels: dict[tuple[str, str], int] = {}

    def write(self, entry: Entry) -> None:
        """Add one message."""
        self._writer.add_message(
            channel_id=self._channel(entry.topic, entry.schema),
            log_time=entry.logged_ns,
            publish_time=entry.published_ns,
            data=entry.data,
            sequence=entry.sequence & _SEQUENCE_MASK,
        )
        self.counts[entry.topic] += 1
        logged_ms = entry.logged_ns / NS_PER_MS
        self.first_ms = min(self.first_ms or logged_ms, logged_ms)
        self.last_ms = max(self.last_ms or logged_ms, logged_ms)

    def _channel(self, topic: str, schema: Schema) -> int:
        key = topic, schema.name
        if key not in self._channels:
            if schema not in self._schemas:
                self._schemas[schema] = self._writer.register_schema(
                    schema.name, schema.encoding, schema.data
                )
            self._channels[key] = self._writer.register_channel(
                topic, schema.message_encoding, self._schemas[schema]
            )
        return self._channels[key]

    @property
    def size_bytes(self) -> int:
        """What is on the disk."""
        return self.path.stat().st_size

    def flush(self) -> None:
        """End the chunk and put it on the disk: what was written so far survives any crash."""
        self._writer.flush()
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Write the index and close the file; closing twice is fine."""
        if not self._file.closed:
            self._writer.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
