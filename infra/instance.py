"""A name for each process of a kind: two that shared one would fence each other for ever."""

import fcntl
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from infra.settings import Settings, SettingsError

SLOTS = 256


@dataclass(frozen=True)
class Instance:
    """A claimed name; the claim ends with the process, however it ends."""

    name: str
    lock: IO[str]


def claim(settings: Settings, group: str) -> Instance:
    """The name by `RALO_INSTANCE`, or else the first free slot of the state directory.

    Raises `SettingsError` when the named slot is taken by a living process of this machine.
    """
    folder = settings.state_dir / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    for name in _names(settings):
        lock = try_lock(folder / f"{settings.namespace}{group}.{name}.lock")
        if lock is not None:
            return Instance(name, lock)
    wanted = f"0 to {SLOTS - 1}" if settings.instance in (None, "@slot") else settings.instance
    raise SettingsError(
        f"instance {wanted} of {group} is taken by a living process: set RALO_INSTANCE to another"
    )


def _names(settings: Settings) -> Iterator[str]:
    if settings.instance not in (None, "@slot"):
        yield settings.instance
    else:
        yield from (slot_name(settings, slot) for slot in range(SLOTS))


def slot_name(settings: Settings, slot: int) -> str:
    """A name for the process in that slot, on all machines that share its broker."""
    alone = settings.kafka.bootstrap_servers is None or settings.instance == "@slot"
    return str(slot) if alone else f"{socket.gethostname()}-{slot}"


def try_lock(path: Path) -> IO[str] | None:
    """Hold a lock until the file is closed or the process ends; None where another holds it."""
    # Not "w": who holds it already has written its number there.
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
