"""The sampling proof: groups made again of their problems, mission and weight version.

The sampler itself works on the batch again; a group hangs together with its whole batch, for what
is computed side by side may round otherwise alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from consumers.recompute.evidence import CannotRecompute, NotReproduced
from consumers.recompute.index import Index
from infra.interpreter import drive, perform
from infra.store import MissingObject, ObjectStore
from schemas.effects import BadObject, Effect, Outputs, Processor, Put
from schemas.ids import derived_id, digest
from schemas.learning import Problem, SampleGroup
from schemas.records import Batch, Record
from schemas.tensors import ObjectRef


@dataclass(frozen=True)
class Member:
    """One group of a batch: its record, and the problem that it answers."""

    record: Record
    group: SampleGroup
    problem: Record


class Sampling:
    """Samples batches again with the processor `sampler`; those of older versions come first.

    The processor goes on to newer versions only, so ask for batches by ascending version.
    """

    def __init__(self, index: Index, store: ObjectStore, sampler: Processor) -> None:
        self._index, self._store, self._sampler = index, store, sampler
        self._missions: set[str] = set()
        self._version = -1

    def faults(self, batch_id: str) -> Iterator[tuple[str, str]]:
        """Places of groups that come out otherwise, and in what.

        Raises `CannotRecompute` where something needed is not here.
        """
        members = members_of(self._index, batch_id)
        self._prepare(members)
        made = self._sample(members)
        for member in members:
            if why := _difference(member.group, made.get(member.group.problem_id)):
                yield member.record.at, why

    def _prepare(self, members: Sequence[Member]) -> None:
        first = members[0]
        record, version = self._index.version(first.group.version, first.group.policy)
        self._index.must_be_kept(version.policy, (version.version,))
        if version.version > self._version:
            self._sampler.observe(record)
            self._version = version.version
        if first.group.mission_id not in self._missions:
            mission = self._index.mission(first.group.mission_id, first.record.at)
            self._sampler.observe(replace(record, event=mission))
            self._missions.add(first.group.mission_id)

    def _sample(self, members: Sequence[Member]) -> dict[str, SampleGroup]:
        """The events of the batch by problem; objects are hashed and not stored."""
        problems = [member.problem for member in members]
        spans = [member.group.source for member in members]
        outputs = Outputs()
        try:
            steps = self._sampler.process(Batch(problems, spans, {}))
            drive(steps, lambda effect: _dry(effect, self._store, outputs))
        except BadObject as error:
            raise NotReproduced(str(error)) from error
        except MissingObject as error:
            raise CannotRecompute(f"{error}: was it swept, or is this another store?") from error
        for bury in outputs.buried:
            raise NotReproduced(f"{bury.record.at}: {bury.reason}: {bury.detail}")
        return {e.problem_id: e for e in outputs.events if isinstance(e, SampleGroup)}


def members_of(index: Index, batch_id: str) -> list[Member]:
    """The groups of a batch in its order, all of them.

    Raises `CannotRecompute` where some became dead letters, `NotReproduced` where the batch is not
    the one that its id names.
    """
    found: list[Member] = []
    for record in index.batch(batch_id):
        if isinstance(record.event, SampleGroup):
            found.append(Member(record, record.event, _problem(index, record, record.event)))
    found.sort(key=lambda member: member.group.batch.index if member.group.batch else 0)
    if not found:
        raise CannotRecompute(f"no group of batch {batch_id} is in the log")
    first = found[0]
    size = first.group.batch.size if first.group.batch else 0
    if len(found) < size:
        raise CannotRecompute(
            f"{first.record.at}: {size - len(found)} of the {size} groups of batch {batch_id} are "
            "not in the log (they may be dead letters), and without them the others round otherwise"
        )
    places = [member.problem.at for member in found]
    expected = derived_id("batch", first.group.policy, first.group.version, places)
    if expected != batch_id:
        raise NotReproduced(
            f"{first.record.at}: batch {batch_id} is not made of version {first.group.version} and "
            f"the problems {places[0]} to {places[-1]}: these make {expected}"
        )
    return found


def _problem(index: Index, record: Record, group: SampleGroup) -> Record:
    """The problem's record: the last of the group's source."""
    for name, (_, to) in group.source.items():
        topic, _, number = name.rpartition("-")
        problem = index.at(f"{topic}[{number}]@{to - 1}")
        if problem and isinstance(problem.event, Problem):
            if problem.event.problem_id == group.problem_id:
                return problem
            raise NotReproduced(
                f"{record.at}: {problem.at} is problem {problem.event.problem_id}, the group is of "
                f"{group.problem_id}"
            )
    raise NotReproduced(
        f"{record.at}: no problem of the log that decodes ends its source {group.source}"
    )


def _dry(effect: Effect, store: ObjectStore, outputs: Outputs) -> object:
    """Perform an effect, but store nothing."""
    if isinstance(effect, Put):
        data = effect.data if isinstance(effect.data, bytes) else effect.data.read_bytes()
        return ObjectRef(key=effect.key, sha256=digest(data), size_bytes=len(data))
    return perform(effect, store, outputs)


def _difference(then: SampleGroup, here: SampleGroup | None) -> str | None:
    """In what a group came out otherwise here, by the name of the field; None where it did not."""
    if here is None:
        return "it is not sampled from its problem here"
    a, b = then.model_dump(mode="json"), here.model_dump(mode="json")
    names = [name for name in b if a[name] != b[name]]
    if not names:
        return None
    return "; ".join(_said(name, a[name], b[name]) for name in names)


def _said(name: str, then: object, here: object, path: str = "") -> str:
    """The first place where two values differ, with both."""
    path = f"{path}.{name}" if path else name
    if isinstance(then, list) and isinstance(here, list) and len(then) == len(here):
        for number, (a, b) in enumerate(zip(then, here, strict=True)):
            if a != b:
                return _said(str(number), a, b, path)
    if isinstance(then, dict) and isinstance(here, dict) and then.keys() == here.keys():
        for key in then:
            if then[key] != here[key]:
                return _said(str(key), then[key], here[key], path)
    return f"{path} is {here!r} here, {then!r} in the log"
