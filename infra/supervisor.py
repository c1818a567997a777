"""Starts the processors that the missions call for, and starts them again when they die.

The provider and the orchestrator always run; a policy's sampler, trainer, aggregator and evaluator
while it has a mission that is neither over nor paused; a robot's actuator, fusion and controller
while `infra.robots` keeps it; a policy's gate while a robot acts under it. `infra.supervision` is
how others see it.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Collection, Sequence

from infra.belongings import sweep_scratch
from infra.children import WORLD, Child, Nursery, Run, stop_all
from infra.embedded.stack import Stack
from infra.embedded.state import StackError, choose_port
from infra.instance import slot_name
from infra.log import Log, LogError
from infra.patience import Patience
from infra.robots import read_kept
from infra.settings import Settings
from infra.store import StoreUnavailable
from infra.supervision import log_file, read_scale, status_file
from schemas.missions import (
    Mission,
    MissionControl,
    MissionReport,
    MissionResult,
    RobotMission,
    RobotMissionResult,
)
from schemas.records import Record
from schemas.topics import MISSION_RESULTS, MISSIONS, NewerSchema, Undecodable, decode

logger = logging.getLogger("ralo.supervisor")

ALWAYS = ("provider", "orchestrator")
PER_POLICY = ("aggregator", "sampler", "trainer", "evaluator")
PER_ROBOT = ("actuator", "fusion", "controller")
GRACE_S = 5.0
"""How long a policy's processors go on after its mission, so that what is in flight lands."""
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
        self._piloted: dict[str, tuple[str, set[str]]] = {}

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
            case RobotMission(mission_id=id_, policy=str() as policy) as mission:
                self._piloted.setdefault(id_, (policy, set(mission.robots)))
            case RobotMissionResult(mission_id=id_, robot_id=robot) if id_ in self._piloted:
                self._piloted[id_][1].discard(robot)

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

    def piloting(self) -> set[str]:
        """The policies that some robot has a mission under."""
        return {policy for policy, robots in self._piloted.values() if robots}

    def policies(self) -> set[str]:
        """The policies at work now."""
        idle = self._over | (self._paused - self._closing)
        return {policy for id_, policy in self._policy.items() if id_ not in idle}


class Supervisor:
    """Keeps the running processes equal to the wanted ones.

    Waits for a broker that is away, while what its processes are forked from gets ready; raises
    `GaveUp` in the end.
    """

    def __init__(self, config: Settings, log: Log, run: Run, preload: Sequence[str]) -> None:
        self._config, self._nursery = config, Nursery(run, preload)
        self._missions = ActiveMissions()
        patience = Patience("supervisor")
        ends = patience.until_available(
            "the broker", lambda: {**log.ends(MISSIONS.name), **log.ends(MISSION_RESULTS.name)}
        )
        self._reader = log.state_reader({p: first for p, (first, _) in ends.items()})
        self._children: dict[str, Child] = {}
        self._last_wanted: dict[str, float] = {}
        self._unfinished: set[str] = set()

    def run(self, stop: threading.Event) -> None:
        """Supervise until told to stop; then stop all."""
        servers = (self._config, stop)
        threading.Thread(target=_keep_servers, args=servers, name="servers", daemon=True).start()
        while not stop.is_set():
            self.step()
        logger.info("stopping %d processors", len(self._children))
        stop_all(self._children.values())
        self._write_status()
        self._nursery.close()

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
        stop_all([self._children.pop(name) for name in names])
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
        children += [
            Child(f"gate-0@{policy}", "gate", {}, ("run", "gate", "--policy", policy))
            for policy in self._missions.piloting()
        ]
        children += self._robots()
        return {child.name: child for child in children}

    def _child(self, kind: str, index: int, policy: str | None) -> Child:
        name = f"{kind}-{index}" + (f"@{policy}" if policy else "")
        instance, port = slot_name(self._config, index), views_port(self._config)
        environ = {"RALO_INSTANCE": instance, "RALO_HTTP_PORT": str(port)}
        environ |= {"RALO_POLICY": policy} if policy else {}
        return Child(name, kind, environ)

    def _robots(self) -> list[Child]:
        """What the kept robots and worlds need, each a program of its own."""
        kept = read_kept(self._config)
        worlds = [
            Child(f"world-{name}", WORLD, {}, ("simulate", path))
            for name, path in kept.worlds.items()
        ]
        return worlds + [
            Child(f"{kind}@{robot}", kind, {}, ("run", kind, "--robot", path))
            for robot, path in kept.robots.items()
            for kind in PER_ROBOT
        ]

    def _keep(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is not None:
            code = child.process.exitcode
            if code is None:
                return
            child.note_exit(code, now)
        if now >= child.next_start_s and self._nursery.is_ready_for(child):
            self._nursery.start(child, log_file(self._config, child.name))

    def _write_status(self) -> None:
        rows = {child.name: child.row() for child in self._children.values()}
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
