"""The chain's proof on logs that the whole loop wrote: equal to the last bit, or named what is not.

A few bits are flipped each time, many hundreds with the marker `chaos`.
"""

import contextlib
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from episode_world import episode_loop, episode_mission
from loop_world import Loop
from proof_flips import ChangedLog, Flip, bit_flipped, object_flips, record_flips, stored

from consumers.recompute import ChainReport, verify_chain
from consumers.recompute.evidence import threads_of
from consumers.recompute.groups import (
    find_groups,
    groups_of_version,
    last_of_mission,
    verify_groups,
)
from consumers.recompute.index import Index, proof_topics
from infra.cli.processors import factory
from infra.envelope import message
from schemas.base import Event
from schemas.effects import Processor
from schemas.learning import (
    GradientUpload,
    RollbackRequest,
    SampleGroup,
    VersionsExpired,
    WeightVersion,
)
from schemas.records import Record
from streams.learning.environment import environment

E = TypeVar("E", bound=Event)
RECORDS = ("samples", "gradient-chunks", "weight-versions")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """Two missions with a rollback between them: versions 0 to 5."""
    loop = Loop(tmp_path_factory.mktemp("loop"))
    loop.submit(loop.mission("m", 12, training={"micro_batch": 3}))
    loop.submit(RollbackRequest(request_id="r", policy="p", to_version=1, reason="worse"))
    loop.submit(loop.mission("n", 4))
    return loop


def sampler(loop: Loop) -> Processor:
    return factory("sampler")(loop._config)


def proved(loop: Loop, flip: Flip | None = None, full: bool = False) -> ChainReport:
    """The chain's proof with one change in the log or in the store."""
    in_store = flip is not None and flip.how == "object"
    log = loop.log if in_store else ChangedLog(loop.log, flip)
    with stored(loop, flip) if in_store and flip else contextlib.nullcontext():
        return verify_chain(log, loop.store, "p", full=full)


def wrong(report: ChainReport) -> list[int]:
    return [proof.version for proof in report.versions if proof.verdict == "wrong"]


def events_of(loop: Loop, kind: type[E]) -> list[tuple[Record, E]]:
    """All events of a kind with their records."""
    found = loop.records(kind.topic)
    return [(r, r.event) for r in found if isinstance(r.event, kind)]


def object_flip(loop: Loop, key: str) -> Flip:
    """One bit of an object."""
    return Flip(key, bit_flipped(loop.store.objects[key], random.Random(key)), "object")


def is_named(report: ChainReport, place: str) -> bool:
    return not report.ok and any(place == f.at or place in f.why for f in report.findings)


# -- what is right --------------------------------------------------------------------------


def test_every_version_is_equal_by_all_three_proofs(learnt: Loop) -> None:
    said: list[tuple[str, int, int]] = []
    report = verify_chain(
        learnt.log,
        learnt.store,
        "p",
        report=lambda *args: said.append(args),
        sampler=sampler(learnt),
    )
    assert report.ok and not report.findings
    assert [p.kind for p in report.versions] == ["base", *["step"] * 3, "rollback", "step"]
    assert report.equal == 6 and all(p.equal and p.sha256 for p in report.versions)
    assert sum(p.gradients for p in report.versions) == 4
    assert sum(p.samples for p in report.versions) == 16
    assert said[-1] == ("version", 6, 6)
    events = {v.version: v for v in learnt.events(WeightVersion)}
    for proof in report.versions[1:]:
        event = events[proof.version]
        named = {**event.shards, **event.optimizer}
        assert proof.sha256 == {name: ref.sha256 for name, ref in named.items()}


def test_one_version_or_a_part_of_the_chain(learnt: Loop) -> None:
    one = verify_chain(learnt.log, learnt.store, "p", 2, full=False, since=2)
    assert one.ok and [p.version for p in one.versions] == [2]
    part = verify_chain(learnt.log, learnt.store, "p", 3, full=False)
    assert part.ok and [p.version for p in part.versions] == [0, 1, 2, 3]


def test_control_policies_are_proved_too(tmp_path: Path) -> None:
    loop = episode_loop(tmp_path)
    loop.submit(episode_mission(count=12))
    report = verify_chain(loop.log, loop.store, "p", sampler=sampler(loop))
    assert report.ok and report.equal == 4
    assert sum(p.samples for p in report.versions) == 12
    key = loop.events(SampleGroup)[5].episodes_ref.key
    assert is_named(proved(loop, object_flip(loop, key)), key)


# -- what was changed -----------------------------------------------------------------------


def flips(loop: Loop, seed: int) -> Iterator[Flip]:
    choose = random.Random(seed)
    records, objects = record_flips(loop, RECORDS, choose), object_flips(loop, choose)
    while True:
        yield next(records)
        yield next(objects)


def misses(loop: Loop, seed: int, count: int) -> list[Flip]:
    return [f for f in islice(flips(loop, seed), count) if not is_named(proved(loop, f), f.at)]


@pytest.mark.slow
def test_a_flipped_bit_or_digit_is_named(learnt: Loop) -> None:
    assert not misses(learnt, seed=1, count=80)


def test_a_manifest_that_breaks_what_reads_it_is_named(learnt: Loop) -> None:
    record, event = events_of(learnt, WeightVersion)[1]
    files = {name.replace("config", "cojfig"): ref for name, ref in event.files.items()}
    data = event.model_copy(update={"files": files}).to_bytes()
    log = ChangedLog(learnt.log, Flip(record.at, data, "files"), headers=False)
    report = verify_chain(log, learnt.store, "p", sampler=sampler(learnt))
    assert is_named(report, record.at) and "model_type" in str(report.findings)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_hundreds_of_flipped_bits_and_digits_are_named(learnt: Loop, seed: int) -> None:
    assert not misses(learnt, seed=100 + seed, count=200)


NOT_COMPUTED = (
    *(b'{"type', b',"schema_version', b',"epoch', b',"index', b',"metadata'),
    b',"code_sha256',
)
"""What nothing is made of, and a newest version's code, which no other version names."""


def unnamed_without_headers(loop: Loop, seed: int, count: int) -> list[Flip]:
    """Flips that no recomputation finds where no header has the hash of a record."""
    found = []
    records = record_flips(loop, (*RECORDS, "problems"), random.Random(seed))
    for flip in islice(records, count):
        log = ChangedLog(loop.log, flip, headers=False)
        report = verify_chain(log, loop.store, "p", sampler=sampler(loop))
        if not is_named(report, flip.at):
            found.append(flip)
    return found


def changed_field(loop: Loop, flip: Flip) -> bytes:
    """From the name of the field that was changed on."""
    record = next(r for t in (*RECORDS, "problems") for r in loop.records(t) if r.at == flip.at)
    value = record.value or b""
    where = next(i for i, (a, b) in enumerate(zip(value, flip.data, strict=True)) if a != b)
    return value[max(value.rfind(b',"', 0, where), 0) :]


@pytest.mark.slow
def test_what_was_computed_is_named_by_computing_it_again_alone(learnt: Loop) -> None:
    left = unnamed_without_headers(learnt, seed=3, count=5)
    assert all(changed_field(learnt, f).startswith(NOT_COMPUTED) for f in left)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_what_was_computed_is_named_by_computing_it_again_a_hundred_times(learnt: Loop) -> None:
    left = unnamed_without_headers(learnt, seed=4, count=100)
    assert all(changed_field(learnt, f).startswith(NOT_COMPUTED) for f in left)


def test_one_wrong_version_hides_no_other(learnt: Loop) -> None:
    (shard,) = learnt.events(WeightVersion)[2].shards.values()
    report = proved(learnt, object_flip(learnt, shard.key))
    assert wrong(report) == [2] and report.equal == 5
    assert [f.at for f in report.findings] == [shard.key]
    assert report.versions[2].at in report.findings[0].why
    upload, event = events_of(learnt, GradientUpload)[0]
    chunk = event.chunks[1]
    report = proved(learnt, object_flip(learnt, chunk.key))
    assert wrong(report) == [1] and report.equal == 5
    (finding,) = report.findings
    assert finding.at == upload.at and f"chunk 1: object {chunk.key}" in finding.why


def test_a_missing_object_that_was_not_swept_is_wrong(
    learnt: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ref,) = learnt.events(WeightVersion)[3].optimizer.values()
    monkeypatch.delitem(learnt.store.objects, ref.key)
    report = proved(learnt)
    assert wrong(report) == [3] and is_named(report, ref.key)


# -- what cannot be proved here -------------------------------------------------------------


def test_expired_versions_are_counted_apart(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.submit(loop.mission("m", 16))
    gone = [v for v in loop.events(WeightVersion) if v.version in (1, 2)]
    loop.log.append([message(VersionsExpired(policy="p", versions=[1, 2]))])
    loop.store.delete(ref.key for v in gone for ref in (*v.shards.values(), *v.optimizer.values()))
    uploads = [event for _, event in events_of(loop, GradientUpload)[:2]]
    loop.store.delete(ref.key for upload in uploads for ref in upload.chunks)
    report = verify_chain(loop.log, loop.store, "p")
    assert report.ok and (report.expired, report.equal, report.wrong) == (3, 2, 0)
    assert "expired" in report.versions[3].why[0] and not report.findings


def test_another_machine_is_no_false_alarm(learnt: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    here = environment().model_copy(update={"cpu_capability": "OTHER", "torch": "9.9"})
    monkeypatch.setattr("streams.learning.environment.environment", lambda device="cpu": here)
    report = proved(learnt, full=True)
    assert not report.ok and not report.findings and report.elsewhere == 4
    why = report.versions[1].why[0]
    assert "cpu_capability was" in why and "here it is OTHER" in why and "torch was" in why


def test_threads_are_as_many_as_then_and_put_back() -> None:
    before = torch.get_num_threads()
    with threads_of(environment().model_copy(update={"threads": before + 1})):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


# -- groups ---------------------------------------------------------------------------------


def test_groups_are_found_and_sampled_again(learnt: Loop) -> None:
    index = Index.read(learnt.log, proof_topics(True))
    group = learnt.events(SampleGroup)[3]
    (record,) = index.groups(group.problem_id)
    assert find_groups(index, record.at) == find_groups(index, group.group_id) == [record]
    assert len(last_of_mission(index, "m", 5)) == 5
    chosen = groups_of_version(index, 2, "p")
    assert len(chosen) == 4
    proofs = verify_groups(index, learnt.store, [record, *chosen], lambda policy: sampler(learnt))
    assert all(proof.equal for proof in proofs) and len(proofs) in (4, 5)


def test_a_changed_sample_is_said_by_field(learnt: Loop) -> None:
    record, group = events_of(learnt, SampleGroup)[6]
    rollout = group.rollouts[1]
    forged = rollout.model_copy(update={"reward": rollout.reward + 0.25})
    rollouts = [group.rollouts[0], forged, *group.rollouts[2:]]
    data = group.model_copy(update={"rollouts": rollouts}).to_bytes()
    log = ChangedLog(learnt.log, Flip(record.at, data, "reward"), headers=False)
    index = Index.read(log, proof_topics(True))
    (proof,) = verify_groups(
        index, learnt.store, find_groups(index, record.at), lambda policy: sampler(learnt)
    )
    assert proof.verdict == "wrong" and "rollouts.1.reward is" in proof.why[0]
