"""An object store in memory that is away, slow or behind for a while."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from infra.memory.store import MemoryStore
from infra.store import MissingObject, StoreUnavailable
from schemas.effects import BadObject
from schemas.tensors import ObjectRef

Reached = Callable[[str], None]
"""Told of each request; it may wait, or raise what the request is answered with."""


class FaultyStore:
    """A store as one process sees it; see `infra.store.ObjectStore`."""

    def __init__(self, store: MemoryStore, reached: Reached) -> None:
        self._store, self._reached = store, reached

    def put(self, key: str, data: bytes | Path) -> ObjectRef:
        self._reached("put")
        return self._store.put(key, data)

    def get(self, ref: ObjectRef) -> bytes:
        self._reached("get")
        return self._store.get(ref)

    def get_file(self, ref: ObjectRef, to: Path) -> Path:
        self._reached("get")
        return self._store.get_file(ref, to)

    def keys(self, prefix: str = "") -> Iterator[str]:
        self._reached("list")
        return self._store.keys(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        self._reached("delete")
        self._store.delete(keys)


class Weather:
    """What becomes of requests to the store; counts, set by who draws the faults."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self.away = self.missing = 0
        self.slow_s = 0.0
        self._sleep = sleep

    def be_fast(self) -> None:
        """Take no time any more."""
        self.slow_s = 0.0

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self.away, self.missing, self.slow_s = 0, 0, 0.0

    def reached(self, what: str) -> None:
        """Answer a request, or raise `StoreUnavailable`, `MissingObject`."""
        if self.slow_s:
            self._sleep(self.slow_s)
        if self.away:
            self.away -= 1
            raise StoreUnavailable("the store does not answer")
        if what == "get" and self.missing:
            self.missing -= 1
            raise MissingObject("NoSuchKey, for the moment")


class Checker:
    """Looks into a store in memory for the audit; see `consumers.audit.objects.ObjectChecker`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def read(self, ref: ObjectRef) -> bytes | None:
        try:
            return self._store.get(ref)
        except (MissingObject, BadObject):
            return None

    def faults(self, refs: Sequence[ObjectRef]) -> Iterator[tuple[ObjectRef, str]]:
        for ref in refs:
            data = self.read(ref)
            if data is None or len(data) != ref.size_bytes:
                yield ref, f"object {ref.key} is missing or another"
