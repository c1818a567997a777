"""Where the effects of a record are to be looked for: the inverse of `consumers.trace.causes`."""

from collections.abc import Iterator

from consumers.deadletters.book import REQUEUE_OF
from consumers.trace.looking import Look, Test, Until
from consumers.trace.nodes import Node
from schemas.partitioner import partition_for
from schemas.records import Partition, parse_at
from schemas.topics import (
    COMMANDS,
    DEAD_LETTERS,
    EVALUATIONS,
    FEEDBACK,
    FUSED_STATES,
    GRADIENT_CHUNKS,
    MISSION_RESULTS,
    MISSIONS,
    PROBLEMS,
    RELEASES,
    SAFETY_EVENTS,
    SAMPLES,
    WEIGHT_HEADS,
    WEIGHT_VERSIONS,
    Topic,
)

SLACK_MS = 600_000
"""Clocks of machines differ: effects are looked for from so long before their cause on."""
LIVE_SLACK_MS = 30_000
"""The same of robots, whose topics are dense."""


def looks_for(node: Node, is_root: bool) -> Iterator[Look]:
    """Where to look for the effects of a record; of the root also who it only lent its name to."""
    if not node.at:
        return
    partition, offset = parse_at(node.at)
    buried_ms = node.timestamp_ms - SLACK_MS
    yield Look(Partition(DEAD_LETTERS.name, 0), Test("at", node.at), since_ms=buried_ms)
    yield from _of_learning(node, partition, offset)
    yield from _of_acting(node, partition, offset)
    if is_root:
        yield from _of_root(node, partition, offset)


def _of_learning(node: Node, partition: Partition, offset: int) -> Iterator[Look]:
    policy, since_ms = str(node.facts.get("policy", "")), node.timestamp_ms - SLACK_MS
    match node.name.kind:
        case "mission":
            test = Test("mission_id", node.name.id)
            yield from _in((MISSIONS, MISSION_RESULTS), test)
            if policy:
                yield from _in((PROBLEMS,), test)
                first = Until("version", 0, policy.encode())
                yield _one(WEIGHT_VERSIONS, policy, test, None, first)
        case "problem":
            done = Until(str(partition), offset, policy=policy)
            same = Partition(SAMPLES.name, partition.number)
            test = Test("problem_id", node.name.id)
            yield Look(same, test, since_ms=since_ms, until=done)
        case "group":
            done = Until(str(partition), offset, policy.encode())
            yield _one(GRADIENT_CHUNKS, policy, Test("at", node.at), since_ms, done)
        case "upload" | "rollback" | "close-step":
            done = Until(str(partition), offset, policy.encode())
            yield _one(WEIGHT_VERSIONS, policy, Test("policy", policy), since_ms, done)
        case "version":
            test = Test("version", int(node.facts["version"]))
            yield _one(EVALUATIONS, policy, test)
            yield from _in((RELEASES,), test)
        case "dead-letter":
            # What was sent again keeps its partition, and the time that it had at first.
            origin, after = parse_at(node.name.id)
            yield Look(origin, Test(REQUEUE_OF, node.at, in_header=True), after)
            yield Look(partition, Test("letter", node.at), offset)
        case "evaluation":
            yield from _in((RELEASES,), Test("version", int(node.facts["version"])))


def _of_acting(node: Node, partition: Partition, offset: int) -> Iterator[Look]:
    robot, since_ms = str(node.facts.get("robot", "")), node.timestamp_ms - LIVE_SLACK_MS
    match node.name.kind:
        case "frame" | "state":
            topic = FUSED_STATES if node.name.kind == "frame" else COMMANDS
            done = Until(str(partition), offset, robot.encode())
            yield _one(topic, robot, Test("robot_id", robot), since_ms, done)
        case "command":
            done = Until("commands_next", offset, robot.encode())
            yield _one(FEEDBACK, robot, Test("at", node.at), since_ms, done)
        case "order":
            # An order is named inside a sentence, so all that robot's events are opened.
            yield _one(SAFETY_EVENTS, robot, Test("robot_id", robot), since_ms)
        case "release":
            yield _one(RELEASES, robot, Test("release_id", node.name.id))


def _of_root(node: Node, partition: Partition, offset: int) -> Iterator[Look]:
    since_ms = node.timestamp_ms - SLACK_MS
    match node.name.kind:
        case "version":
            policy, version = str(node.facts["policy"]), int(node.facts["version"])
            for field in ("parent", "versions"):
                yield _one(WEIGHT_VERSIONS, policy, _version_in(field, version), since_ms)
            yield _one(WEIGHT_HEADS, policy, Test("version", version))
            for field in ("base_version", "to_version"):
                yield _one(GRADIENT_CHUNKS, policy, Test(field, version), since_ms)
            yield from _in((SAMPLES,), Test("version", version), since_ms)
            yield from _in((MISSION_RESULTS,), Test("final_version", version))
        case "mission" if "robots" not in node.facts:
            policy = str(node.facts["policy"])
            yield _one(GRADIENT_CHUNKS, policy, Test("type", "close-step"), since_ms)
        case "mission":
            test = Test("mission_id", node.name.id)
            for robot in node.facts["robots"]:
                yield _one(COMMANDS, robot, test, node.timestamp_ms - LIVE_SLACK_MS)
        case "claim":
            robot = str(node.facts["robot"])
            done = Until("controller_epoch", offset, robot.encode())
            yield Look(partition, Test("controller_epoch", offset), offset, until=done)
        case "release" if node.facts["stage"] == "SWAPPED":
            robot, test = str(node.facts["robot"]), Test("policy", str(node.facts["policy"]))
            yield _one(COMMANDS, robot, test, node.timestamp_ms - LIVE_SLACK_MS)


def _version_in(field: str, version: int) -> Test:
    """An expiry lists its versions, which no test of one field finds: all expiries are opened."""
    return Test("type", "versions-expired") if field == "versions" else Test(field, version)


def _in(topics: tuple[Topic, ...], test: Test, since_ms: int | None = None) -> Iterator[Look]:
    for topic in topics:
        for number in range(topic.partitions):
            yield Look(Partition(topic.name, number), test, since_ms=since_ms)


def _one(
    topic: Topic, key: str, test: Test, since_ms: int | None = None, until: Until | None = None
) -> Look:
    number = partition_for(key.encode(), topic.partitions)
    return Look(Partition(topic.name, number), test, since_ms=since_ms, until=until)
