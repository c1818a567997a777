"""Where a name is to be found: which partitions, and by which field."""

from collections.abc import Iterator
from dataclasses import replace

from consumers.trace.looking import Look, Test
from consumers.trace.nodes import Name
from schemas.partitioner import partition_for
from schemas.records import Partition
from schemas.topics import (
    COMMANDS,
    DEAD_LETTERS,
    EVALUATIONS,
    FEEDBACK,
    FUSED_STATES,
    GRADIENT_CHUNKS,
    MISSIONS,
    PROBLEMS,
    RELEASES,
    SAFETY_EVENTS,
    SAMPLES,
    SENSOR_FRAMES,
    WEIGHT_VERSIONS,
    Topic,
)

KINDS = {
    "mission": "MISSION",
    "problem": "PROBLEM",
    "group": "PROBLEM.USE",
    "upload": "UPLOAD",
    "version": "POLICY@N",
    "evaluation": "POLICY@N",
    "rollback": "REQUEST",
    "release": "RELEASE",
    "frame": "ROBOT.BOOT.SEQ",
    "state": "ROBOT.BOOT.FRAME",
    "command": "ROBOT.EPOCH.SEQ",
    "feedback": "ROBOT.BOOT.SEQ",
    "safety": "ROBOT.SEQ",
    "order": "ORDER",
    "dead-letter": "PLACE",
}
"""What can be named as `kind:id`, and how the id is made."""


def where(name: Name) -> Iterator[Look]:
    """Where records of this name can be; nothing where the id cannot be of this kind."""
    first, _, last = name.id.rpartition(".")
    match name.kind:
        case "mission":
            yield from _in(MISSIONS, Test("mission_id", name.id))
        case "problem":
            yield from _in(PROBLEMS, Test("problem_id", name.id), name.id)
        case "group" if last.isdigit():
            yield from _in(SAMPLES, Test("problem_id", first), first)
        case "upload":
            yield from _in(GRADIENT_CHUNKS, Test("upload_id", name.id))
        case "rollback":
            yield from _in(GRADIENT_CHUNKS, Test("request_id", name.id))
        case "version" | "evaluation":
            yield from _of_version(name)
        case "release":
            yield from _in(RELEASES, Test("release_id", name.id))
        case "order":
            robot, _, order = name.id.rpartition(" ")
            yield from _in(COMMANDS, Test("order_id", order), robot or None)
        case "dead-letter":
            yield from _in(DEAD_LETTERS, Test("at", name.id))
        case "offer" | "swap":
            yield from _of_release(name)
        case _:
            yield from _of_robot(name, first, last)


def _of_version(name: Name) -> Iterator[Look]:
    policy, _, number = name.id.rpartition("@")
    if not policy or not number.isdigit():
        return
    version = Test("version", int(number))
    if name.kind == "evaluation":
        yield from _in(EVALUATIONS, version, policy)
        return
    # No version is written before those below it, so it lies at its own number or later.
    for look in _in(WEIGHT_VERSIONS, version, policy):
        yield replace(look, start=int(number), one=True)


def _of_release(name: Name) -> Iterator[Look]:
    robot, _, id_ = name.id.partition(" ")
    if name.kind == "offer":
        yield from (
            replace(look, one=True) for look in _in(RELEASES, Test("release_id", id_), robot)
        )
    else:
        yield from _in(RELEASES, Test("version", int(id_.rpartition("@")[2])), robot)


def _of_robot(name: Name, first: str, last: str) -> Iterator[Look]:
    robot, _, middle = first.rpartition(".")
    topics = {"frame": SENSOR_FRAMES, "state": FUSED_STATES, "feedback": FEEDBACK}
    if not first or not last.isdigit():
        return
    if name.kind == "safety":
        yield from _in(SAFETY_EVENTS, Test("seq", int(last)), first)
    elif name.kind == "command" and robot and middle.isdigit():
        # Its epoch is the offset of a claim before it.
        for look in _in(COMMANDS, Test("seq", int(last)), robot):
            yield replace(look, start=int(middle), one=True)
    elif name.kind in topics and robot:
        field = "frame_seq" if name.kind == "state" else "seq"
        # These topics are long, and a copy of a record comes after it.
        for look in _in(topics[name.kind], Test(field, int(last)), robot):
            yield replace(look, one=True)


def _in(topic: Topic, test: Test, key: str | None = None) -> Iterator[Look]:
    """All partitions of a topic, or the one of a key."""
    mine = None if key is None else partition_for(key.encode(), topic.partitions)
    for number in range(topic.partitions) if mine is None else (mine,):
        yield Look(Partition(topic.name, number), test)
