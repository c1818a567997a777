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
    must_be_alike,
)
from consumers.recompute.index import Index
from infra.store import ObjectStore
from schemas.effects import Effect
from schemas.ids import digest
from schemas.learning import Environment, GradientUpload, GroupUse, SampleGroup, WeightVersion
from schemas.missions import Mission
from schemas.records import Record

if TYPE_CHECKING:
    from streams.learning.gradients import Gradient
    from streams.learning.learners import Learners


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
    from streams.learning.learners import Learners

    return gradient_again(Index.of(records), store, at, Learners())


def gradient_again(index: Index, store: ObjectStore, at: str, learners: "Learners") -> list[str]:
    """The same from an index; `learners` keep their models from one gradient to the next."""
    evidence = _gather(index, store, at)
    upload, then = evidence.upload, evidence.environment
    must_be_alike(f"{at}: upload {upload.upload_id}", then)
    gradient = answer_of(_learn(evidence, learners), store)
    found = _hashes(gradient, evidence.base.layout.chunk_elements)
    pairs = enumerate(zip_longest(found, (ref.sha256 for ref in upload.chunks)))
    wrong = [(number, here, named) for number, (here, named) in pairs if here != named]
    fields = _fields(evidence, gradient)
    if wrong or fields:
        raise NotReproduced(
            f"{at}: upload {upload.upload_id}: {_otherwise(evidence, wrong, fields)}"
        )
    return found


def _gather(index: Index, store: ObjectStore, at: str) -> Evidence:
    upload, environment = _upload(index, at)
    what = f"{at}: upload {upload.upload_id}"
    index.must_be_kept(upload.policy, (upload.base_version,))
    _, base = index.version(upload.base_version, upload.policy)
    samples = [sample_of(index, use, what) for use in upload.groups]
    must_be_read(samples, upload, what)
    mission = index.mission(upload.mission_id, at)
    return Evidence(
        at=at,
        upload=completed(upload, store, what),
        environment=environment,
        base=completed(base, store, f"version {base.version} of {base.policy}"),
        mission=_on_device(mission, environment.device),
        groups=[group for _, group in samples],
        reference=_reference(index, mission, base),
    )


def _upload(index: Index, at: str) -> tuple[GradientUpload, Environment]:
    """The upload at that place and where it was made, if it can be made again at all."""
    record = index.at(at)
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


def sample_of(index: Index, use: GroupUse, what: str) -> tuple[Record, SampleGroup]:
    """The group that an upload lists, and its record; raises where there is another or none."""
    record = index.at(use.at)
    if record is None:
        raise CannotRecompute(f"{what}: {use.at} (group {use.group_id}) is not in the log")
    group = record.event
    if not isinstance(group, SampleGroup) or group.group_id != use.group_id:
        raise NotReproduced(f"{what}: {use.at} is not group {use.group_id}")
    return record, group


def must_be_read(
    samples: Sequence[tuple[Record, SampleGroup]], upload: GradientUpload, what: str
) -> None:
    """Raise `NotReproduced` where these are not the records that the upload was made of."""
    actual = digest(b"".join(record.value or b"" for record, _ in samples))
    if actual != upload.records_sha256:
        odd = [record.at for record, group in samples if group.to_bytes() != record.value]
        raise NotReproduced(
            f"{what}: it was made of records with sha256 {upload.records_sha256[:16]}…, those at "
            f"its {len(samples)} places have {actual[:16]}…: was the log changed, or is it "
            "another one?" + (f" Not as a sampler writes them: {', '.join(odd)}" if odd else "")
        )


def _on_device(mission: Mission, device: str) -> Mission:
    """The mission on the device that the trainer had, whatever `auto` would choose here."""
    training = mission.training.model_copy(update={"device": device})
    return mission.model_copy(update={"training": training})


def _reference(index: Index, mission: Mission, like: WeightVersion) -> WeightVersion | None:
    from streams.learning.learner import needs_reference, reference

    return reference(index.prepared(mission.policy), like) if needs_reference(mission) else None


def _learn(evidence: Evidence, learners: "Learners") -> Generator[Effect, Any, "Gradient"]:
    from streams.learning.gradients import GradientError
    from streams.learning.layout import LayoutError

    base, mission = evidence.base, evidence.mission
    learner = learners.of(mission)
    yield from learner.follow(base, mission.training)
    groups = []
    for use, event in zip(evidence.upload.groups, evidence.groups, strict=True):
        group, problem = yield from learner.complete(event)
        if problem:
            raise NotReproduced(f"{evidence.at}: {use.at} cannot be learnt from here: {problem}")
        groups.append(group)
    try:
        gradient = yield from learner.gradient(mission, base, groups, evidence.reference)
    except (GradientError, LayoutError) as error:
        raise NotReproduced(f"{evidence.at}: {error}") from error
    return gradient


def _hashes(gradient: "Gradient", elements: int) -> list[str]:
    from streams.learning.learner import chunks_of

    return [digest(data) for data in chunks_of(gradient, elements)]


def _fields(evidence: Evidence, gradient: "Gradient") -> list[str]:
    """What the event says of its gradient and is otherwise here, in words."""
    upload = evidence.upload
    stats = {n: value for n, value in upload.stats.items() if n in gradient.stats}
    found = {
        "weight is": (gradient.weight, upload.weight),
        "local steps are": (gradient.local, upload.local),
        "micro-batches are": (gradient.micro_batches, upload.micro_batches),
        "figures are": ({n: gradient.stats[n] for n in stats}, stats),
    }
    return [f"its {n} {a} here, {b} in the log" for n, (a, b) in found.items() if a != b]


def _otherwise(
    evidence: Evidence,
    wrong: Sequence[tuple[int, str | None, str | None]],
    fields: Sequence[str],
) -> str:
    """What came out otherwise, and which libraries might be why."""
    from streams.learning.environment import environment, other_libraries

    upload, what = evidence.upload, list(fields)
    if wrong:
        number, here, named = wrong[0]
        pair = f"sha256 {(here or 'none')[:16]}… here, {(named or 'none')[:16]}… in the log"
        count = f"{len(wrong)} of {len(upload.chunks)}"
        what.insert(0, f"chunk {number} ({count}) came out otherwise: {pair}")
    then = evidence.environment
    what += other_libraries(then, environment(then.device))
    return "; ".join(what)
