"""The faults of a fault run, done: each waits until what it broke is back, and becomes a line."""

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from consumers.reliability.evidence import after_kill, after_outage, versions_of_all
from consumers.reliability.ledger import FaultLine
from consumers.reliability.schedule import KAFKA, MINIO, SUPERVISOR, Fault
from infra import clock
from infra.cli import chaos_world as world
from infra.cli.chaos_stack import ChaosStack, Say
from infra.cli.chaos_watch import Awaited, Watch
from infra.embedded.state import StackError
from infra.embedded.toxiproxy import Proxy
from infra.log import LogError
from infra.store import StoreUnavailable
from schemas.partitioner import partition_for
from schemas.topics import EVALUATIONS

RECOVER_S = 180.0
"""How long something may take to be back; longer is a breach."""
THERE_S = 60.0
"""How long a process that is to be killed is waited for: it may have died of another fault."""
REST = 0.25
"""The share of a lane's usual time between two faults that it rests after a recovery at least."""
_LOOK_S = 0.05
_ASK_S = 2.0


class NotDone(Exception):
    """A fault was not done; says why."""


@dataclass
class Outage:
    """What was away from when to when; `ended_ms` None while it is."""

    kind: str
    began_ms: float
    ended_ms: float | None = None

    def meets(self, from_ms: float, to_ms: float) -> bool:
        """Whether it falls into this time."""
        return self.began_ms < to_ms and (self.ended_ms is None or self.ended_ms > from_ms)


class Faults:
    """A run's faults, lane by lane; `note` is told what became of each, one at a time."""

    def __init__(
        self,
        stack: ChaosStack,
        watch: Watch,
        run: int,
        seed: int,
        note: Callable[[FaultLine], None],
        say: Say,
    ) -> None:
        self._stack, self._watch, self._say = stack, watch, say
        self._run, self._seed, self._note = run, seed, note
        self._noting = threading.Lock()
        self._began, self._began_utc = time.monotonic(), datetime.now(UTC)
        self.over = threading.Event()
        """No fault is begun any more."""
        self.broken = threading.Event()
        """A lane ended by an error of ours, which is in `failure`."""
        self.failure: BaseException | None = None
        bootstrap = stack.servers.direct.kafka
        group = f"gate.{world.ARM}"
        # Never a member: it only asks how far the group is.
        self._gate = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
        self._servers = threading.Lock()
        """One server is away at a time."""
        self._clocks = threading.Lock()
        self._outages: list[Outage] = []
        self.lines: list[FaultLine] = []
        self._threads: list[threading.Thread] = []

    def begin(self, faults: Sequence[Fault]) -> None:
        """Start all lanes."""
        lanes: dict[str, list[Fault]] = {}
        for fault in faults:
            lanes.setdefault(fault.kind, []).append(fault)
        self._threads = [
            threading.Thread(target=self._lane, args=(lane,), name=kind, daemon=True)
            for kind, lane in lanes.items()
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Begin none any more, and wait until what is broken is back."""
        self.over.set()
        for thread in self._threads:
            thread.join(RECOVER_S + THERE_S)
        self._gate.close()

    def elapsed_s(self) -> float:
        """Time since the faults began."""
        return time.monotonic() - self._began

    def pending(self) -> list[str]:
        """The lanes that still wait for something to be back."""
        return [thread.name for thread in self._threads if thread.is_alive()]

    # -- lanes --------------------------------------------------------------------------------

    def _lane(self, faults: Sequence[Fault]) -> None:
        try:
            before_s = 0.0
            for fault in faults:
                # A late lane rests all the same: what has just come back is to do some work.
                rest_s = REST * (fault.due_s - before_s) if before_s else 0.0
                self.over.wait(max(rest_s, fault.due_s - self.elapsed_s()))
                before_s = fault.due_s
                line = self._line(fault)
                with self._noting:
                    self.lines.append(line)
                    self._note(line)
        except BaseException as error:
            self.failure = error
            self.broken.set()
            raise

    def _line(self, fault: Fault) -> FaultLine:
        """Do a fault, wait until all is well again, and say how it went."""
        if self.over.is_set():
            return self._written(fault, None, why="the faults' time was over")
        at_s = self.elapsed_s()
        try:
            with self._one_server(fault):
                at_s = self.elapsed_s()
                began_ms, awaited = self._do(fault)
                back = awaited.seen.wait(RECOVER_S)
        except (NotDone, StackError) as error:
            return self._written(fault, None, why=str(error))
        self._watch.forget(awaited)
        self._end_outage(fault, awaited.done_ms if back else _now_ms())
        if not back:
            self._say(f"{fault.target} is not back {RECOVER_S:.0f} s after: {fault}")
            return self._written(fault, at_s, why=f"not back within {RECOVER_S:.0f} s")
        during = self._during(fault, began_ms, awaited.done_ms)
        return self._written(fault, at_s, awaited.done_ms - began_ms, during)

    def _written(
        self,
        fault: Fault,
        at_s: float | None,
        recovered_ms: float | None = None,
        during: Sequence[str] = (),
        why: str = "",
    ) -> FaultLine:
        done = self._began_utc + timedelta(seconds=self.elapsed_s() if at_s is None else at_s)
        return FaultLine(
            run=self._run,
            seed=self._seed,
            number=fault.number,
            due_s=fault.due_s,
            at_s=None if at_s is None else round(at_s, 2),
            wall=done.isoformat(timespec="milliseconds"),
            action=fault.action,
            kind=fault.kind,
            target=fault.target,
            what=str(fault),
            recovered_ms=None if recovered_ms is None else round(max(0.0, recovered_ms), 1),
            during=list(during),
            why=why,
        )

    @contextmanager
    def _one_server(self, fault: Fault) -> Iterator[None]:
        if fault.kind not in (KAFKA, MINIO):
            yield
            return
        with self._servers:
            yield

    def _during(self, fault: Fault, from_ms: float, to_ms: float) -> list[str]:
        """The outages of other kinds that fall into a recovery."""
        met = {o.kind for o in self._outages if o.kind != fault.kind and o.meets(from_ms, to_ms)}
        return sorted(met)

    def _end_outage(self, fault: Fault, at_ms: float) -> None:
        """What this fault took away is there again, or given up."""
        for outage in self._outages:
            if outage.kind == fault.kind and outage.ended_ms is None:
                outage.ended_ms = at_ms

    # -- doing --------------------------------------------------------------------------------

    def _do(self, fault: Fault) -> tuple[float, Awaited]:
        """Break something; from when on it is measured, and what shows that it is back."""
        match fault.action:
            case "clock":
                return self._jump(fault)
            case "network":
                return self._spoil(fault, self._stack.servers.kafka)
            case "slow-store":
                return self._spoil(fault, self._stack.servers.minio)
            case "freeze":
                return self._freeze(fault)
            case _ if fault.kind in (KAFKA, MINIO):
                return self._kill_server(fault)
            case _ if fault.kind == SUPERVISOR:
                return self._kill_supervisor(fault)
        return self._kill(fault)

    def _kill(self, fault: Fault) -> tuple[float, Awaited]:
        boot_id = self._watch.boot_id
        self._signal(fault.target)
        return (at_ms := _now_ms()), self._back(fault, at_ms, boot_id)

    def _back(self, fault: Fault, at_ms: float, boot_id: str) -> Awaited:
        kind = fault.target.partition("@")[0].rpartition("-")[0] or fault.target.partition("@")[0]
        evidence = after_kill(kind, fault.target, at_ms, boot_id)
        if evidence is not None:
            return self._watch.expect(evidence)
        if kind == "orchestrator":
            return self._watch.expect(self._orchestrator_answers)
        return self._watch.expect(self._gate_commits())

    def _signal(self, target: str) -> int:
        """SIGKILL the process of that name as soon as there is one."""
        until_s = time.monotonic() + THERE_S
        while time.monotonic() < until_s:
            pid = self._stack.pid_of(target)
            with suppress(ProcessLookupError):
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    return pid
            if self.over.wait(_LOOK_S):
                break
        raise NotDone(f"{target} did not run")

    def _kill_supervisor(self, fault: Fault) -> tuple[float, Awaited]:
        old = set(self._learners().values())
        self._outages.append(Outage(fault.kind, at_ms := _now_ms()))
        self._signal(SUPERVISOR)
        anew = self._watch.expect(lambda: _all_new(self._learners(), old))
        if not anew.seen.wait(RECOVER_S):
            return at_ms, anew
        return at_ms, self._watch.expect(versions_of_all(world.POLICIES, anew.done_ms))

    def _learners(self) -> Mapping[str, int | None]:
        names = [name for kind in ("sampler", "trainer") for name in world.TARGETS[kind]]
        return {name: self._stack.pid_of(name) for name in names}

    def _kill_server(self, fault: Fault) -> tuple[float, Awaited]:
        self._outages.append(Outage(fault.kind, at_ms := _now_ms()))
        self._stack.servers.kill(fault.target)
        time.sleep(fault.seconds)
        self._bring_up()
        return at_ms, self._served(fault.target, at_ms)

    def _served(self, server: str, at_ms: float) -> Awaited:
        trainers = world.SCALE["trainer"]
        return self._watch.expect(after_outage(server, at_ms, world.WORDS, trainers))

    def _bring_up(self) -> None:
        until_s = time.monotonic() + RECOVER_S
        while True:
            try:
                self._stack.servers.up(lambda line: None)
                return
            except (StackError, LogError, StoreUnavailable) as error:
                self._say(f"not started: {error}")
                if time.monotonic() > until_s:
                    raise

    def _freeze(self, fault: Fault) -> tuple[float, Awaited]:
        self._outages.append(Outage(fault.kind, at_ms := _now_ms()))
        self._stack.servers.freeze(fault.target)
        try:
            time.sleep(fault.seconds)
        finally:
            self._stack.servers.thaw(fault.target)
        return at_ms, self._served(fault.target, at_ms)

    def _spoil(self, fault: Fault, way: Proxy) -> tuple[float, Awaited]:
        self._outages.append(outage := Outage(fault.kind, _now_ms()))
        try:
            if fault.toxic == "down":
                way.down()
            else:
                attributes: dict[str, Any] = dict(fault.attributes)
                way.toxic(fault.toxic, **attributes)
            time.sleep(fault.seconds)
        finally:
            way.clear()
            way.up()
        outage.ended_ms = _now_ms()
        return outage.ended_ms, self._served(fault.target, outage.ended_ms)

    def _jump(self, fault: Fault) -> tuple[float, Awaited]:
        pid, boot_id = self._stack.pid_of(fault.target), self._watch.boot_id
        if pid is None:
            raise NotDone(f"{fault.target} did not run")
        with self._clocks:
            jumps = clock.read(self._stack.clock_file)
            jumps[str(pid)] = jumps.get(str(pid), 0.0) + fault.jump_s
            clock.write(self._stack.clock_file, jumps)
        return (at_ms := _now_ms()), self._back(fault, at_ms, boot_id)

    # -- what the log does not tell -------------------------------------------------------------

    def _orchestrator_answers(self) -> bool:
        url = f"http://{self._stack.views}/health"
        with urllib.request.urlopen(url, timeout=_ASK_S) as answer:
            return bool(json.loads(answer.read())["status"] == "ok")

    def _gate_commits(self) -> Callable[[], bool]:
        """Whether the gate's group has gone past where the evaluations end now."""
        number = partition_for(world.ARM.encode(), EVALUATIONS.partitions)
        ends: dict[int, int] = {}
        home = TopicPartition(EVALUATIONS.name, number)

        def committed() -> bool:
            if not ends:
                all_ends = self._stack.log.ends(EVALUATIONS.name)
                ends.update({p.number: end for p, (_, end) in all_ends.items()})
            (found,) = self._gate.committed([home], timeout=_ASK_S)
            return bool(found.offset > ends[number])

        return committed


def _all_new(now: Mapping[str, int | None], old: set[int | None]) -> bool:
    return all(pid is not None and pid not in old for pid in now.values())


def _now_ms() -> float:
    return time.time() * 1000
