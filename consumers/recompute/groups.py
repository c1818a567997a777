"""The sampling proof of chosen groups: by id, by place, by the version they made, by mission."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from consumers.recompute.evidence import (
    NOT_OURS,
    CannotRecompute,
    Expired,
    NotReproduced,
    OtherEnvironment,
    broke,
    must_be_alike,
    threads_of,
)
from consumers.recompute.index import Index, Report, nothing
from consumers.recompute.report import GroupProof, Verdict
from consumers.recompute.sampling import Sampling
from infra.store import ObjectStore
from schemas.effects import Processor
from schemas.learning import GradientUpload, SampleGroup
from schemas.records import Record

SamplerFor = Callable[[str], Processor]
"""Makes the sampler of a policy."""


def find_groups(index: Index, wanted: str) -> list[Record]:
    """The groups of a group id, a problem id or a place; raises `CannotRecompute` without any."""
    if "@" in wanted:
        record = index.at(wanted)
        if record is None or not isinstance(record.event, SampleGroup):
            raise CannotRecompute(f"{wanted}: no group of samples lies there")
        return [record]
    found = index.groups(wanted)
    if not found:
        raise CannotRecompute(
            f"no group or problem {wanted!r} is in the log; ids are shown by `ralo cat samples`, "
            "and samples[0]@12 names a place"
        )
    return found


def groups_of_version(index: Index, version: int, policy: str) -> list[Record]:
    """The groups that a version learnt from, in the order of its fold."""
    _, event = index.version(version, policy)
    uploads = [index.at(applied.at) for applied in event.uploads]
    events = [upload.event for upload in uploads if upload]
    uses = [use for e in events if isinstance(e, GradientUpload) for use in e.groups]
    return [record for record in (index.at(use.at) for use in uses) if record]


def last_of_mission(index: Index, mission_id: str, last: int) -> list[Record]:
    """The last groups of a mission, by the version that sampled them."""
    found = [
        (group.version, record.partition.number, record.offset, record)
        for record in index.between_all("samples")
        if isinstance(group := record.event, SampleGroup) and group.mission_id == mission_id
    ]
    if not found:
        raise CannotRecompute(f"no group of mission {mission_id!r} is in the log")
    return [record for *_, record in sorted(found, key=lambda one: one[:3])[-last:]]


def verify_groups(
    index: Index,
    store: ObjectStore,
    groups: Iterable[Record],
    sampler_for: SamplerFor,
    report: Report = nothing,
) -> list[GroupProof]:
    """Sample these groups again, each with its whole batch, and compare all bits."""
    chosen = {r.at: r.event for r in groups if isinstance(r.event, SampleGroup)}
    proofs: list[GroupProof] = []
    for policy in dict.fromkeys(group.policy for group in chosen.values()):
        mine = {at: group for at, group in chosen.items() if group.policy == policy}
        sampling = Sampling(index, store, sampler_for(policy))
        for batch in _by_batch(mine):
            report("group", len(proofs), len(chosen))
            proofs += _prove(index, sampling, batch)
    report("group", len(proofs), len(chosen))
    return proofs


def _by_batch(groups: dict[str, SampleGroup]) -> Iterator[dict[str, SampleGroup]]:
    """The groups of each batch, of older versions first: a sampler goes on to newer ones only."""
    batches: dict[tuple[int, str], dict[str, SampleGroup]] = {}
    for at, group in groups.items():
        batch_id = group.batch.batch_id if group.batch else ""
        batches.setdefault((group.version, batch_id), {})[at] = group
    return (batches[key] for key in sorted(batches))


def _prove(index: Index, sampling: Sampling, groups: dict[str, SampleGroup]) -> list[GroupProof]:
    first = next(iter(groups.values()))
    if first.batch is None:
        return _all(groups, "expired", "it was cancelled: nothing was sampled")
    try:
        _, version = index.version(first.version, first.policy)
        with threads_of(version.environment):
            must_be_alike(f"batch {first.batch.batch_id}", version.environment)
            wrong = dict(sampling.faults(first.batch.batch_id))
    except OtherEnvironment as error:
        return _all(groups, "elsewhere", str(error))
    except Expired as error:
        return _all(groups, "expired", str(error))
    except (CannotRecompute, NotReproduced) as error:
        return _all(groups, "wrong", str(error))
    except NOT_OURS:
        raise
    except Exception as error:  # what was changed may break anything on its way
        return _all(groups, "wrong", broke(error))
    damaged = {at: [why] for at, why in index.damaged.items() if at in groups}
    for at, why in wrong.items():
        damaged.setdefault(at, []).append(why)
    return [_proof(at, group, damaged.get(at, ())) for at, group in groups.items()]


def _all(groups: dict[str, SampleGroup], verdict: Verdict, why: str) -> list[GroupProof]:
    return [_proof(at, group, [why], verdict) for at, group in groups.items()]


def _proof(
    at: str, group: SampleGroup, why: Sequence[str], verdict: Verdict | None = None
) -> GroupProof:
    return GroupProof(
        at=at,
        group_id=group.group_id,
        version=group.version,
        batch_id=group.batch.batch_id if group.batch else None,
        rollouts=group.size,
        verdict=verdict or ("wrong" if why else "equal"),
        why=list(why),
    )
