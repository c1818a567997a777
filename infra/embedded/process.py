"""Server processes that outlive the command which started them, and are never mistaken for others.

A process is known by its pid *and* its start time, for pids are reused; one whose record was lost
is found again by marks in its command line.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# psutil derives the start from the boot time, which an adjustment of the clock moves a little.
START_TOLERANCE_S = 3.0


@dataclass(frozen=True)
class ProcessId:
    """A pid with the moment at which its process started (seconds since the epoch)."""

    pid: int
    started_s: float

    def process(self) -> psutil.Process | None:
        """Return the live process that this names, or None (ended, a zombie, or a reused pid)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_s) < START_TOLERANCE_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def launch(command: Sequence[str], log: Path, environ: dict[str, str]) -> ProcessId:
    """Start `command` in its own session, its output appended to `log`, and return its identity.

    A shell is put between, so that the server is nobody's child: no zombie stays if the caller
    lives on, and Ctrl-C in the caller's terminal does not reach it. Raises `OSError`,
    `RuntimeError`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    script = 'log=$1; shift; "$@" >>"$log" 2>&1 </dev/null & echo $!'
    shell = subprocess.run(
        ["/bin/sh", "-c", script, "launch", str(log), *command],
        stdout=subprocess.PIPE,
        env=environ,
        start_new_session=True,
        check=True,
        text=True,
    )
    pid = int(shell.stdout)
    try:
        return ProcessId(pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        raise RuntimeError(f"{command[0]} ended at once; its last words: {tail(log)}") from None


def find(marks: Sequence[str]) -> ProcessId | None:
    """Return the process of this user whose arguments hold all of `marks`, or None."""
    for process in psutil.process_iter(["cmdline", "status"]):
        arguments = process.info["cmdline"] or []
        if all(mark in arguments for mark in marks) and process.info["status"] != "zombie":
            with contextlib.suppress(psutil.Error):
                return ProcessId(process.pid, process.create_time())
    return None


def stop(identity: ProcessId, patience_s: float) -> bool:
    """End a process with SIGTERM, after `patience_s` with SIGKILL; return whether TERM sufficed."""
    process = identity.process()
    if process is None:
        return True
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    if wait_gone(identity, patience_s):
        return True
    kill(identity)
    return False


def kill(identity: ProcessId) -> None:
    """End a process with SIGKILL and wait until it is gone."""
    process = identity.process()
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        if not wait_gone(identity, 10.0):
            raise RuntimeError(f"process {identity.pid} survives SIGKILL: is its disk hanging?")


def wait_gone(identity: ProcessId, limit_s: float) -> bool:
    """Wait until a process has ended, at most `limit_s`; return whether it has."""
    deadline = time.monotonic() + limit_s
    while identity.process() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def tail(log: Path, lines: int = 5) -> str:
    """Return the last lines of a log file, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or "(none)"
    except OSError:
        return "(none)"
