"""One seed from its beginning to its judgement."""

import hashlib
import time
from dataclasses import dataclass

from sim_acting import acting_world
from sim_judge import judge, judge_robot
from sim_learning import are_drained, empty, forget_files, prepared, staff
from sim_misfortunes import befall
from sim_people import ask, robot_mission
from sim_world import Odds, Tally, World

from infra.memory.cluster import MemoryCluster


@dataclass
class Outcome:
    """What is reported of a seed."""

    seed: int
    scenario: str
    tally: Tally
    events: int
    log_sha256: str
    cpu_s: float


def run_seed(seed: int, details: bool = False, planted: Odds | None = None) -> Outcome:
    """Run a seed; its breaches are in the tally.

    With `details` the hash of its log is computed. With `planted`, the odds for finding a
    planted bug, it is one of the learning loop, and proofs, which take long, are left out.
    """
    began = time.process_time()
    scenario = "control" if planted else scenario_of(seed)
    odds = planted or Odds()
    world: World = (
        acting_world(seed) if scenario == "robot" else learning_world(seed, scenario, odds)
    )
    world.run()
    if scenario == "robot":
        judge_robot(world)
    elif not world.tally.breaches:
        judge(world, proofs=seed % 20 == 0 and not planted)
    events = sum(
        entry.message is not None
        for partitions in world.cluster.topics.values()
        for part in partitions
        for entry in part._entries
    )
    sha256 = content_sha256(world.cluster) if details else ""
    return Outcome(seed, scenario, world.tally, events, sha256, time.process_time() - began)


def scenario_of(seed: int) -> str:
    """Which loop a seed simulates: mostly the cheapest."""
    if seed % 5 == 1:
        return "robot"
    return "tokens" if seed % 50 == 7 else "control"


def learning_world(seed: int, scenario: str, odds: Odds) -> World:
    """The learning loop, begun anew or from version 0 on."""
    base = prepared(scenario)
    forget_files()
    cold = seed % 20 == 3
    world = World(seed, *(empty() if cold else base).fork(), odds)
    if cold:
        world.submit(base.mission)
    doubled = world.random.random() < 0.4
    missions = ask(world, base.mission, storm_s := world.random.uniform(3.0, 12.0))
    staff(world, "provider")
    staff(world, "sampler", 1 + doubled)
    staff(world, "trainer", 1 + doubled)
    staff(world, "aggregator")
    if world.random.random() < 0.15:
        staff(world, "evaluator")
        staff(world, "gate")
        if scenario == "control":
            world.submit(robot_mission())
    world.begin_storm(storm_s)
    befall(world, storm_s, world.random.randint(0, 6))
    world.is_done = lambda: are_drained(world, missions)
    return world


def content_sha256(cluster: MemoryCluster) -> str:
    """The hash of all that a log holds: records, markers, stamps, ends of transactions."""
    found = hashlib.sha256()
    for _, partitions in sorted(cluster.topics.items()):
        for part in partitions:
            for entry in part._entries:
                state = entry.transaction.state if entry.transaction else ""
                found.update(f"{part.name} {entry.timestamp_ms} {state} {entry.message!r}".encode())
    return found.hexdigest()
