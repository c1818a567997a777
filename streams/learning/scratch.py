"""Local files of an aggregator: what was fetched is kept by its hash, so a step fetches little."""

import fcntl
import hashlib
import os
import weakref
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from schemas.effects import Effect, Get
from schemas.tensors import ObjectRef


class Scratch:
    """A slot of a folder, locked while this lives: objects by hash, files of the step in hand.

    Another process with the same folder, such as a standby, gets another slot of it.
    """

    def __init__(self, folder: Path) -> None:
        slot, lock = _free_slot(folder)
        weakref.finalize(self, os.close, lock)
        self._objects, self._work = slot / "objects", slot / "work"
        for path in (self._objects, self._work):
            path.mkdir(exist_ok=True)
        self._checked: set[str] = set()
        self.clear()

    def fetch(self, ref: ObjectRef) -> Generator[Effect, Any, Path]:
        """The local file of an object; what an earlier process left is checked before use."""
        path = self._objects / ref.sha256
        if ref.sha256 not in self._checked:
            if not path.exists() or _sha256(path) != ref.sha256:
                part = path.with_suffix(".part")
                yield Get(ref, part)
                part.replace(path)
            self._checked.add(ref.sha256)
        return path

    def adopt(self, path: Path, sha256: str) -> None:
        """Keep a file of the step in hand as the object that it has become."""
        path.replace(self._objects / sha256)
        self._checked.add(sha256)

    def keep(self, refs: Iterable[ObjectRef]) -> None:
        """Forget every object but these."""
        wanted = {ref.sha256 for ref in refs}
        self._checked &= wanted
        for path in self._objects.iterdir():
            if path.name not in wanted:
                path.unlink()

    def work(self, name: str) -> Path:
        """Where a file of the step in hand lies."""
        return self._work / name

    def clear(self) -> None:
        """Remove the files of the step in hand."""
        for path in self._work.iterdir():
            path.unlink()


def _free_slot(folder: Path) -> tuple[Path, int]:
    number = 0
    while True:
        slot = folder / str(number)
        slot.mkdir(parents=True, exist_ok=True)
        lock = os.open(slot / "lock", os.O_CREAT | os.O_WRONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return slot, lock
        except BlockingIOError:
            os.close(lock)
            number += 1


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
