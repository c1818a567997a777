"""Safety events on the robot's own disk, numbered over all lives, until the log has them.

One process appends, another delivers: an append-only file of JSON lines, and beside it how much of
it the log has. A line that a crash tore is cut off at the next start. A kill loses nothing that was
appended; against a power cut the deliverer syncs before it delivers.
"""

import json
import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.embedded.state import write_whole
from schemas.acting import Mode, SafetyEvent
from schemas.topics import SAFETY_EVENTS, Undecodable, decode

logger = logging.getLogger("ralo.spool")

UNWRITTEN_MAX = 1000
COMPACT_BYTES = 1 << 20
_EVENTS = "safety-events.jsonl"
_DELIVERED = "safety-events.delivered"


class Spool:
    """The writer's side; one process at a time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _EVENTS
        last = _mend(self._path)
        _compact(folder, self._path)
        self.next_seq = last.seq + 1 if last else 0
        self.mode: Mode = last.after if last else "NORMAL"
        """Where the last life ended."""
        self.dropped = 0
        """Events that a disk which took nothing has cost."""
        self._unwritten: deque[bytes] = deque()
        self._file = self._path.open("ab", buffering=0)

    def append(self, make: Callable[[int], SafetyEvent]) -> None:
        """Keep the event that is made with the next number; a full disk stops no loop."""
        self._unwritten.append(make(self.next_seq).to_bytes() + b"\n")
        self.next_seq += 1
        if len(self._unwritten) > UNWRITTEN_MAX:
            self._unwritten.popleft()
            self.dropped += 1
        self._write()

    def _write(self) -> None:
        while self._unwritten:
            start = self._file.seek(0, os.SEEK_END)
            try:
                written = self._file.write(self._unwritten[0])
            except OSError as error:
                logger.error("%s: %s; %d events wait", self._path, error, len(self._unwritten))
                return
            if written != len(self._unwritten[0]):
                self._file.truncate(start)
                return
            self._unwritten.popleft()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _mend(path: Path) -> SafetyEvent | None:
    """Cut a torn end off; the last whole event, if there is one."""
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    while whole and (event := _event(whole.splitlines()[-1])) is None:
        whole = whole[: whole[:-1].rfind(b"\n") + 1]
    if len(whole) < len(data):
        logger.warning("%s: %d torn bytes cut off", path, len(data) - len(whole))
        os.truncate(path, len(whole))
    return event if whole else None


def _compact(folder: Path, path: Path) -> None:
    """Forget what the log has, but the last event, once it is much."""
    delivered, size = read_delivered(folder), path.stat().st_size if path.exists() else 0
    if COMPACT_BYTES < size == delivered.bytes:
        last = path.read_bytes().splitlines(keepends=True)[-1]
        write_whole(path, last)
        size = len(last)
    # Also where a kill came between the two: all that was forgotten had been delivered.
    if delivered.bytes > size:
        write_delivered(folder, Delivered(size, delivered.offset))


def _event(line: bytes) -> SafetyEvent | None:
    try:
        event = decode(SAFETY_EVENTS.name, line)
    except Undecodable:
        return None
    return event if isinstance(event, SafetyEvent) else None


def newest_event(folder: Path, said: str) -> SafetyEvent | None:
    """The newest event whose detail says this, delivered or not."""
    path = folder / _EVENTS
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in reversed(lines):
        if said.encode() in line and (event := _event(line)) and said in event.detail:
            return event
    return None


@dataclass(frozen=True, slots=True)
class Delivered:
    """How many bytes of the spool the log has, and the offset of the last of them there."""

    bytes: int = 0
    offset: int = -1


def read_delivered(folder: Path) -> Delivered:
    """What the log is known to have; nothing where that is not known."""
    try:
        return Delivered(**json.loads((folder / _DELIVERED).read_text()))
    except (OSError, ValueError, TypeError):
        return Delivered()


def write_delivered(folder: Path, delivered: Delivered) -> None:
    """Remember what the log has."""
    document = {"bytes": delivered.bytes, "offset": delivered.offset}
    write_whole(folder / _DELIVERED, json.dumps(document).encode())


def undelivered(folder: Path, most: int) -> list[tuple[SafetyEvent, int]]:
    """Events that the log has not, in order, each with the position after it; synced to disk.

    Raises ValueError naming a line that is no event: something else wrote here.
    """
    path = folder / _EVENTS
    if not path.exists():
        return []
    position = read_delivered(folder).bytes
    found: list[tuple[SafetyEvent, int]] = []
    with path.open("rb") as file:
        file.seek(position)
        for line in file:
            if not line.endswith(b"\n") or len(found) == most:
                break
            position += len(line)
            event = _event(line)
            if event is None:
                raise ValueError(f"{path}: the line before byte {position} is no safety event")
            found.append((event, position))
        if found:
            os.fsync(file.fileno())
    return found
