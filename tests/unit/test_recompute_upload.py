"""The full proof: a gradient made again of its samples, on a log that the whole loop wrote."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loop_world import PROOF, Loop

from consumers.read import complete
from consumers.recompute import (
    CannotRecompute,
    NotReproduced,
    recompute_upload,
    recompute_version,
)
from schemas.base import Event
from schemas.learning import GradientUpload, SampleGroup, VersionsExpired, WeightVersion
from schemas.missions import Mission
from schemas.records import Record

Change = Callable[[Any], dict[str, Any]]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """Four uploads, each of several backward passes, on four versions."""
    loop = Loop(tmp_path_factory.mktemp("loop"))
    loop.submit(loop.mission("m", 16, training={"micro_batch": 3}))
    return loop


def uploads(loop: Loop) -> list[Record]:
    found = loop.records("gradient-chunks")
    return [r for r in found if isinstance(r.event, GradientUpload)]


def altered(records: list[Record], kind: type[Event], change: Change) -> list[Record]:
    """The records with some fields of the events of a kind changed, their bytes as they were."""
    return [
        replace(r, event=r.event.model_copy(update=change(r.event)))
        if isinstance(r.event, kind)
        else r
        for r in records
    ]


def test_every_upload_is_made_again_to_the_last_bit(learnt: Loop) -> None:
    records = learnt.records(*PROOF)
    assert len({r.event.base_version for r in uploads(learnt)}) >= 3
    for record in uploads(learnt):
        named = [ref.sha256 for ref in complete(record.event, learnt.store).chunks]
        assert recompute_upload(records, learnt.store, record.at) == named
        assert len(named) > 1


def test_with_a_reference_and_in_bfloat16_too(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    settings = {"settings": {"kl": 0.5}}
    loop.submit(loop.mission("m", training={"dtype": "bfloat16"}, algorithm=settings))
    last = uploads(loop)[-1]
    assert last.event.stats["kl_reference"] > 0
    assert recompute_upload(loop.records(*PROOF), loop.store, last.at)


def test_where_fields_and_rollouts_lie_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("spill", "sampler"):
        monkeypatch.setattr(f"streams.learning.{module}.INLINE_BYTES", 0)
    loop = Loop(tmp_path)
    loop.submit(loop.mission("m"))
    groups = loop.events(SampleGroup)
    assert groups and all(group.rollouts_ref for group in groups)
    records = loop.records(*PROOF)
    for record in uploads(loop):
        assert record.event.spilled and not record.event.chunks
        assert recompute_upload(records, loop.store, record.at)
    assert recompute_version(records, loop.store, 2)


# -- what cannot be proved, and why ---------------------------------------------------------


def test_what_is_not_there_is_said(learnt: Loop) -> None:
    at, store, records = uploads(learnt)[-1].at, learnt.store, learnt.records(*PROOF)
    with pytest.raises(CannotRecompute, match=r"@99: no gradient upload of the log lies there"):
        recompute_upload(records, store, "gradient-chunks[0]@99")
    first = uploads(learnt)[-1].event.groups[0]
    less = [r for r in records if r.at != first.at]
    with pytest.raises(CannotRecompute, match=r"samples\[\d\]@\d+ \(group .*\) is not in the log"):
        recompute_upload(less, store, at)
    less = [r for r in records if not isinstance(r.event, Mission)]
    with pytest.raises(CannotRecompute, match="mission m is not in the log"):
        recompute_upload(less, store, at)
    less = [r for r in records if not isinstance(r.event, WeightVersion)]
    with pytest.raises(CannotRecompute, match="the log has no version 3 of policy p"):
        recompute_upload(less, store, at)


def test_an_expired_base_version_is_said(learnt: Loop) -> None:
    record = learnt.records("weight-versions")[0]
    gone = replace(record, event=VersionsExpired(policy="p", versions=[3]))
    with pytest.raises(CannotRecompute, match="version 3 of p has expired"):
        recompute_upload([*learnt.records(*PROOF), gone], learnt.store, uploads(learnt)[-1].at)


def test_a_missing_object_is_said(learnt: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    (shard,) = learnt.events(WeightVersion)[3].shards.values()
    monkeypatch.delitem(learnt.store.objects, shard.key)
    with pytest.raises(CannotRecompute, match=f"object {shard.key}.*was it swept"):
        recompute_upload(learnt.records(*PROOF), learnt.store, uploads(learnt)[-1].at)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda u: {"chunks": []}, "is empty: nothing was learnt from"),
        (lambda u: {"deterministic": False}, "does not call itself deterministic"),
        (
            lambda u: {"environment": u.environment.model_copy(update={"threads": 64})},
            "would not come out the same here: threads was 64, here it is 1",
        ),
    ],
)
def test_what_would_come_out_otherwise_is_refused(learnt: Loop, change: Change, why: str) -> None:
    records = altered(learnt.records(*PROOF), GradientUpload, change)
    with pytest.raises(CannotRecompute, match=why):
        recompute_upload(records, learnt.store, uploads(learnt)[0].at)


# -- what was changed -----------------------------------------------------------------------


def test_a_changed_sample_is_found(learnt: Loop) -> None:
    record = uploads(learnt)[1]
    place = record.event.groups[2].at
    records = [
        replace(r, value=(r.value or b"") + b" ") if r.at == place else r
        for r in learnt.records(*PROOF)
    ]
    with pytest.raises(NotReproduced, match="it was made of records with sha256"):
        recompute_upload(records, learnt.store, record.at)


def test_another_group_at_its_place_is_found(learnt: Loop) -> None:
    record = uploads(learnt)[1]
    records = altered(learnt.records(*PROOF), SampleGroup, lambda group: {"use": 7})
    with pytest.raises(NotReproduced, match=rf"\d is not group {record.event.groups[0].group_id}"):
        recompute_upload(records, learnt.store, record.at)


def test_the_chunk_that_came_out_otherwise_is_named(learnt: Loop) -> None:
    def forged(upload: GradientUpload) -> dict[str, Any]:
        other = upload.chunks[1].model_copy(update={"sha256": "0" * 64})
        libraries = {**upload.environment.libraries, "transformers": "1.0"}
        environment = upload.environment.model_copy(update={"libraries": libraries})
        chunks = [upload.chunks[0], other, *upload.chunks[2:]]
        return {"chunks": chunks, "environment": environment}

    records = altered(learnt.records(*PROOF), GradientUpload, forged)
    why = r"chunk 1 \(1 of \d+\) came out otherwise.*0000… in the log; transformers was 1.0, here"
    with pytest.raises(NotReproduced, match=why):
        recompute_upload(records, learnt.store, uploads(learnt)[0].at)


def test_other_settings_and_another_weight_are_found(learnt: Loop) -> None:
    at, records = uploads(learnt)[1].at, learnt.records(*PROOF)
    plain = learnt.mission("m", 16).algorithm.model_copy(update={"settings": {}})
    other = altered(records, Mission, lambda mission: {"algorithm": plain})
    with pytest.raises(NotReproduced, match=r"chunk 0 \((\d+) of \1\) came out otherwise"):
        recompute_upload(other, learnt.store, at)
    other = altered(records, GradientUpload, lambda upload: {"weight": upload.weight + 1})
    with pytest.raises(NotReproduced, match=r"its weight is [\d.]+ here, [\d.]+ in the log"):
        recompute_upload(other, learnt.store, at)
