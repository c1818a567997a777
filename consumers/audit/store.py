"""Looks into a real store, many objects at a time."""

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.store import MissingObject, ObjectStore
from schemas.effects import BadObject
from schemas.tensors import ObjectRef

THREADS = 8
IN_MEMORY_BYTES = 32 << 20
"""Larger objects go through a file, so that memory is bounded whatever their size."""


class StoreChecker:
    """Checks objects in parallel; `report` is told how many are done, of how many."""

    def __init__(
        self, store: ObjectStore, report: Callable[[int, int], None] = lambda done, of: None
    ) -> None:
        self._store, self._report = store, report
        self._lock, self._done = threading.Lock(), 0

    def read(self, ref: ObjectRef) -> bytes | None:
        """The bytes of an object, or None where it is missing or bad."""
        try:
            return self._store.get(ref)
        except (MissingObject, BadObject):
            return None

    def faults(self, refs: Sequence[ObjectRef]) -> Iterator[tuple[ObjectRef, str]]:
        """The references whose object is missing or wrong; raises `StoreUnavailable`."""
        self._done = 0
        with (
            tempfile.TemporaryDirectory(prefix="ralo-audit-") as folder,
            ThreadPoolExecutor(THREADS) as pool,
        ):

            def check(item: tuple[int, ObjectRef]) -> str | None:
                fault = self._fault(item[1], Path(folder) / str(item[0]))
                with self._lock:
                    self._done += 1
                    self._report(self._done, len(refs))
                return fault

            for ref, fault in zip(refs, pool.map(check, enumerate(refs)), strict=True):
                if fault is not None:
                    yield ref, fault

    def _fault(self, ref: ObjectRef, scratch: Path) -> str | None:
        try:
            size = self._size(ref, scratch)
        except (MissingObject, BadObject) as error:
            return str(error)
        if size != ref.size_bytes:
            return f"object {ref.key}: {size} bytes, the event says {ref.size_bytes}"
        return None

    def _size(self, ref: ObjectRef, scratch: Path) -> int:
        if ref.size_bytes <= IN_MEMORY_BYTES:
            return len(self._store.get(ref))
        try:
            return self._store.get_file(ref, scratch).stat().st_size
        finally:
            scratch.unlink(missing_ok=True)
