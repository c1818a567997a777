"""Starts the processors that the missions call for, and starts them again when they die.

The provider and the orchestrator always run; a policy's sampler, trainer, aggregator and evaluator
while it has a mission that is neither over nor paused. One supervisor a state directory; it runs
detached, started by `ralo up` and stopped by `ralo down`.

Processes are forked from a server that has imported torch and transformers once: importing them
takes longer than all else of a start, and their pages are shared.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from infra.embedded import process
from infra.embedded.process import ProcessId
from infra.embedded.state import choose_port
from infra.log import Log, LogError
from infra.settings import Settings, settings
from schemas.missions import Mission, MissionControl, MissionReport, MissionResult
from schemas.records import Record
from schemas.topics import MISSION_RESULTS, MISSIONS, NewerSchema, Undecodable, decode

logger = logging.getLogger("ralo.supervisor")

Report = Callable[[str], None]

ALWAYS = ("provider", "orchestrator")
PER_POLICY = ("aggregator", "sampler", "trainer", "evaluator")
SCALABLE = ("sampler", "trainer")
GRACE_S = 5.0
"""How long a policy's processors go on after its mission, so that what is in flight lands."""
STOP_S = 10.0
BACK_OFF_S = (0.5, 10.0)
STEADY_S = 30.0
"""A process that lived this long starts anew without back-off."""
LOOK_EVERY_S = 0.2


class ActiveMissions:
    """Which policies have a mission to work on, by the log."""

    def __init__(self) -> None:
        self._policy: dict[str, str] = {}
        self._paused: set[str] = set()
        self._over: set[str] = set()

    def observe(self, record: Record) -> None:
        """Take one record of `missions` or `mission-results` in; bad ones are the provider's."""
        try:
            event = decode(record.partition.topic, record.value)
        except (Undecodable, NewerSchema):
            return
        match event:
            case Mission(mission_id=id_, policy=policy):
                self._policy.setdefault(id_, policy)
            case MissionControl(mission_id=id_, action="pause"):
                self._paused.add(id_)
            case MissionControl(mission_id=id_, action="resume"):
                self._paused.discard(id_)
            case MissionReport(mission_id=id_, stage="rejected") | MissionResult(mission_id=id_):
                self._over.add(id_)

    def policies(self) -> set[str]:
        """The policies at work now."""
        idle = self._paused | self._over
        return {policy for id_, policy in self._policy.items() if id_ not in idle}


Run = Callable[[str], None]
"""What a child does: run the processor of that name; called in the child's process."""


@dataclass
class Child:
    """One supervised process."""

    name: str
    kind: str
    environ: dict[str, str]
    process: ForkServerProcess | None = None
    started_s: float = 0.0
    next_start_s: float = 0.0
    back_off_s: float = BACK_OFF_S[0]
    restarts: int = 0
    last_exit: int | None = None


class Supervisor:
    """Keeps the running processes equal to the wanted ones."""

    def __init__(self, config: Settings, log: Log, run: Run, preload: Sequence[str]) -> None:
        self._config, self._run_child = config, run
        self._missions = ActiveMissions()
        ends = {**log.ends(MISSIONS.name), **log.ends(MISSION_RESULTS.name)}
        self._reader = log.state_reader({p: first for p, (first, _) in ends.items()})
        self._children: dict[str, Child] = {}
        self._last_wanted: dict[str, float] = {}
        self._fork = multiprocessing.get_context("forkserver")
        self._fork.set_forkserver_preload(list(preload))

    def run(self, stop: threading.Event) -> None:
        """Supervise until told to stop; then stop all, learners first."""
        while not stop.is_set():
            self.step()
        for name in sorted(self._children, reverse=True):
            self._stop(self._children[name])
        self._write_status()

    def step(self) -> None:
        """Look at the missions, start what is missing, stop what nobody wants."""
        with contextlib.suppress(LogError):
            for record in self._reader.poll(500, LOOK_EVERY_S):
                self._missions.observe(record)
        wanted = self._wanted()
        for name, child in wanted.items():
            self._keep(self._children.setdefault(name, child))
        for name in set(self._children) - set(wanted):
            self._stop(self._children.pop(name))
        self._write_status()

    def _wanted(self) -> dict[str, Child]:
        now = time.monotonic()
        for policy in self._missions.policies():
            self._last_wanted[policy] = now
        scale = read_scale(self._config)
        children = [self._child(kind, 0, None) for kind in ALWAYS]
        for policy, at in self._last_wanted.items():
            if now - at < GRACE_S:
                for kind in PER_POLICY:
                    count = scale.get(kind, 1)
                    children += [self._child(kind, i, policy) for i in range(count)]
        return {child.name: child for child in children}

    def _child(self, kind: str, index: int, policy: str | None) -> Child:
        name = f"{kind}-{index}" + (f"@{policy}" if policy else "")
        environ = {"RALO_INSTANCE": str(index), "RALO_HTTP_PORT": str(views_port(self._config))}
        environ |= {"RALO_POLICY": policy} if policy else {}
        return Child(name, kind, environ)

    def _keep(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is not None:
            code = child.process.exitcode
            if code is None:
                return
            self._note_exit(child, code, now)
        if now >= child.next_start_s:
            self._start(child)

    def _note_exit(self, child: Child, code: int, now: float) -> None:
        steady = now - child.started_s > STEADY_S
        child.back_off_s = BACK_OFF_S[0] if steady else min(2 * child.back_off_s, BACK_OFF_S[1])
        child.next_start_s = now + child.back_off_s
        child.process, child.last_exit = None, code
        child.restarts += 1
        logger.warning("%s ended with %s; again in %.1f s", child.name, code, child.back_off_s)

    def _start(self, child: Child) -> None:
        log = log_file(self._config, child.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = (self._run_child, child.kind, {**os.environ, **child.environ}, str(log))
        child.process = self._fork.Process(target=_become, args=arguments, name=child.name)
        child.process.start()
        child.started_s = time.monotonic()

    def _stop(self, child: Child) -> None:
        if child.process is None or child.process.exitcode is not None:
            return
        child.process.terminate()
        child.process.join(STOP_S)
        if child.process.exitcode is None:
            logger.warning("%s did not stop in %.0f s: killed", child.name, STOP_S)
            child.process.kill()
            child.process.join()

    def _write_status(self) -> None:
        rows = {
            child.name: {
                "pid": child.process.pid if child.process else None,
                "started_s": _started_s(child.process.pid) if child.process else None,
                "restarts": child.restarts,
                "last_exit": child.last_exit,
            }
            for child in self._children.values()
        }
        path = status_file(self._config)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(rows))
        fresh.replace(path)


def _become(run: Run, kind: str, environ: dict[str, str], log: str) -> None:
    """In the child: take its environment and log file, and run."""
    _die_with_parent()
    os.environ.clear()
    os.environ.update(environ)
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    run(kind)


def _die_with_parent() -> None:
    """On Linux a child ends with the server it was forked from, so with its supervisor."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _started_s(pid: int | None) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def status_file(config: Settings) -> Path:
    """Where the supervisor says how its processes are."""
    return config.state_dir / "processors.json"


def log_file(config: Settings, name: str) -> Path:
    """The log of one processor."""
    return config.state_dir / "logs" / f"{name}.log"


def views_port(config: Settings) -> int:
    """The port of the orchestrator's views: the one set, else a free one, chosen once."""
    if config.http_port is not None:
        return config.http_port
    path = config.state_dir / "http-port"
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    port = choose_port(config.bind_host)
    path.write_text(str(port))
    return port


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


def processors_status(config: Settings | None = None) -> list[dict[str, Any]]:
    """One row a processor, for `ralo status`."""
    try:
        rows = json.loads(status_file(config or settings()).read_text())
    except (OSError, ValueError):
        return []
    return [{"processor": name, **_alive(row)} for name, row in sorted(rows.items())]


def _alive(row: dict[str, Any]) -> dict[str, Any]:
    identity = ProcessId(row["pid"], row["started_s"] or 0.0) if row["pid"] else None
    running = identity.process() if identity else None
    memory = f"{running.memory_info().rss / 1e6:.0f} MB" if running else ""
    state = "running" if running else "stopped"
    return {"state": state, "pid": row["pid"], "memory": memory, "restarts": row["restarts"]}


def start(config: Settings, report: Report) -> None:
    """Start the supervisor detached, unless it runs."""
    if _identity(config) is not None:
        return
    report("starting the processors")
    command = [sys.executable, "-m", "infra.cli", "supervise"]
    log = log_file(config, "supervisor")
    environ = {**os.environ, "RALO_STATE_DIR": str(config.state_dir)}
    identity = process.launch(command, log, environ)
    _pid_file(config).write_text(json.dumps(asdict(identity)))


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


def stop(config: Settings, report: Report) -> None:
    """Stop the supervisor and with it the processors; orphans of a killed one too."""
    identity = _identity(config)
    if identity is not None:
        report(f"stopping the processors (supervisor pid {identity.pid})")
        process.stop(identity, 3 * STOP_S)
    for row in _rows(config):
        orphan = ProcessId(row["pid"], row["started_s"] or 0.0) if row["pid"] else None
        if orphan is not None and orphan.process() is not None:
            process.stop(orphan, STOP_S)
    _pid_file(config).unlink(missing_ok=True)
    status_file(config).unlink(missing_ok=True)


def _rows(config: Settings) -> list[dict[str, Any]]:
    try:
        return list(json.loads(status_file(config).read_text()).values())
    except (OSError, ValueError):
        return []


def _identity(config: Settings) -> ProcessId | None:
    try:
        identity = ProcessId(**json.loads(_pid_file(config).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return identity if identity.process() is not None else None


def _pid_file(config: Settings) -> Path:
    return config.state_dir / "supervisor.json"
