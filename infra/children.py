"""The processes of a supervisor: forked from a server that has imported torch, or made anew.

Importing torch and transformers takes longer than all else of a learner's start, and their pages
are shared. What runs a robot is a program of its own: it needs neither, and goes on where its
supervisor is killed, for a robot must not stop because nobody watches.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from infra.supervision import STOP_S

logger = logging.getLogger("ralo.supervisor")

BACK_OFF_S = (0.5, 10.0)
STEADY_S = BACK_OFF_S[1]
"""Who lived for longer than the longest pause was no waste to start: the next pause is short."""

WORLD = "world"
"""The kind of a simulated world."""

Run = Callable[[str], None]
"""What a forked child does: run the processor of that name; called in the child's process."""


class Program:
    """A process of a fresh interpreter, as the other kind looks to its supervisor."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Tell it to stop."""
        self._process.terminate()

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, so long at most."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)


@dataclass
class Child:
    """One supervised process; with `arguments` a program, else a fork."""

    name: str
    kind: str
    environ: dict[str, str]
    arguments: Sequence[str] = ()
    process: ForkServerProcess | Program | None = None
    started_s: float = 0.0
    next_start_s: float = 0.0
    back_off_s: float = BACK_OFF_S[0]
    restarts: int = 0
    last_exit: int | None = None

    def note_exit(self, code: int, now_s: float) -> None:
        """It has ended: when it may start again depends on how long it lived."""
        steady = now_s - self.started_s > STEADY_S
        self.back_off_s = BACK_OFF_S[0] if steady else min(2 * self.back_off_s, BACK_OFF_S[1])
        self.next_start_s = now_s + self.back_off_s
        self.process, self.last_exit = None, code
        self.restarts += 1
        logger.warning("%s ended with %s; again in %.1f s", self.name, code, self.back_off_s)

    def row(self) -> dict[str, Any]:
        """What the status file says of it."""
        return {
            "pid": self.process.pid if self.process else None,
            "started_s": _started_s(self.process.pid) if self.process else None,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
        }


class Nursery:
    """Starts children of both kinds."""

    def __init__(self, run: Run, preload: Sequence[str]) -> None:
        self._run = run
        self._fork = multiprocessing.get_context("forkserver")
        self._fork.set_forkserver_preload(list(preload))
        self._warm = threading.Event()
        threading.Thread(target=self._warm_up, name="forkserver", daemon=True).start()

    def _warm_up(self) -> None:
        # The server answers once it has imported all that it preloads, which may take half a
        # minute on a busy machine.
        first = self._fork.Process(target=_nothing, name="first")
        first.start()
        first.join()
        self._warm.set()

    def is_ready_for(self, child: Child) -> bool:
        """Whether this child can be started at once: a fork waits for its server."""
        return bool(child.arguments) or self._warm.is_set()

    def start(self, child: Child, log: Path) -> None:
        """Start a child whose words go to a file."""
        log.parent.mkdir(parents=True, exist_ok=True)
        if child.arguments:
            child.process = Program(child.name, child.arguments, log)
        else:
            arguments = (self._run, child.kind, {**os.environ, **child.environ}, str(log))
            process = self._fork.Process(target=_become, args=arguments, name=child.name)
            process.start()
            child.process = process
        child.started_s = time.monotonic()

    def close(self) -> None:
        """End the fork server, which would end by itself, but only some time after this process."""
        for server in psutil.Process().children():
            server.terminate()


def stop_all(children: Iterable[Child]) -> None:
    """Stop them; worlds last, for a robot whose world goes first takes that for a breakdown."""
    by_kind: dict[bool, list[Child]] = {False: [], True: []}
    for child in children:
        by_kind[child.kind == WORLD].append(child)
    for together in by_kind.values():
        _stop_at_once(together)


def _stop_at_once(children: Iterable[Child]) -> None:
    """Stop all of them at once, with force what takes too long."""
    processes = [child.process for child in children if child.process is not None]
    running = [process for process in processes if process.exitcode is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_S
    for process in running:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            logger.warning("%s did not stop in %.0f s: killed", process.name, STOP_S)
            process.kill()
            process.join()


def _nothing() -> None:
    """What the first fork does."""


def _become(run: Run, kind: str, environ: dict[str, str], log: str) -> None:
    """In the child: take its environment and log file, and run."""
    _end_with_supervisor()
    os.environ.clear()
    os.environ.update(environ)
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    run(kind)


def _end_with_supervisor() -> None:
    """See to it that this process is told to stop once its supervisor is gone, however it went."""
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None, "only a supervisor starts this"

    def watch() -> None:
        supervisor.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()


def _started_s(pid: int | None) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None
