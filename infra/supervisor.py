"""Starts the processors that the missions call for, and starts them again when they die.

The provider and the orchestrator always run; a policy's sampler, trainer, aggregator and evaluator
while it has a mission that is neither over nor paused. `infra.supervision` is how others see it.

Processes are forked from a server that has imported torch and transformers once: importing them
takes longer than all else of a start, and their pages are shared.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess

import psutil

from infra.belongings import sweep_scratch
from infra.embedded.stack import Stack
from infra.embedded.state import StackError, choose_port
from infra.instance import slot_name
from infra.log import Log, LogError
from infra.settings import Settings
from infra.store import StoreUnavailable
from infra.supervision import STOP_S, log_file, read_scale, status_file
from schemas.missions import Mission, MissionControl, MissionReport, MissionResult
from schemas.records import Record
from schemas.topics import MISSION_RESULTS, MISSIONS, NewerSchema, Undecodable, decode

logger = logging.getLogger("ralo.supervisor")

ALWAYS = ("provider", "orchestrator")
PER_POLICY = ("aggregator", "sampler", "trainer", "evaluator")
GRACE_S = 5.0
"""How long a policy's processors go on after its mission, so that what is in flight lands."""
BACK_OFF_S = (0.5, 10.0)
STEADY_S = 30.0
"""A process that lived this long starts anew without back-off."""
LOOK_EVERY_S = 0.2
SERVERS_EVERY_S = 1.0


class ActiveMissions:
    """Which policies have a mission to work on, by the log.

    A mission that is to end, by order or because its source is gone, drains and is evaluated first:
    a pause holds it no longer, and only its result says that it is over.
    """

    def __init__(self) -> None:
        self._policy: dict[str, str] = {}
        self._prepared: set[str] = set()
        self._paused: set[str] = set()
        self._closing: set[str] = set()
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
            case MissionControl(mission_id=id_, action=action):
                self._order(id_, action)
            case MissionReport(mission_id=id_, stage="prepared"):
                self._prepared.add(id_)
            case MissionReport(mission_id=id_, stage="rejected") if id_ not in self._prepared:
                self._over.add(id_)
            case MissionReport(mission_id=id_):
                self._closing.add(id_)
            case MissionResult(mission_id=id_):
                self._over.add(id_)

    def _order(self, mission_id: str, action: str) -> None:
        match action:
            case "pause":
                self._paused.add(mission_id)
            case "resume":
                self._paused.discard(mission_id)
            case _:
                self._closing.add(mission_id)

    def unfinished(self) -> set[str]:
        """The policies with a mission that is not over, paused ones included."""
        return {policy for id_, policy in self._policy.items() if id_ not in self._over}

    def policies(self) -> set[str]:
        """The policies at work now."""
        idle = self._over | (self._paused - self._closing)
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
        self._unfinished: set[str] = set()
        self._fork = multiprocessing.get_context("forkserver")
        self._fork.set_forkserver_preload(list(preload))

    def run(self, stop: threading.Event) -> None:
        """Supervise until told to stop; then stop all."""
        servers = (self._config, stop)
        threading.Thread(target=_keep_servers, args=servers, name="servers", daemon=True).start()
        while not stop.is_set():
            self.step()
        logger.info("stopping %d processors", len(self._children))
        _stop(self._children.values())
        self._write_status()
        # The fork server ends by itself, but only some time after this process.
        for server in psutil.Process().children():
            server.terminate()

    def step(self) -> None:
        """Look at the missions, start what is missing, stop what nobody wants."""
        with contextlib.suppress(LogError):
            for record in self._reader.poll(500, LOOK_EVERY_S):
                self._missions.observe(record)
        wanted = self._wanted()
        self._children = {**wanted, **self._children}
        self._write_status()
        for name in wanted:
            self._keep(self._children[name])
        self._dismiss(set(self._children) - set(wanted))
        self._write_status()

    def _dismiss(self, names: Collection[str]) -> None:
        """Stop processes, and delete the copies that aggregators of finished policies have left."""
        _stop([self._children.pop(name) for name in names])
        # A mission may also end while none of its processes runs: cancelled in a pause.
        unfinished = self._missions.unfinished()
        if names or self._unfinished - unfinished:
            for slot in sweep_scratch(self._config, keep=unfinished):
                logger.info("deleted %s", slot)
        self._unfinished = unfinished

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
        instance, port = slot_name(self._config, index), views_port(self._config)
        environ = {"RALO_INSTANCE": instance, "RALO_HTTP_PORT": str(port)}
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


def _keep_servers(config: Settings, stop: threading.Event) -> None:
    """Start the embedded servers again that died, beside all else, for it takes seconds."""
    stack = Stack(config)
    while not stop.wait(SERVERS_EVERY_S):
        if names := stack.dead():
            logger.warning("%s died: starting it again", " and ".join(names))
            try:
                stack.up(logger.info)
            except (StackError, LogError, StoreUnavailable) as error:
                logger.warning("not started: %s", error)


def _stop(children: Iterable[Child]) -> None:
    """Stop them all at once, with force what takes too long."""
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
