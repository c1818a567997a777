"""Follows the log into a tracker, and remembers in a small file how far it came."""

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from consumers.read import complete, decoded
from consumers.trackers.scalars import TOPICS, ScalarFold, Scalars
from infra.log import Log
from infra.store import ObjectStore
from schemas.learning import WeightVersion
from schemas.records import Partition, Record

SAVE_EVERY_S = 5.0
_POLL_S = 0.2
_BATCH = 1000


class TrackerError(Exception):
    """A tracker cannot go on from what its folder remembers; the message says how to mend it."""


class Sink(Protocol):
    """Where scalars go."""

    def write(self, scalars: Scalars) -> None:
        """Take the scalars of one version."""
        ...

    def flush(self) -> None:
        """Make sure that what was taken outlives this process."""
        ...

    def close(self) -> None:
        """Flush and end."""
        ...


class Memory:
    """The file in a tracker's folder that says up to where the log is in it."""

    NAME = "ralo-positions.json"

    def __init__(self, folder: Path, policy: str | None) -> None:
        self.path, self._policy = folder / self.NAME, policy

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other tracker out of this folder; raises `TrackerError` when one is in it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                folder = self.path.parent
                raise TrackerError(f"another tracker writes to {folder}: stop it first") from error
            yield

    def load(self) -> dict[Partition, int]:
        """The remembered positions, none at first; raises `TrackerError` if another policy's."""
        try:
            document = json.loads(self.path.read_text())
            policy, positions = document["policy"], document["positions"]
            found = {Partition.parse(name): int(offset) for name, offset in positions.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrackerError(f"{self.path} is damaged ({error}); {self._anew()}") from error
        if policy != self._policy:
            was = f"policy {policy!r}" if policy else "all policies"
            raise TrackerError(f"{self.path.parent} has curves of {was}: take another folder")
        return found

    def save(self, positions: Mapping[Partition, int]) -> None:
        """Remember; a kill leaves the old file or the new one."""
        named = {str(partition): offset for partition, offset in sorted(positions.items(), key=str)}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"policy": self._policy, "positions": named}, indent=1))
        os.replace(part, self.path)

    def start(self, log: Log) -> dict[Partition, int]:
        """Where to begin reading: as remembered, but never before what the log still has."""
        remembered = self.load()
        start: dict[Partition, int] = {}
        for topic in TOPICS:
            for partition, (first, end) in log.ends(topic.name).items():
                offset = max(first, remembered.get(partition, first))
                if offset > end:
                    raise TrackerError(
                        f"{partition} ends at {end}, and {self.path} says {offset} was read: that "
                        f"was another log; {self._anew()}"
                    )
                start[partition] = offset
        return start

    def _anew(self) -> str:
        return "take another folder, or delete the file to write all curves once more"


def track(
    log: Log,
    store: ObjectStore,
    sink: Sink,
    memory: Memory,
    stop: threading.Event,
    policy: str | None = None,
    once: bool = False,
) -> int:
    """Write scalars until `stop`, or with `once` to the log's end as of now; answers how many.

    Positions are remembered after the sink has flushed: a kill between the two repeats what was
    written since, and loses nothing. Raises `TrackerError`, `LogError`.
    """
    with memory.held():
        start = memory.start(log)
        fold, reader = ScalarFold(policy), log.state_reader(start)
        fold.begin(start)
        topics, written, saved = [topic.name for topic in TOPICS], 0, time.monotonic()
        reader.snapshot(topics)
        try:
            while not stop.is_set():
                records = reader.poll(_BATCH, _POLL_S)
                for record in records:
                    for scalars in fold.observe(_complete(decoded(record), store)):
                        sink.write(scalars)
                        written += 1
                if once and not reader.behind(topics):
                    break
                if time.monotonic() - saved > SAVE_EVERY_S:
                    _save(sink, memory, fold)
                    saved = time.monotonic()
            _save(sink, memory, fold)
        finally:
            reader.close()
    return written


def _complete(record: Record, store: ObjectStore) -> Record:
    """With the list of a version's uploads, wherever it lies; chunks are not needed."""
    if isinstance(record.event, WeightVersion):
        return replace(record, event=complete(record.event, store))
    return record


def _save(sink: Sink, memory: Memory, fold: ScalarFold) -> None:
    sink.flush()
    memory.save(fold.positions())
