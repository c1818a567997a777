"""A world of processes on a log and a store in memory, and what befalls them, by a seed.

While the storm lasts, processes are killed, frozen, doubled and stopped, sessions and transactions
end, and requests to broker and store go wrong. Then it is calm, and all must come to its end.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sim_store import Weather
from sim_time import Killed, Task, Time

from infra import envelope
from infra.memory.cluster import Faults, MemoryCluster
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from schemas.base import Event

SESSION_S = 10.0
"""After so long without a sign of life a process is out of its group, its transaction aborted."""
TORN = ("provider", "sampler", "trainer", "aggregator")
"""Whose outputs may be committed without their offsets: what they then publish again is known."""
LATE_MAX_S = 20.0
QUIET_S = 4.0
LIMIT_S = 500.0


@dataclass(frozen=True)
class Odds:
    """How likely it is, at each point that is passed while the storm lasts."""

    kill: float = 0.03
    freeze: float = 0.005
    others: float = 0.1
    """That others go on meanwhile."""
    freeze_max_s: float = 3 * SESSION_S
    away_max_s: tuple[float, ...] = (0.5, 3.0, 2 * SESSION_S)
    """How long it takes at most until a process that ended is started again: one of these."""
    twice: float = 0.04
    """That a copy of a commit request is kept back, at each commit."""
    torn: float = 0.5
    """That a commit request which was kept back arrives between outputs and offsets of the next."""


@dataclass
class Tally:
    """What happened in a seed."""

    passed: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    history: list[str] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)


class Life:
    """One process, from its start to its end, however that comes."""

    def __init__(self, slot: "Slot") -> None:
        self.slot, self.world, self.name = slot, slot.world, slot.name
        self.stopping = False
        self.task: Task = self.world.time.spawn(slot.name, self._live)

    @property
    def current(self) -> bool:
        """Whether its supervisor knows no newer one."""
        return self.slot.life is self

    def at(self, point: str, often: bool = False) -> None:
        """Told of each point that it passes; raises `Killed`, seldom where it is passed often."""
        self.world.passed(self, point, 0.02 if often else 1.0)

    def is_set(self) -> bool:
        """Whether it was told to stop: what a process's event is asked."""
        return self.stopping

    def _live(self) -> None:
        try:
            self.slot.work(self)
        except Killed:
            self.world.say(f"{self.name} is dead")
        except Exception as error:
            self.world.breach(f"{self.name} died of {type(error).__name__}: {error}")
        self.slot.ended(self)


class Slot:
    """A place for one process, which is started again whenever it has ended."""

    def __init__(
        self, world: "World", kind: str, number: int, work: Callable[[Life], None], group: str = ""
    ) -> None:
        self.world, self.kind, self.name, self.work = world, kind, f"{kind}-{number}", work
        self._transactional_id = f"{group}.{self.name}" if group else ""
        self.life: Life | None = None

    def start(self) -> None:
        """Start a process, whatever became of the one before."""
        self.world.say(f"{self.name} starts")
        self.life = Life(self)
        self.world.lives.append(self.life)

    def ended(self, life: Life) -> None:
        """Start it again; where that takes longer than a session, its partitions move."""
        if not life.current:
            # The newest with its name may be this one: the broker ends what it left open.
            self.world.time.call(SESSION_S, self.time_out)
            return
        world, away_s = self.world, 0.5
        if world.storm:
            away_s = world.random.choice(world.odds.away_max_s) * world.random.random()
        world.time.call(SESSION_S, lambda: self.expire() if life.current else None)
        world.time.call(away_s, self.start)

    def is_late(self) -> bool:
        """Whether a request of its to commit is on its way still."""
        return any(id == self._transactional_id for id, _ in self.world.cluster._late)

    def expire(self) -> None:
        """What the broker does when it has heard nothing for too long."""
        if self._transactional_id:
            self.world.say(f"{self.name}: its session and its transaction are over")
            self.world.log.expire(self.name)
            self.time_out()

    def time_out(self) -> None:
        """End its transaction, as the broker does after a time."""
        if self._transactional_id:
            self.world.log.time_out(self._transactional_id)


class World:
    """Log, store and processes of one seed."""

    def __init__(self, seed: int, cluster: MemoryCluster, store: MemoryStore, odds: Odds) -> None:
        self.random = random.Random(seed)
        self.time, self.tally, self.odds = Time(), Tally(), odds
        self.cluster, self.store = cluster, store
        cluster.now, cluster.wait = self.time.now, self.idle
        self.log = MemoryLog("", cluster)
        self.weather = Weather(self.time.sleep)
        self.slots: list[Slot] = []
        self.lives: list[Life] = []
        self.storm = False
        self.is_done: Callable[[], bool] = lambda: True
        self.quiet_s, self.limit_s, self.look_s = QUIET_S, LIMIT_S, 1.0
        self._seen = (0, 0.0)
        self._over = False

    # -- what processes do ------------------------------------------------------------------

    def passed(self, life: Life, point: str, share: float = 1.0) -> None:
        """A process comes by a point at which things may happen to it."""
        name = f"{life.slot.kind}: {point}"
        self.tally.passed[name] += 1
        if not self.storm:
            return
        odds, drawn = self.odds, self.random.random() / share
        if point == "sent_offsets" and self.random.random() < odds.twice:
            self.fault("request twice", f"{life.name}: a copy of its request to commit is late")
            self.cluster.faults.repeat_next_commit = 1
            self.time.call(self.random.random() * LATE_MAX_S, self.log.deliver_late)
        torn = point == "sent_outputs" and life.slot.kind in TORN and life.slot.is_late()
        if torn and drawn < odds.torn:
            self.fault("torn", f"{life.name}: an old request to commit arrives at {point}")
            self.log.deliver_late()
            drawn = self.random.random() / 25
        if drawn < odds.kill:
            self.tally.killed[name] += 1
            self.say(f"{life.name} is killed at {point}")
            raise Killed
        if drawn < odds.kill + odds.freeze:
            self._freeze(life, point)
        elif drawn < odds.kill + odds.freeze + odds.others:
            self.time.sleep(self.random.random())

    def idle(self, seconds: float) -> None:
        """Wait, longer than asked for: a moment without work is of no interest."""
        if seconds > 0:
            self.time.sleep(max(seconds, self.random.uniform(0.4, 1.6)))

    def _freeze(self, life: Life, where: str) -> None:
        """A process does not go on for a while, and may be taken for dead meanwhile."""
        self.fault("freeze", f"{life.name} is frozen at {where}")
        frozen = [True]
        self.time.call(
            SESSION_S, lambda: life.slot.expire() if frozen[0] and life.current else None
        )
        self.time.sleep(self.random.uniform(0.1, 1.0) * self.odds.freeze_max_s)
        frozen[0] = False

    # -- storm and calm ---------------------------------------------------------------------

    def begin_storm(self, seconds: float) -> None:
        """Let things happen from now on, for so long."""
        self.storm = True
        self.time.call(seconds, self._calm)

    def _calm(self) -> None:
        self.say("calm from here on")
        self.storm = False
        self.cluster.faults = Faults()
        self.log.deliver_late()
        self.weather.clear()
        for life in self.lives:
            if not life.current:
                self.time.kill(life.task)
        self._watch()

    def _watch(self) -> None:
        """Stop once nothing has been written for a while and all is done."""
        size = sum(part.end for parts in self.cluster.topics.values() for part in parts)
        if size != self._seen[0]:
            self._seen = (size, self.time.now_s)
        settled = not any(one.transaction for one in self.cluster._producers.values())
        quiet = settled and self.time.now_s - self._seen[1] >= self.quiet_s
        if quiet and len(self.living()) == len(self.slots) and self.is_done():
            self.time.stop()
        else:
            self.time.call(self.look_s, self._watch)

    def run(self) -> None:
        """Let all processes work until they are done."""
        for slot in self.slots:
            slot.start()
        try:
            if not self.time.run(self.limit_s):
                self.breach(f"not done after {self.limit_s:.0f} s")
        finally:
            self.storm, self._over = False, True
            self.time.close()

    def living(self) -> list[Life]:
        """The newest process of each slot that has one alive."""
        lives = [slot.life for slot in self.slots]
        return [life for life in lives if life is not None and not life.task.ended]

    # -- what is told -----------------------------------------------------------------------

    def submit(self, *events: Event) -> None:
        """Append events, as a person does."""
        self.log.append([envelope.message(event) for event in events])

    def fault(self, name: str, text: str) -> None:
        """Note that something goes wrong now."""
        self.tally.faults[name] += 1
        self.say(text)

    def say(self, text: str) -> None:
        """Note what happens, for whoever wants to know why a seed fails."""
        if not self._over:
            self._note(text)

    def _note(self, text: str) -> None:
        self.tally.history.append(f"{self.time.now_s % 1e5:9.2f} s  {text}")

    def breach(self, text: str) -> None:
        """Note what must not be."""
        self._note(f"BREACH {text}")
        self.tally.breaches.append(text)
