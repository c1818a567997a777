"""What the proofs look up in the log, each record checked against the hash that names it."""

from collections.abc import Generator, Iterable, Sequence
from typing import Any, TypeVar

from infra.interpreter import run_in_memory
from infra.store import MissingObject, ObjectStore
from schemas.effects import Effect, Steps
from schemas.ids import digest
from schemas.learning import Environment, Spilling, VersionsExpired, WeightVersion
from schemas.missions import Mission
from schemas.records import Record
from streams.learning.spill import BadSpill, whole

E = TypeVar("E", bound=Spilling)
T = TypeVar("T")


class CannotRecompute(Exception):
    """What the proof needs is not here, or would not give the same bits here; and why."""


class NotReproduced(Exception):
    """Something else came out than the log names, or the log was changed."""


def find_version(
    records: Sequence[Record], version: int, policy: str | None
) -> tuple[Record, WeightVersion]:
    """A version and its record; raises `CannotRecompute` where there is none, or more than one."""
    found = [
        (record, record.event)
        for record in records
        if isinstance(record.event, WeightVersion) and record.event.version == version
        if policy in (None, record.event.policy)
    ]
    policies = sorted({event.policy for _, event in found})
    if len(policies) > 1:
        raise CannotRecompute(f"several policies have a version {version}: {', '.join(policies)}")
    if not found:
        raise CannotRecompute(f"the log has no version {version} of policy {policy or '(any)'}")
    return found[0]


def find_mission(records: Sequence[Record], mission_id: str, at: str) -> Mission:
    """The mission of that id, the first where there are several; `at` names who belongs to it."""
    for record in records:
        if isinstance(record.event, Mission) and record.event.mission_id == mission_id:
            return record.event
    raise CannotRecompute(f"{at}: mission {mission_id} is not in the log")


def must_be_kept(records: Sequence[Record], policy: str, versions: Iterable[int | None]) -> None:
    """Raise `CannotRecompute` where the objects of one of these versions were swept."""
    gone = {
        version
        for record in records
        if isinstance(record.event, VersionsExpired) and record.event.policy == policy
        for version in record.event.versions
    }
    for needed in versions:
        if needed in gone:
            raise CannotRecompute(
                f"version {needed} of {policy} has expired: its objects were swept "
                f"(missions choose what stays by `keep`)"
            )


def must_hash(record: Record, sha256: str, what: str) -> None:
    """Raise `NotReproduced` where the record has other bytes than its name says."""
    actual = digest(record.value or b"")
    if actual != sha256:
        raise NotReproduced(
            f"{record.at}: {what} by sha256 {sha256[:16]}…, the record has {actual[:16]}…: was the "
            "log changed, or is it another one?"
        )


def must_be_alike(what: str, then: Environment) -> None:
    """Raise `CannotRecompute` where this process would round otherwise."""
    from streams.learning.environment import differences, environment

    if unlike := differences(then, environment()):
        raise CannotRecompute(f"{what} would not come out the same here: {'; '.join(unlike)}")


def completed(event: E, store: ObjectStore, what: str) -> E:
    """The event with what was moved out of it; raises as `answer_of`, and `NotReproduced`."""
    try:
        event = answer_of(whole(event), store)
    except BadSpill as error:
        raise NotReproduced(f"{what}: {error}") from error
    return event


def answer_of(doing: Generator[Effect, Any, T], store: ObjectStore) -> T:
    """What a generator of effects answers; raises `CannotRecompute` where an object is missing."""
    found: list[T] = []

    def steps() -> Steps:
        found.append((yield from doing))
        return "commit"

    try:
        run_in_memory(steps(), store)
    except MissingObject as error:
        raise CannotRecompute(f"{error}: was it swept, or is this another store?") from error
    return found[0]
