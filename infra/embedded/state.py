"""What the embedded stack remembers between commands: processes, addresses and versions.

One file, `stack.json`, written whole and renamed into place; a lock file beside it admits one
command at a time. A file that cannot be read is as good as none: whatever still runs is found by
its command line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from infra.embedded.process import ProcessId

Report = Callable[[str], None]
"""Takes one line of progress for a person to read."""

# Below the range from which Linux (32768+) and macOS (49152+) take the ports of outgoing
# connections, so that no client of anything sits on a server's port when it comes back.
PORTS = range(20000, 30000)


class StackError(Exception):
    """The embedded stack cannot do what was asked; the message says how to mend it."""


class ServerState(BaseModel):
    """One server: where it listens, what it is, and the process that is it (None: stopped)."""

    address: str
    ports: dict[str, int]
    version: str
    pid: int | None = None
    started_s: float = 0.0

    @property
    def identity(self) -> ProcessId | None:
        """Return the process on record."""
        return None if self.pid is None else ProcessId(self.pid, self.started_s)


class StackState(BaseModel):
    """The state file's content; `wanted` says that `up` was the last word, not `down`."""

    wanted: bool = False
    servers: dict[str, ServerState] = Field(default_factory=dict)


def read_state(path: Path, report: Report) -> StackState:
    """Read the state file; an unreadable one is reported and put aside."""
    try:
        return StackState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return StackState()
    except (ValidationError, UnicodeDecodeError):
        report(f"{path.name} is damaged: starting from an empty one")
        set_aside(path)
        return StackState()


def write_state(path: Path, state: StackState) -> None:
    """Replace the state file in one step, so that a kill leaves the old one or the new one."""
    write_whole(path, state.model_dump_json(indent=2).encode())


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file under another name, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or directory to `<name>.broken-<n>`, and return the new path."""
    names = (path.with_name(f"{path.name}.broken-{n}") for n in range(1, 1000))
    target = next(name for name in names if not name.exists())
    path.rename(target)
    return target


@contextlib.contextmanager
def locked(path: Path, report: Report) -> Iterator[None]:
    """Hold an exclusive lock file; waiting for another holder is reported."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"waiting for another command that holds {path}")
                fcntl.flock(file, fcntl.LOCK_EX)
            # The other may have been a purge, which took the file away from under the lock.
            if _is_at(path, file.fileno()):
                yield
                return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen on `host:port` now."""
    with socket.socket() as probe:
        # As servers do: a port with only finished connections on it is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def frees(host: str, port: int, patience_s: float) -> bool:
    """Return whether a server could listen on `host:port` within a time."""
    deadline = time.monotonic() + patience_s
    while not is_free(host, port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def choose_port(host: str) -> int:
    """Return a port that nothing listens on; raises `StackError` if a thousand are taken."""
    for port in random.sample(PORTS, 1000):
        if is_free(host, port):
            return port
    raise StackError(f"no free port on {host} in {PORTS.start} to {PORTS.stop - 1}")
