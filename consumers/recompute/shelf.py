"""Where proofs keep the records of the log that they look up again and again.

A log of a hundred thousand groups does not fit in memory decoded, so its bytes go to a file.
"""

import os
import tempfile
import weakref
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Protocol

from consumers.read import decoded
from schemas.records import Partition, Record


class Shelf(Protocol):
    """Records by place; those of a partition are added in order."""

    def add(self, record: Record) -> None:
        """Keep a record."""
        ...

    def get(self, partition: Partition, offset: int) -> Record | None:
        """The record there, decoded where it can be, or None."""
        ...

    def between(self, partition: Partition, start: int, stop: int) -> Iterator[Record]:
        """The records at [start, stop), in order."""
        ...


class Memory:
    """Keeps the records themselves."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records: dict[Partition, dict[int, Record]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Keep a record."""
        self._records.setdefault(record.partition, {})[record.offset] = record

    def get(self, partition: Partition, offset: int) -> Record | None:
        """The record there, as it was added, or None."""
        return self._records.get(partition, {}).get(offset)

    def between(self, partition: Partition, start: int, stop: int) -> Iterator[Record]:
        """The records at [start, stop), in order."""
        kept = self._records.get(partition, {})
        return (kept[offset] for offset in sorted(kept) if start <= offset < stop)


class _Places:
    """Offsets in order, and where in the file the bytes of each end."""

    def __init__(self) -> None:
        self.offsets, self.starts, self.sizes = array("q"), array("q"), array("q")


class Spool:
    """Keeps the values in an unnamed file, and 24 bytes a record in memory; keys are not kept."""

    def __init__(self) -> None:
        self._file, path = tempfile.mkstemp(prefix="ralo-proof-")
        os.unlink(path)
        weakref.finalize(self, os.close, self._file)
        self._places: dict[Partition, _Places] = {}
        self._end = 0

    def add(self, record: Record) -> None:
        """Keep the value of a record."""
        value = record.value or b""
        places = self._places.setdefault(record.partition, _Places())
        places.offsets.append(record.offset)
        places.starts.append(self._end)
        places.sizes.append(len(value))
        self._end += os.write(self._file, value)

    def get(self, partition: Partition, offset: int) -> Record | None:
        """The record there, decoded where it can be, or None."""
        return next(self.between(partition, offset, offset + 1), None)

    def between(self, partition: Partition, start: int, stop: int) -> Iterator[Record]:
        """The records at [start, stop), in order, read as they are asked for."""
        places = self._places.get(partition)
        if places is None:
            return
        for i in range(bisect_left(places.offsets, start), bisect_left(places.offsets, stop)):
            value = os.pread(self._file, places.sizes[i], places.starts[i])
            yield decoded(Record(partition, places.offsets[i], None, value))
