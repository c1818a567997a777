"""The full proof's first half: a gradient made again of its samples and its base version.

The same code as the trainer's computes it, on the device and in the type that the trainer had.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from consumers.recompute.evidence import (
    CannotRecompute,
    NotReproduced,
    answer_of,
    completed,
    find_mission,
    find_version,
    must_be_alike,
    must_be_kept,
)
from infra.store import ObjectStore
from schemas.effects import Effect
from schemas.ids import digest
from schemas.learning import Environment, GradientUpload, GroupUse, SampleGroup, WeightVersion
from schemas.missions import Mission, MissionReport
from schemas.records import Record

if TYPE_CHECKING:
    from streams.learning.gradients import Gradient


@dataclass(frozen=True)
class Evidence:
    """All that a gradient was made of, as the log has it; groups as the trainer read them."""

    at: str
    upload: GradientUpload
    environment: Environment
    base: WeightVersion
    mission: Mission
    groups: list[SampleGroup]
    reference: WeightVersion | None


def recompute_upload(records: Iterable[Record], store: ObjectStore, at: str) -> list[str]:
    """The SHA-256 of each chunk of a gradient, computed anew and equal to the upload's.

    `records` are those of `missions`, `samples`, `gradient-chunks` and `weight-versions`, decoded;
    `at` is where the upload lies, as `gradient-chunks[partition]@offset`. This process needs as
    many torch threads as the trainer had. Raises `CannotRecompute` or `NotReproduced`.
    """
    evidence = _gather(list(records), store, at)
    upload, then = evidence.upload, evidence.environment
    must_be_alike(f"{at}: upload {upload.upload_id}", then)
    gradient = answer_of(_learn(evidence), store)
    found = _hashes(gradient, evidence.base.layout.chunk_elements)
    pairs = enumerate(zip_longest(found, (ref.sha256 for ref in upload.chunks)))
    wrong = [(index, here, named) for index, (here, named) in pairs if here != named]
    if wrong or gradient.weight != upload.weight or gradient.local != upload.local:
        raise NotReproduced(
            f"{at}: upload {upload.upload_id}: {_otherwise(evidence, gradient, wrong)}"
        )
    return found


def _gather(records: Sequence[Record], store: ObjectStore, at: str) -> Evidence:
    by_place = {record.at: record for record in records}
    upload, environment = _upload(by_place, at)
    what = f"{at}: upload {upload.upload_id}"
    must_be_kept(records, upload.policy, (upload.base_version,))
    _, base = find_version(records, upload.base_version, upload.policy)
    samples = [_sample(by_place, use, what) for use in upload.groups]
    _must_be_read(samples, upload, what)
    mission = find_mission(records, upload.mission_id, at)
    return Evidence(
        at=at,
        upload=completed(upload, store, what),
        environment=environment,
        base=completed(base, store, f"version {base.version} of {base.policy}"),
        mission=_on_device(mission, environment.device),
        groups=[group for _, group in samples],
        reference=_reference(records, mission, base),
    )


def _upload(by_place: dict[str, Record], at: str) -> tuple[GradientUpload, Environment]:
    """The upload at that place and where it was made, if it can be made again at all."""
    record = by_place.get(at)
    upload = record.event if record else None
    if not isinstance(upload, GradientUpload):
        raise CannotRecompute(f"{at}: no gradient upload of the log lies there")
    if not upload.count("chunks"):
        raise CannotRecompute(f"{at}: upload {upload.upload_id} is empty: nothing was learnt from")
    if not upload.deterministic or upload.environment is None:
        raise CannotRecompute(
            f"{at}: upload {upload.upload_id} is a {upload.kind} whose trainer does not call "
            "itself deterministic: only what is made on a CPU comes out the same again"
        )
    return upload, upload.environment


def _sample(by_place: dict[str, Record], use: GroupUse, what: str) -> tuple[Record, SampleGroup]:
    record = by_place.get(use.at)
    if record is None:
        raise CannotRecompute(f"{what}: {use.at} (group {use.group_id}) is not in the log")
    group = record.event
    if not isinstance(group, SampleGroup) or group.group_id != use.group_id:
        raise NotReproduced(f"{what}: {use.at} is not group {use.group_id}")
    return record, group


def _must_be_read(
    samples: Sequence[tuple[Record, SampleGroup]], upload: GradientUpload, what: str
) -> None:
    actual = digest(b"".join(record.value or b"" for record, _ in samples))
    if actual != upload.records_sha256:
        raise NotReproduced(
            f"{what}: it was made of records with sha256 {upload.records_sha256[:16]}…, those at "
            f"its {len(samples)} places have {actual[:16]}…: was the log changed, or is it "
            "another one?"
        )


def _on_device(mission: Mission, device: str) -> Mission:
    """The mission on the device that the trainer had, whatever `auto` would choose here."""
    training = mission.training.model_copy(update={"device": device})
    return mission.model_copy(update={"training": training})


def _reference(
    records: Sequence[Record], mission: Mission, like: WeightVersion
) -> WeightVersion | None:
    from streams.learning.learner import needs_reference, reference

    if not needs_reference(mission):
        return None
    for record in records:
        match record.event:
            case MissionReport(policy=mission.policy) as report if report.base_shards:
                return reference(report, like)
    raise CannotRecompute(f"missions: no report of policy {mission.policy} names its base model")


def _learn(evidence: Evidence) -> Generator[Effect, Any, "Gradient"]:
    from streams.learning.learners import new_learner

    base, mission = evidence.base, evidence.mission
    learner = new_learner(mission)
    yield from learner.follow(base, mission.training)
    groups = []
    for use, event in zip(evidence.upload.groups, evidence.groups, strict=True):
        group, problem = yield from learner.complete(event)
        if problem:
            raise NotReproduced(f"{evidence.at}: {use.at} cannot be learnt from here: {problem}")
        groups.append(group)
    gradient = yield from learner.gradient(mission, base, groups, evidence.reference)
    return gradient


def _hashes(gradient: "Gradient", elements: int) -> list[str]:
    from streams.learning.learner import chunks_of

    return [digest(data) for data in chunks_of(gradient, elements)]


def _otherwise(
    evidence: Evidence, gradient: "Gradient", wrong: Sequence[tuple[int, str | None, str | None]]
) -> str:
    """What came out otherwise, and which libraries might be why."""
    from streams.learning.environment import environment, other_libraries

    upload = evidence.upload
    what = f"its weight is {gradient.weight} here, {upload.weight} in the log"
    if gradient.local != upload.local:
        what = f"its local steps are {gradient.local} here, {upload.local} in the log"
    if wrong:
        index, here, named = wrong[0]
        pair = f"sha256 {(here or 'none')[:16]}… here, {(named or 'none')[:16]}… in the log"
        what = f"chunk {index} ({len(wrong)} of {len(upload.chunks)}) came out otherwise: {pair}"
    unlike = other_libraries(evidence.environment, environment(evidence.environment.device))
    return f"{what}; {'; '.join(unlike)}" if unlike else what
