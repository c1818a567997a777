"""The map of topics: names, events, keys, partitions and retention; the only place they are named.

Keys are hashed with murmur2, as Java and aiokafka do. The number of partitions is fixed for a
topic's life; `problems` and `samples` have equal counts.
"""

import functools
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from schemas import acting, learning, missions
from schemas.base import Event

PARTITIONER = "murmur2_random"
MAX_EVENT_BYTES = 256 * 1024
INLINE_BYTES = 64 * 1024
"""Arrays above this are objects; the event holds the reference."""

GROUPS_PER_UPLOAD_MAX = 2048
"""An upload lists its groups in its event, about 100 bytes each: books need no object for them."""

_HOUR_MS = 3600 * 1000
_DAY_MS = 24 * _HOUR_MS
FOR_EVER = -1


@dataclass(frozen=True)
class Topic:
    """One topic: what it carries, how many partitions, how long records stay."""

    name: str
    events: tuple[type[Event], ...]
    partitions: int = 1
    retention_ms: int = FOR_EVER
    compacted: bool = False
    max_event_bytes: int = MAX_EVENT_BYTES
    untyped: type[Event] | None = None
    """What a value without `type` is: the topic's only event until others were added."""
    mirrors: str = ""
    """The topic of whose partition n this partition n was made; its events name it as source."""

    def config(self) -> dict[str, str]:
        """The broker's settings for this topic."""
        policy = "compact" if self.compacted else "delete"
        return {
            "cleanup.policy": policy,
            "retention.ms": str(self.retention_ms),
            # Twice, so that what is too large is taken in and becomes a dead letter.
            "max.message.bytes": str(2 * self.max_event_bytes),
            "message.timestamp.type": "CreateTime",
        }


MISSIONS = Topic(
    "missions",
    (
        missions.Mission,
        missions.MissionControl,
        missions.MissionReport,
        missions.RobotMission,
        missions.RobotMissionReport,
    ),
)
PROBLEMS = Topic("problems", (learning.Problem,), partitions=4)
SAMPLES = Topic("samples", (learning.SampleGroup,), partitions=4, mirrors="problems")
GRADIENT_CHUNKS = Topic(
    "gradient-chunks",
    (learning.GradientUpload, learning.RollbackRequest, learning.CloseStep),
    partitions=4,
)
WEIGHT_VERSIONS = Topic(
    "weight-versions",
    (learning.WeightVersion, learning.UploadsRefused, learning.VersionsExpired),
    partitions=4,
)
WEIGHT_HEADS = Topic("weight-heads", (learning.WeightHead,), partitions=4, compacted=True)
EVALUATIONS = Topic("evaluations", (learning.Evaluation,), partitions=4)
MISSION_RESULTS = Topic("mission-results", (missions.MissionResult, missions.RobotMissionResult))
RELEASES = Topic("releases", (acting.Release,), partitions=4)
SENSOR_FRAMES = Topic(
    "sensor-frames", (acting.SensorFrame,), partitions=8, retention_ms=6 * _HOUR_MS
)
FUSED_STATES = Topic("fused-states", (acting.FusedState,), partitions=8, retention_ms=6 * _HOUR_MS)
COMMANDS = Topic(
    "commands",
    (acting.Command, acting.ControllerClaim, acting.OperatorOrder),
    partitions=8,
    retention_ms=7 * _DAY_MS,
)
FEEDBACK = Topic("feedback", (acting.Feedback,), partitions=8, retention_ms=7 * _DAY_MS)
SAFETY_EVENTS = Topic("safety-events", (acting.SafetyEvent,), partitions=8)
DEAD_LETTERS = Topic(
    "dead-letters",
    (learning.DeadLetter, learning.DeadLetterResolution),
    max_event_bytes=4 * MAX_EVENT_BYTES,
    untyped=learning.DeadLetter,
)
"""A letter holds the original bytes in base64, also of a record that was too large."""

TOPICS: dict[str, Topic] = {
    t.name: t
    for t in (
        MISSIONS,
        PROBLEMS,
        SAMPLES,
        GRADIENT_CHUNKS,
        WEIGHT_VERSIONS,
        WEIGHT_HEADS,
        EVALUATIONS,
        MISSION_RESULTS,
        RELEASES,
        SENSOR_FRAMES,
        FUSED_STATES,
        COMMANDS,
        FEEDBACK,
        SAFETY_EVENTS,
        DEAD_LETTERS,
    )
}


def mirror_of(work: Topic) -> Topic | None:
    """The topic whose partitions say what of this one's was worked on, where there is one."""
    return next((topic for topic in TOPICS.values() if topic.mirrors == work.name), None)


MISSION_TABLE = Topic("orchestrator-missions-changelog", events=(), compacted=True)
"""The changelog of the orchestrator's table: Faust's own records, no events of ours."""

PROVISIONED: tuple[Topic, ...] = (*TOPICS.values(), MISSION_TABLE)
"""All that must exist before a processor starts."""


class Undecodable(ValueError):
    """The bytes are no event of this topic: a dead letter."""


class NewerSchema(ValueError):
    """The event is of a version that this program does not know yet: wait, do not discard."""


def _adapter(topic: Topic) -> TypeAdapter[Any]:
    if topic.untyped is not None:
        return _adapter_of_untyped(topic.events, _type_of(topic.untyped))
    union: Any = functools.reduce(operator.or_, topic.events)
    many = len(topic.events) > 1
    shape: Any = Annotated[union, Discriminator("type")] if many else union
    return TypeAdapter(shape)


def _adapter_of_untyped(events: Sequence[type[Event]], default: str) -> TypeAdapter[Any]:
    def tag(value: Any) -> Any:
        if isinstance(value, Mapping):
            return value.get("type", default)
        return getattr(value, "type", None)

    tagged: Any = [Annotated[event, Tag(_type_of(event))] for event in events]
    union: Any = functools.reduce(operator.or_, tagged)
    return TypeAdapter(Annotated[union, Discriminator(tag)])


def _type_of(event: type[Event]) -> str:
    return str(event.model_fields["type"].default)


_ADAPTERS = {name: _adapter(topic) for name, topic in TOPICS.items()}
SCHEMA_VERSION = 1


def decode(topic: str, value: bytes | None) -> Event:
    """The event in a record's value; raises `Undecodable`, or `NewerSchema` to wait for."""
    if value is None:
        raise Undecodable("the value is empty: these topics carry no tombstones")
    if len(value) > (limit := TOPICS[topic].max_event_bytes):
        raise Undecodable(f"{len(value)} bytes, the limit is {limit}")
    try:
        event: Event = _ADAPTERS[topic].validate_json(value)
    except ValueError as error:
        _raise_if_newer(value)
        raise Undecodable(_readable(error)) from error
    if event.schema_version > SCHEMA_VERSION:
        raise NewerSchema(f"{event.type} has schema_version {event.schema_version}")
    return event


def _raise_if_newer(value: bytes) -> None:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerSchema(f"{document.get('type')} has schema_version {version}")


def _readable(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    lines = [
        f"{'.'.join(str(p) for p in e['loc']) or 'value'}: {e['msg']}"
        for e in error.errors(include_url=False, include_input=False)[:8]
    ]
    return "; ".join(lines)
