"""What is broken when: a pure function of a seed.

A schedule is a set of lanes, one a kind: the faults of a lane follow one another, those of
different lanes overlap as chance has it. Each lane draws from random numbers of its own, so leaving
one out changes no other.
"""

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Action = Literal["kill", "freeze", "network", "slow-store", "clock"]

PROCESSES = (
    "provider",
    "orchestrator",
    "sampler",
    "trainer",
    "aggregator",
    "evaluator",
    "gate",
    "world",
    "actuator",
    "link",
    "fusion",
    "controller",
)
"""The kinds of processes, each a lane."""
SUPERVISOR, KAFKA, MINIO = "supervisor", "kafka", "minio"
NETWORK, SLOW_STORE, CLOCK = "network", "slow-store", "clock"
KINDS = (*PROCESSES, SUPERVISOR, KAFKA, MINIO, NETWORK, SLOW_STORE, CLOCK)

EVERY_S: Mapping[str, float] = {
    **dict.fromkeys(PROCESSES, 18.0),
    SUPERVISOR: 150.0,
    KAFKA: 110.0,
    MINIO: 90.0,
    NETWORK: 45.0,
    SLOW_STORE: 50.0,
    CLOCK: 30.0,
}
"""How far apart the faults of a lane are on average, where each has recovered before the next."""
LEAST_A_LANE = 1.5
"""Faults that a short run schedules in each lane, on average and at least."""
CLOCKED = ("provider", "sampler", "trainer", "aggregator", "evaluator", "gate", "fusion")
"""The kinds whose clocks jump: those that go by clocks of their own at all."""
JUMPS_S = (-3600.0, -30.0, -1.0, 1.0, 30.0, 3600.0)

Targets = Mapping[str, Sequence[str]]
"""The processes of each kind, by name."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is broken; `seconds` is how long it lasts, 0 a moment."""

    number: int
    due_s: float
    action: Action
    kind: str
    """The lane."""
    target: str
    """The process, the server, or the way to it."""
    seconds: float = 0.0
    toxic: str = ""
    attributes: Mapping[str, int] = field(default_factory=dict)
    jump_s: float = 0.0

    def __str__(self) -> str:
        """One line for a person."""
        what = f"{self.action} {self.target}"
        if self.toxic:
            values = " ".join(f"{name}={value}" for name, value in self.attributes.items())
            what += f" {self.toxic} {values}".rstrip()
        if self.jump_s:
            what += f" by {self.jump_s:+g} s"
        return f"{what} for {self.seconds:.1f} s" if self.seconds else what


def schedule(
    seed: int,
    seconds: float,
    targets: Targets,
    kinds: Collection[str] = KINDS,
    pace: float = 1.0,
) -> list[Fault]:
    """All faults of a run, in order; `targets` names the processes of each kind.

    With `pace` they are so many times as often. Raises ValueError for a kind that there is not.
    """
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"no kind {', '.join(sorted(unknown))}: there are {', '.join(KINDS)}")
    faults = [
        fault
        for kind in KINDS
        if kind in kinds
        for fault in _lane(kind, f"{seed}/{kind}", EVERY_S[kind] / pace, seconds, targets)
    ]
    ordered = sorted(faults, key=lambda fault: (fault.due_s, KINDS.index(fault.kind)))
    return [replace(fault, number=number) for number, fault in enumerate(ordered)]


def _lane(kind: str, seed: str, every_s: float, seconds: float, targets: Targets) -> list[Fault]:
    chance, every_s = random.Random(seed), min(every_s, seconds / LEAST_A_LANE)
    faults: list[Fault] = []
    due_s = every_s * chance.uniform(0.2, 1.0)
    while due_s < seconds:
        faults.append(_fault(kind, math.floor(100 * due_s) / 100, chance, targets))
        due_s += every_s * chance.uniform(0.5, 1.5)
    return faults


def _fault(kind: str, due_s: float, chance: random.Random, targets: Targets) -> Fault:
    if kind == KAFKA or (kind == MINIO and chance.random() < 0.5):
        return Fault(0, due_s, "kill", kind, kind, seconds=round(chance.uniform(0.2, 3), 1))
    if kind == MINIO:
        return Fault(0, due_s, "freeze", kind, MINIO, seconds=round(chance.uniform(2, 6), 1))
    if kind == NETWORK:
        return _network(due_s, chance)
    if kind == SLOW_STORE:
        return _slow_store(due_s, chance)
    if kind == CLOCK:
        target = chance.choice(targets[chance.choice(CLOCKED)])
        return Fault(0, due_s, "clock", kind, target, jump_s=chance.choice(JUMPS_S))
    names = (SUPERVISOR,) if kind == SUPERVISOR else targets[kind]
    return Fault(0, due_s, "kill", kind, chance.choice(names))


def _network(due_s: float, chance: random.Random) -> Fault:
    """Something on the way to the broker; `down` breaks all connections and takes no new ones."""
    toxic, attributes = chance.choice(
        (
            ("latency", {"latency": chance.randint(20, 300), "jitter": chance.randint(0, 100)}),
            ("bandwidth", {"rate": chance.randint(50, 500)}),
            ("reset_peer", {"timeout": chance.randint(0, 500)}),
            ("slicer", {"average_size": 100, "size_variation": 50, "delay": 10}),
            ("down", {}),
        )
    )
    seconds = round(chance.uniform(1, 5), 1)
    return Fault(0, due_s, "network", NETWORK, KAFKA, seconds, toxic, attributes)


def _slow_store(due_s: float, chance: random.Random) -> Fault:
    toxic, attributes = chance.choice(
        (
            ("latency", {"latency": chance.randint(50, 1000), "jitter": chance.randint(0, 200)}),
            ("bandwidth", {"rate": chance.randint(20, 500)}),
            ("reset_peer", {"timeout": chance.randint(0, 500)}),
            ("down", {}),
        )
    )
    seconds = round(chance.uniform(1, 6), 1)
    return Fault(0, due_s, "slow-store", SLOW_STORE, MINIO, seconds, toxic, attributes)
