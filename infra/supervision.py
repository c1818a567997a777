"""The supervisor of a state directory as others see it: start it, stop it, ask how it is.

At most one supervises a state directory, for two would take turns at starting the same processes. A
lock that ends with the process makes sure of that; a record beside it says who holds the lock.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from infra.code_version import fingerprint
from infra.embedded import process
from infra.embedded.process import ProcessId
from infra.embedded.state import write_whole
from infra.instance import try_lock
from infra.interrupts import interrupts_wait
from infra.settings import Settings, settings

Report = Callable[[str], None]

SCALABLE = ("sampler", "trainer")
STOP_S = 10.0
"""How long a process may take to stop before it is killed."""
START_S = 60.0
"""How long the supervisor may take to begin; a second or two, but the machine may be busy."""


@dataclass(frozen=True)
class Running(ProcessId):
    """A living supervisor and the fingerprint of the code that it runs."""

    code: str = ""

    @property
    def outdated(self) -> bool:
        """Whether other code is installed now than when it was started."""
        return self.code != fingerprint()


class SupervisorError(Exception):
    """The supervisor cannot do what was asked; the message says how to mend it."""


@contextlib.contextmanager
def claimed(config: Settings) -> Iterator[None]:
    """Be the supervisor of the state directory meanwhile; raises `SupervisorError` if one is."""
    config.state_dir.mkdir(parents=True, exist_ok=True)
    lock = try_lock(config.state_dir / "supervisor.lock")
    if lock is None:
        raise SupervisorError(_already(config))
    with lock:
        _stop_orphans(config)
        me = Running(os.getpid(), psutil.Process().create_time(), fingerprint())
        write_whole(_record(config), json.dumps(asdict(me)).encode())
        yield
        _record(config).unlink(missing_ok=True)


def _already(config: Settings) -> str:
    found = running(config)
    who = ""
    if found is not None:
        who = f" by pid {found.pid} since {datetime.fromtimestamp(found.started_s):%F %T}"
    return (
        f"the processors of {config.state_dir} are supervised already{who}: `ralo status` shows "
        "them, `ralo down` stops them; set RALO_STATE_DIR to run others"
    )


def running(config: Settings) -> Running | None:
    """The living supervisor of the state directory."""
    try:
        identity = Running(**json.loads(_record(config).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return identity if identity.process() is not None else None


def start(config: Settings, report: Report) -> None:
    """Have a supervisor of the installed code run; raises `SupervisorError` if it does not start.

    One that was started before an upgrade is replaced: processes that are forked from it would run
    the modules that it has imported.
    """
    found = running(config)
    if found is not None and not found.outdated:
        return
    if found is not None:
        report("the processors run code from before an upgrade or edit: restarting them")
        stop(config, report)
    report("starting the processors")
    command = [sys.executable, "-m", "infra.cli", "supervise"]
    log = log_file(config, "supervisor")
    environ = {**os.environ, "RALO_STATE_DIR": str(config.state_dir)}
    with contextlib.ExitStack() as undo:
        with interrupts_wait():
            launched = process.launch(command, log, environ)
            undo.callback(process.stop, launched, STOP_S)
        _await_start(config, launched, log)
        undo.pop_all()


def _await_start(config: Settings, launched: ProcessId, log: Path) -> None:
    deadline = time.monotonic() + START_S
    # The one that runs in the end may be another's, started at the same moment.
    while running(config) is None:
        if launched.process() is None or time.monotonic() > deadline:
            words = process.tail(log)
            raise SupervisorError(f"the supervisor does not start; the end of {log}:\n{words}")
        time.sleep(0.02)


def stop(config: Settings, report: Report) -> None:
    """Stop the supervisor and with it the processors; orphans of a killed one too."""
    found = running(config)
    if found is not None:
        report(f"stopping the processors (supervisor pid {found.pid})")
        process.stop(found, 3 * STOP_S)
    _stop_orphans(config)
    _record(config).unlink(missing_ok=True)
    status_file(config).unlink(missing_ok=True)


def _stop_orphans(config: Settings) -> None:
    """Stop what a killed supervisor left."""
    for row in _rows(config).values():
        orphan = _identity(row)
        if orphan is not None:
            process.stop(orphan, STOP_S)


@contextlib.contextmanager
def borrowed(config: Settings, kind: str, policy: str, report: Report) -> Iterator[None]:
    """Have a processor of this kind run meanwhile, where no supervised one does.

    On a cluster, which `kafka.bootstrap_servers` names, processors are not this machine's business.
    """
    rows = processors_status(config)
    supervised = any(r["processor"].startswith(kind) and policy in r["processor"] for r in rows)
    if supervised or config.kafka.bootstrap_servers:
        yield
        return
    report(f"starting a {kind} of {policy} for this")
    environ = {**os.environ, "RALO_POLICY": policy}
    with log_file(config, f"{kind}-borrowed@{policy}").open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "infra.cli", "run", kind],
            env=environ,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield
    finally:
        child.terminate()
        child.wait(STOP_S)


def processors_status(config: Settings | None = None) -> list[dict[str, Any]]:
    """One row a processor, for `ralo status`."""
    rows = _rows(config or settings())
    return [{"processor": name, **_state(row)} for name, row in sorted(rows.items())]


def _state(row: dict[str, Any]) -> dict[str, Any]:
    identity = _identity(row)
    running = identity.process() if identity else None
    memory = f"{running.memory_info().rss / 1e6:.0f} MB" if running else ""
    state = "running" if running else "stopped" if identity else "starting"
    return {"state": state, "pid": row["pid"], "memory": memory, "restarts": row["restarts"]}


def _identity(row: dict[str, Any]) -> ProcessId | None:
    return ProcessId(row["pid"], row["started_s"] or 0.0) if row["pid"] else None


def _rows(config: Settings) -> dict[str, dict[str, Any]]:
    try:
        rows: dict[str, dict[str, Any]] = json.loads(status_file(config).read_text())
        return rows
    except (OSError, ValueError):
        return {}


def read_scale(config: Settings) -> dict[str, int]:
    """How many of each kind to run for a policy; one of each unless said otherwise."""
    try:
        scale: dict[str, int] = json.loads((config.state_dir / "scale.json").read_text())
        return scale
    except (OSError, ValueError):
        return {}


def write_scale(config: Settings, scale: Mapping[str, int]) -> None:
    """Set how many of each kind to run; the running supervisor follows."""
    for kind, count in scale.items():
        if kind not in SCALABLE or count < 1:
            raise ValueError(f"{kind}={count}: {' and '.join(SCALABLE)} scale, from 1 up")
    path = config.state_dir / "scale.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**read_scale(config), **scale}))


def status_file(config: Settings) -> Path:
    """Where the supervisor says how its processes are."""
    return config.state_dir / "processors.json"


def log_file(config: Settings, name: str) -> Path:
    """The log of one processor."""
    return config.state_dir / "logs" / f"{name}.log"


def _record(config: Settings) -> Path:
    return config.state_dir / "supervisor.json"
