"""One fault run from its start to its books: missions that follow one another, faults, the end."""

import os
import platform
import threading
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

import psutil

from consumers.reliability.ledger import Books, FaultLine, Machine, Proof, RunLine
from consumers.reliability.schedule import KINDS, schedule
from infra.cli import chaos_world as world
from infra.cli.chaos_faults import Faults
from infra.cli.chaos_stack import ChaosStack, Say
from infra.cli.chaos_watch import Watch
from infra.code_version import fingerprint
from infra.envelope import message
from infra.log import LogError
from schemas.acting import OperatorOrder
from schemas.base import Event
from schemas.missions import MissionControl

SAY_EVERY_S = 5.0
READY_S = 300.0
DRAIN_S = 150.0
RESET_EVERY_S = 2.0
_LOOK_S = 0.25


class ChaosError(Exception):
    """The run cannot go on; says why."""


class Missions:
    """Keeps a learning mission of each policy going, one behind it, and the robot out of HOLD."""

    def __init__(self, stack: ChaosStack, watch: Watch) -> None:
        self._stack, self._watch = stack, watch
        self._submitted: list[str] = []
        self._waiting: list[Event] = [world.robot_mission()]
        self._ending = False
        self._reset_next_s = 0.0

    def look(self) -> None:
        """Submit what is due; what the broker does not take now is submitted later."""
        if not self._ending:
            for policy in world.POLICIES:
                self._follow(policy)
        self._reset()
        try:
            while self._waiting:
                self._stack.log.append([message(self._waiting[0])])
                self._waiting.pop(0)
        except LogError:
            # The broker is away. A mission that it has taken all the same is one mission.
            return

    def _follow(self, policy: str) -> None:
        mine = [name for name in self._submitted if name.startswith(f"{policy}-")]
        going = [name for name in mine if name not in self._watch.results]
        if len(going) < 2:
            mission = world.learning_mission(policy, len(mine) + 1, self._stack.folder)
            self._submitted.append(mission.mission_id)
            self._waiting.append(mission)

    def _reset(self) -> None:
        """A person's word after a robot has stopped because its processes died."""
        now_s = time.monotonic()
        if self._watch.mode in ("HOLD", "SAFE_STOP") and now_s >= self._reset_next_s:
            self._reset_next_s = now_s + RESET_EVERY_S
            order_id = f"reset-{int(now_s * 1000)}"
            self._waiting.append(
                OperatorOrder(robot_id=world.ROBOT, order_id=order_id, action="reset")
            )

    def end(self) -> None:
        """Have all of them end, the robot's too."""
        self._ending = True
        for name in self.open():
            self._waiting.append(MissionControl(mission_id=name, action="end", reason="the end"))
        self._waiting.append(
            MissionControl(mission_id=world.MOVES, action="cancel", reason="the end")
        )

    def open(self) -> list[str]:
        """The learning missions without a result."""
        return [name for name in self._submitted if name not in self._watch.results]

    def count(self) -> int:
        """How many learning missions have come to their result."""
        return len(self._submitted) - len(self.open())


class ChaosRun:
    """One run; `stop` ends its faults early, and it goes on to the books."""

    def __init__(
        self,
        stack: ChaosStack,
        run: int,
        seed: int,
        minutes: float,
        kinds: Sequence[str],
        pace: float,
        note: Callable[[FaultLine], None],
        say: Say,
    ) -> None:
        self._stack, self._note, self._say = stack, note, say
        self._run, self._seed, self._minutes = run, seed, minutes
        self._kinds, self._pace = list(kinds), pace
        self._plan = schedule(seed, 60 * minutes, world.TARGETS, kinds or KINDS, pace)
        self._watch = Watch(stack.log)
        self._missions = Missions(stack, self._watch)
        self._breaches: list[str] = []
        self.stop = threading.Event()
        self._began = time.monotonic()
        self._began_utc = datetime.now(UTC)
        self._said_s = 0.0

    def break_things(self) -> list[FaultLine]:
        """Have everything at work, then do all faults; what became of each."""
        self._stack.start()
        self._until(self._is_at_work, READY_S, "not everything is at work")
        self._say(f"all at work; {len(self._plan)} faults in {self._minutes:g} min:")
        for fault in self._plan:
            self._say(f"  {fault.due_s:7.2f} s  {fault}")
        faults = Faults(self._stack, self._watch, self._run, self._seed, self._note, self._say)
        faults.begin(self._plan)
        while faults.elapsed_s() < 60 * self._minutes and not self.stop.is_set():
            self._turn(faults)
            if faults.broken.is_set():
                break
        ending = threading.Thread(target=faults.end, daemon=True)
        ending.start()
        while ending.is_alive():
            self._turn(faults)
        if faults.failure is not None:
            raise ChaosError(f"a fault could not be done: {faults.failure!r}") from faults.failure
        return faults.lines

    def drain(self) -> None:
        """End the missions, and stop all processes once nothing is on its way."""
        self._say("no more faults; ending the missions")
        self._missions.end()
        try:
            self._until(self._is_drained, DRAIN_S, "the missions do not end")
        except ChaosError as error:
            self._say(str(error))
            self._breaches.append(str(error))
        self._stack.stop_robots()
        time.sleep(2.0)
        self._stack.stop()
        self._watch.close()

    def _is_drained(self) -> bool:
        return not self._missions.open() and world.MOVES in self._watch.results

    def _is_at_work(self) -> bool:
        made = all(self._watch.versions[policy] > 1 for policy in world.POLICIES)
        names = [name for names in world.TARGETS.values() for name in names]
        return made and all(self._stack.pid_of(name) is not None for name in names)

    def _until(self, reached: Callable[[], bool], limit_s: float, what: str) -> None:
        until_s = time.monotonic() + limit_s
        while not reached():
            self._turn(None)
            if time.monotonic() > until_s:
                raise ChaosError(f"{what} after {limit_s:.0f} s: {self._why()}")

    def _why(self) -> str:
        missing = [
            name
            for names in world.TARGETS.values()
            for name in names
            if self._stack.pid_of(name) is None
        ]
        where = self._stack.folder / "logs"
        return f"open: {self._missions.open()}; not running: {missing}; their logs are in {where}"

    def _turn(self, faults: Faults | None) -> None:
        """A moment of the run."""
        self._stack.keep_supervisor()
        self._missions.look()
        now_s = time.monotonic()
        if now_s - self._said_s > SAY_EVERY_S:
            self._said_s = now_s
            self._say(self._line(faults))
        time.sleep(_LOOK_S)

    def _line(self, faults: Faults | None) -> str:
        watch = self._watch
        words = [
            f"{time.monotonic() - self._began:5.0f} s",
            f"{watch.samples:,} samples",
            f"{sum(watch.versions.values()):,} versions",
        ]
        if faults is not None:
            done = [line for line in faults.lines if line.at_s is not None]
            kills = sum(line.action == "kill" for line in done)
            words.append(f"{kills} kills and {len(done) - kills} other faults survived")
        return ", ".join(words)

    def books(self) -> Books:
        """Balance the books of the whole log and store."""
        from consumers.audit.log import audit_log
        from consumers.audit.store import StoreChecker
        from consumers.reliability.books import books_of

        self._say("balancing the books")
        return books_of(audit_log(self._stack.log, StoreChecker(self._stack.store)))

    def line(self, faults: Collection[FaultLine], books: Books, proofs: list[Proof]) -> RunLine:
        """The run's line of the ledger, with all that is not as promised."""
        from consumers.reliability.books import breaches_of

        return RunLine(
            run=self._run,
            seed=self._seed,
            began=self._began_utc.isoformat(timespec="seconds"),
            minutes=self._minutes,
            kinds=self._kinds,
            pace=self._pace,
            interrupted=self.stop.is_set(),
            seconds=round(time.monotonic() - self._began, 1),
            machine=machine(),
            code=fingerprint(),
            samples=self._watch.samples,
            versions=sum(self._watch.versions.values()),
            missions=self._missions.count(),
            books=books,
            proofs=proofs,
            breaches=[*self._breaches, *breaches_of(faults, books, proofs)],
        )


def machine() -> Machine:
    """This machine."""
    return Machine(
        cpus=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        platform=platform.platform(),
        python=platform.python_version(),
    )
