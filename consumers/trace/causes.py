"""What each event names as its causes: the only place that knows how events are linked."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from consumers.deadletters.book import REQUEUE_OF
from consumers.trace.nodes import Name
from infra.copying import REPLAY_OF
from schemas import acting, learning, missions
from schemas.base import Event, Sources
from schemas.partitioner import partition_for
from schemas.records import Partition, Record
from schemas.topics import COMMANDS, FUSED_STATES, GRADIENT_CHUNKS, PROBLEMS, SENSOR_FRAMES, Topic

CHILD = "continues"
"""How a version is linked to its parent."""
LEARNS = "learns from"
"""How an upload is linked to its groups."""
MADE_BY = frozenset({"sampled under", "computed on", "decided by"})
"""How something is linked to the version that made it; never followed."""
_ORDER = re.compile(r"\border ([^\s:]+)")


@dataclass(frozen=True, slots=True)
class Place:
    """The record at `topic[partition]@offset`."""

    at: str


@dataclass(frozen=True, slots=True)
class Span:
    """The records of one key in a range of a partition."""

    partition: Partition
    start: int
    stop: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """Something that an event names, and that cannot be had: why."""

    name: Name
    why: str


Target = Place | Span | Name | Lost


@dataclass(frozen=True, slots=True)
class Link:
    """An event `how`s its cause, as a group "answers" its problem.

    `follow` is for what a thing is made of or about. Who made it (the version that sampled it, the
    policy that decided) is named and not followed: behind it lies the whole run. What a thing set
    `aside` (an upload that it refused) is no cause of it; for that upload it is an effect.
    """

    how: str
    to: Target
    follow: bool = True
    aside: bool = False


def causes(record: Record, event: Event) -> Iterator[Link]:
    """What this event is caused by, as far as it says so itself."""
    yield from _of_learning(event)
    yield from _of_acting(event)
    yield from _of_missions(event)
    if letter := record.headers.get(REQUEUE_OF):
        yield Link("repeats", Place(letter.decode(errors="replace")))
    if original := record.headers.get(REPLAY_OF):
        at = original.decode(errors="replace")
        yield Link("replays", Lost(Name("original", at), "it lies in another namespace"))


def _of_learning(event: Event) -> Iterator[Link]:
    match event:
        case learning.Problem():
            yield Link("of", Name("mission", event.mission_id))
        case learning.SampleGroup():
            yield from _spans("answers", event.source, PROBLEMS, event.problem_id)
            yield Link("sampled under", _version(event.policy, event.version), follow=False)
        case learning.GradientUpload():
            yield from (Link(LEARNS, Place(use.at)) for use in event.groups)
            for dropped in event.dropped:
                yield Link(f"drops as {dropped.reason}", Place(dropped.at), False, aside=True)
            yield Link("computed on", _version(event.policy, event.base_version), follow=False)
        case learning.RollbackRequest():
            yield Link("goes back to", _version(event.policy, event.to_version), follow=False)
        case learning.CloseStep():
            yield Link("of", Name("mission", event.mission_id))
        case learning.WeightVersion():
            yield from _of_version(event)
        case learning.UploadsRefused():
            yield from _refused(event.refused)
        case learning.VersionsExpired():
            for version in event.versions:
                yield Link("expires", _version(event.policy, version), follow=False)
        case learning.WeightHead():
            yield Link("points to", _version(event.policy, event.version))
        case learning.Evaluation():
            yield Link("measures", _version(event.policy, event.version))
        case learning.DeadLetter():
            yield Link("buries", Place(event.at))
        case learning.DeadLetterResolution():
            yield Link(f"settles as {event.action}", Place(event.letter))


def _of_version(event: learning.WeightVersion) -> Iterator[Link]:
    yield from (Link("applies", Place(applied.at)) for applied in event.uploads)
    yield from _refused(event.refused)
    if event.kind == "base":
        yield Link("begins", Name("mission", event.mission_id))
        return
    if event.parent is not None:
        yield Link(CHILD, _version(event.policy, event.parent), follow=False)
    if at := _closed_by(event):
        yield Link("asked for by" if event.kind == "rollback" else "closed by", Place(at))


def _closed_by(event: learning.WeightVersion) -> str:
    """What made the aggregator publish: the last record that it read, unless that is an upload."""
    number = partition_for(event.policy.encode(), GRADIENT_CHUNKS.partitions)
    after = event.resume.get(str(Partition(GRADIENT_CHUNKS.name, number)), 0)
    at = f"{GRADIENT_CHUNKS.name}[{number}]@{after - 1}"
    lists_unknown = event.spilled and event.spilled.counts.keys() & {"uploads", "refused"}
    uploads = {one.at for one in event.uploads} | {one.at for one in event.refused}
    return "" if at in uploads or after == 0 or lists_unknown else at


def _refused(refused: list[learning.RefusedUpload]) -> Iterator[Link]:
    for one in refused:
        yield Link(f"refuses as {one.reason}", Place(one.at), follow=False, aside=True)


def _of_acting(event: Event) -> Iterator[Link]:
    match event:
        case acting.FusedState():
            yield from _spans("fuses", event.source, SENSOR_FRAMES, event.robot_id)
        case acting.Command():
            yield from _of_command(event)
        case acting.Feedback():
            for one in event.outcomes:
                yield Link(f"says {one.outcome} of", Place(one.at))
        case acting.SafetyEvent() if found := _ORDER.search(event.detail):
            yield Link("ordered by", Name("order", f"{event.robot_id} {found.group(1)}"))
        case acting.Release(stage="OFFERED"):
            version = _version(event.policy, event.version)
            yield Link("offers", version)
            if event.score is not None:
                yield Link("rated by", Name("evaluation", version.id), follow=False)
        case acting.Release():
            yield Link("follows", Name("offer", f"{event.robot_id} {event.release_id}"))


def _of_command(event: acting.Command) -> Iterator[Link]:
    yield from _spans("follows from", event.source, FUSED_STATES, event.robot_id)
    if event.policy.policy != "tracker":
        version = _version(event.policy.policy, event.policy.version)
        yield Link("decided by", version, follow=False)
        swap = Name("swap", f"{event.robot_id} {version.id}")
        yield Link("since", swap, follow=False)
    number = partition_for(event.robot_id.encode(), COMMANDS.partitions)
    claim = f"{COMMANDS.name}[{number}]@{event.controller_epoch}"
    yield Link("under", Place(claim), follow=False)
    if event.mission_id:
        yield Link("of", Name("mission", event.mission_id), follow=False)


def _of_missions(event: Event) -> Iterator[Link]:
    match event:
        case missions.MissionControl():
            yield Link("steers", Name("mission", event.mission_id))
        case missions.MissionReport() | missions.RobotMissionReport():
            yield Link("tells of", Name("mission", event.mission_id))
        case missions.RobotMissionResult():
            yield Link("ends", Name("mission", event.mission_id))
        case missions.MissionResult():
            yield Link("ends", Name("mission", event.mission_id))
            if event.final_version is not None:
                version = _version(event.policy, event.final_version)
                yield Link("ends with", version, follow=False)


def _spans(how: str, source: Sources, topic: Topic, key: str) -> Iterator[Link]:
    """The records of this key in the ranges that an event stands for."""
    mine = str(Partition(topic.name, partition_for(key.encode(), topic.partitions)))
    for name, (start, stop) in source.items():
        if name == mine and start < stop:
            yield Link(how, Span(Partition.parse(name), start, stop, key.encode()))


def _version(policy: str, version: int) -> Name:
    return Name("version", f"{policy}@{version}")
