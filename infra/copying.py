"""The log as a copy needs it: records as they are, of a partition, to a partition.

Nothing is decoded and nothing is left out: key, headers (repeated ones and empty ones too) and
timestamp go along, and the number of the partition is the copier's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from schemas.records import Partition

REPLAY_OF = "replay-of"
"""The header of a copied record: where the original lies, by the topic's full name."""

Headers = Sequence[tuple[str, bytes | None]]


class Raw(NamedTuple):
    """One record of a partition, as it lies in the log."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class RawReader(Protocol):
    """Reads one partition from an offset on, read_committed, in no group."""

    @property
    def position(self) -> int:
        """The next offset to be read, control records included."""
        ...

    def poll(self, max_records: int, timeout_s: float) -> list[Raw]:
        """The next records; none where none came in that time. Raises `LogError`."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class Copier(Protocol):
    """Appends copies in the order in which it is given them, each once."""

    def copy(self, to: Partition, origin: str, records: Sequence[Raw]) -> None:
        """Append copies whose header `replay-of` is `origin@offset`, after what they have.

        Waits while too many are under way. Raises `LogError`.
        """
        ...

    def flush(self) -> None:
        """Wait until all is in the log; raises `LogError` where that cannot be."""
        ...

    def close(self) -> None:
        """Give up what is not in the log yet."""
        ...


def original_of(headers: Headers) -> str | None:
    """Where the record that this is a copy of lies, or None: the last header of that name says."""
    for name, value in reversed(headers):
        if name == REPLAY_OF and value is not None:
            return value.decode()
    return None
