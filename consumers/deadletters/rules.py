"""What may be sent again: refused is what would be dead again, and what must not happen twice."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from consumers.audit.objects import ObjectChecker
from consumers.read import read
from infra.log import Log
from schemas.base import Event
from schemas.learning import (
    GradientUpload,
    Problem,
    RollbackRequest,
    SampleGroup,
    UploadsRefused,
    WeightVersion,
)
from schemas.missions import (
    Mission,
    MissionControl,
    MissionReport,
    RobotMission,
    RobotMissionReport,
)
from schemas.tensors import ObjectRef
from schemas.topics import (
    COMMANDS,
    DEAD_LETTERS,
    FEEDBACK,
    FUSED_STATES,
    MISSION_RESULTS,
    MISSIONS,
    RELEASES,
    SAFETY_EVENTS,
    SENSOR_FRAMES,
    TOPICS,
    WEIGHT_HEADS,
    WEIGHT_VERSIONS,
    NewerSchema,
    Undecodable,
    decode,
)

NEVER: Mapping[str, str] = {
    COMMANDS.name: "a robot never executes an old command: drop it",
    SENSOR_FRAMES.name: "the moment of a sensor frame is past: drop it, or `ralo fuse` it",
    FUSED_STATES.name: "the moment of a fused state is past: drop it",
    FEEDBACK.name: "a robot tells its feedback in order, and what acts on it acts now: drop it",
    SAFETY_EVENTS.name: "a robot tells its safety events in order, and the gate acts on them now: "
    "drop it",
    RELEASES.name: "a release goes through its stages once and in order: drop it",
    WEIGHT_VERSIONS.name: "only a policy's aggregator writes its versions, each once: drop it",
    WEIGHT_HEADS.name: "only a policy's aggregator writes its heads: drop it",
    MISSION_RESULTS.name: "a mission has one result, which the orchestrator writes: drop it",
    DEAD_LETTERS.name: "a letter is not sent again itself: drop it",
}
"""Topics of which nothing is sent again, and why."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a value is not sent again; `overridable` by force."""

    why: str
    overridable: bool = False


class Judge:
    """Judges values before they are sent again, by what the log and the store have.

    It remembers the missions that it has passed, so that of one id only the first passes.
    """

    def __init__(self, log: Log, objects: ObjectChecker) -> None:
        self._log, self._objects = log, objects
        self._rules: Mapping[type[Event], Callable[[Any, bool], str | None]] = {
            Mission: lambda event, named: self._fresh(event.mission_id),
            RobotMission: self._robot_mission,
            MissionControl: _order,
            RollbackRequest: _order,
            MissionReport: _report,
            RobotMissionReport: _report,
            Problem: lambda event, named: self._known(event.mission_id),
            SampleGroup: lambda event, named: self._known(event.mission_id),
            GradientUpload: self._upload,
        }

    def judge(self, topic: str, value: bytes, named: bool) -> tuple[Event | None, Refusal | None]:
        """The event of a value for this topic, and why it is not to be sent, or None.

        `named` says that the operator named this very letter.
        """
        if topic not in TOPICS:
            return None, Refusal(f"there is no topic {topic!r} here: drop it")
        if topic in NEVER:
            return None, Refusal(NEVER[topic])
        limit = int(TOPICS[topic].config()["max.message.bytes"])
        if len(value) > limit:
            return None, Refusal(f"{len(value):,} bytes, the topic takes {limit:,}")
        try:
            event = decode(topic, value)
        except Undecodable as error:
            return None, Refusal(f"it would be dead again: {error}", overridable=True)
        except NewerSchema as error:
            return None, Refusal(f"{error}: whoever reads it would wait for a newer ralo")
        why = self._why_not(event, named)
        return event, Refusal(why) if why else None

    def _why_not(self, event: Event, named: bool) -> str | None:
        rule = self._rules.get(type(event))
        why = rule(event, named) if rule else None
        return why or self._missing(event)

    # -- missions ---------------------------------------------------------------------------

    @functools.cached_property
    def _missions(self) -> dict[str, str]:
        """Where each mission lies, by id."""
        found: dict[str, str] = {}
        for record in read(MISSIONS.name, log=self._log):
            if isinstance(record.event, Mission | RobotMission):
                found.setdefault(record.event.mission_id, record.at)
        return found

    def _fresh(self, mission_id: str) -> str | None:
        at = self._missions.setdefault(mission_id, "")
        if not at:
            self._missions[mission_id] = "before it among these letters"
            return None
        return (
            f"mission {mission_id!r} is there already ({at}), and an id is taken for ever: give "
            "it another, as by --set mission_id=…"
        )

    def _robot_mission(self, event: RobotMission, named: bool) -> str | None:
        if not named:
            return (
                f"mission {event.mission_id!r} would move robots now: it is sent again only where "
                "its letter is named by its place"
            )
        return self._fresh(event.mission_id)

    def _known(self, mission_id: str) -> str | None:
        if mission_id in self._missions:
            return None
        return f"no mission {mission_id!r} in the log: whoever reads it would wait in vain and stop"

    # -- uploads and objects ----------------------------------------------------------------

    @functools.cached_property
    def _marks(self) -> dict[str, dict[str, int]]:
        """The high marks of each policy's aggregator."""
        found: dict[str, dict[str, int]] = {}
        for record in read(WEIGHT_VERSIONS.name, log=self._log):
            if isinstance(record.event, WeightVersion | UploadsRefused):
                found[record.event.policy] = record.event.marks
        return found

    def _upload(self, event: GradientUpload, named: bool) -> str | None:
        marks = self._marks.get(event.policy, {})
        for part, (since, to) in sorted(event.source.items()):
            if since < to and since < marks.get(part, 0):
                return (
                    f"{part} [{since}, {to}): the aggregator has read up to {marks[part]} already "
                    "and would refuse it as an overlap: drop it"
                )
        return None

    def _missing(self, event: Event) -> str | None:
        refs = list(_refs(event))
        for _, fault in self._objects.faults(refs) if refs else ():
            return f"{fault}: whoever reads it would wait for the object in vain"
        return None


def _order(event: Event, named: bool) -> str:
    again = "`ralo weights rollback`" if isinstance(event, RollbackRequest) else "`ralo mission`"
    return f"a {event.type} is an order of its moment: give it anew by {again}, and drop this"


def _report(event: Event, named: bool) -> str:
    return f"a {event.type} is what a processor found at its moment: drop it"


def _refs(part: Any) -> Iterator[ObjectRef]:
    """The objects that an event names, wherever in it."""
    if isinstance(part, ObjectRef):
        yield part
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from _refs(getattr(part, name))
    elif isinstance(part, Mapping):
        for value in part.values():
            yield from _refs(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _refs(value)
