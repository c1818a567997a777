"""Listing, comparing and exporting versions, the answer to a rollback, and the step proof."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learning_steps import POLICY, gradient, mission
from learning_world import World, world
from safetensors.torch import load

from consumers.read import read
from consumers.recompute import CannotRecompute, NotReproduced, recompute_version
from consumers.weights import (
    INDEX,
    MANIFEST,
    ExportRefused,
    History,
    NoSuchVersion,
    RollbackRefused,
    differing_fields,
    differing_tensors,
    export,
    history,
    rollback_answer,
    summary,
)
from infra import envelope
from schemas.effects import BadObject
from schemas.learning import RollbackRequest, VersionsExpired, WeightVersion
from schemas.missions import Mission, MissionReport
from schemas.records import Record
from streams.learning.models import new_model


def quiet(item: str) -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def learnt(tmp_path: Path) -> World:
    """Three steps of two uploads each."""
    at = world(tmp_path, uploads_per_step=2)
    for i in range(6):
        at.upload(i // 2, (i, i + 1), weight=1.0 + i)
        at.run()
    assert at.head().version == 3
    return at


def known(at: World, policy: str = POLICY) -> History:
    return history(read("weight-versions", log=at.log), policy)


def records(at: World) -> list[Record]:
    topics = ("missions", "gradient-chunks", "weight-versions")
    return [record for topic in topics for record in read(topic, log=at.log)]


# -- history ----------------------------------------------------------------------------------


def test_the_history_has_every_version(learnt: World) -> None:
    found = known(learnt)
    assert list(found.versions) == [0, 1, 2, 3] and not found.expired
    row = summary(found.version(2), expired=False)
    assert (row["adam_step"], row["uploads"], row["groups"], row["objects"]) == (2, 2, 4, "kept")
    assert json.loads(json.dumps(row)) == row


def test_what_does_not_exist_is_said_with_what_does(learnt: World) -> None:
    with pytest.raises(NoSuchVersion, match=r"main has versions 0 to 3, not 9"):
        known(learnt).version(9)
    with pytest.raises(NoSuchVersion, match=r"other has no weight version.*the log has main"):
        known(learnt, "other")
    with pytest.raises(NoSuchVersion, match="the log has none"):
        history([], "main")


def test_an_expired_version_can_be_shown_but_not_fetched(learnt: World) -> None:
    learnt.send(VersionsExpired(policy=POLICY, versions=[1, 2]))
    found = known(learnt)
    assert found.version(1).version == 1
    with pytest.raises(NoSuchVersion, match=r"version 1 of main has expired; kept are 0, 3"):
        found.kept(1)


# -- comparing --------------------------------------------------------------------------------


def test_differences_of_tensors_are_their_norms(learnt: World) -> None:
    a, b = known(learnt).version(0), known(learnt).version(3)
    found = {t.name: t for t in differing_tensors(learnt.store, a, b, quiet)}
    before = {n: t for ref in a.shards.values() for n, t in load(learnt.store.get(ref)).items()}
    after = {n: t for ref in b.shards.values() for n, t in load(learnt.store.get(ref)).items()}
    assert found.keys() == before.keys()
    for name, tensor in found.items():
        apart = float((after[name].double() - before[name].double()).norm())
        assert tensor.difference == pytest.approx(apart) and apart > 0
        assert tensor.norm == pytest.approx(float(before[name].double().norm()))
        assert tensor.shape == tuple(before[name].shape)
    assert all(t.difference == 0 for t in differing_tensors(learnt.store, a, a, quiet))


def test_differences_of_manifests_are_named(learnt: World) -> None:
    fields = differing_fields(known(learnt).version(1), known(learnt).version(2))
    assert fields["version"] == (1, 2) and fields["step.step"] == (1, 2)
    assert fields["totals.groups"] == (2, 4)
    assert "policy" not in fields and "files.config.json" not in fields
    assert any(name.startswith("shards.model-00001") for name in fields)


def test_other_tensors_are_not_compared(learnt: World) -> None:
    a = known(learnt).version(1)
    b = a.model_copy(update={"layout": a.layout.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(NoSuchVersion, match="different tensors"):
        list(differing_tensors(learnt.store, a, b, quiet))


# -- exporting --------------------------------------------------------------------------------


def test_an_export_is_the_version_file_for_file(learnt: World, tmp_path: Path) -> None:
    event, folder = known(learnt).version(2), tmp_path / "out"
    written = export(learnt.store, event, folder, quiet)
    assert {p.name for p in written} == {*event.files, *event.shards, INDEX, MANIFEST}
    for name, ref in {**event.files, **event.shards}.items():
        assert (folder / name).read_bytes() == learnt.store.get(ref)
    assert WeightVersion.model_validate_json((folder / MANIFEST).read_bytes()) == event
    index = json.loads((folder / INDEX).read_text())
    assert index["weight_map"]["head.weight"] == "model-00002-of-00002.safetensors"
    # Again into the same folder is fine, as is one that was cut off.
    (folder / "config.json").rename(folder / "config.json.part")
    assert export(learnt.store, event, folder, quiet) == written


def test_an_export_refuses_a_folder_with_other_files(learnt: World, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportRefused, match=r"has other files in it"):
        export(learnt.store, known(learnt).version(2), tmp_path, quiet)


def test_an_export_stays_in_its_folder(learnt: World, tmp_path: Path) -> None:
    event = known(learnt).version(2)
    evil = event.model_copy(update={"files": {"../evil.json": event.files["config.json"]}})
    with pytest.raises(ExportRefused, match=r"outside of the folder: \.\./evil.json"):
        export(learnt.store, evil, tmp_path / "out", quiet)
    assert not (tmp_path / "evil.json").exists()


def test_a_spoilt_object_is_not_exported(learnt: World, tmp_path: Path) -> None:
    event, folder = known(learnt).version(2), tmp_path / "out"
    shard, ref = sorted(event.shards.items())[0]
    learnt.store.objects[ref.key] = b"spoilt"
    with pytest.raises(BadObject):
        export(learnt.store, event, folder, quiet)
    assert not (folder / shard).exists()


def hugging_face(at: World, of: Mission, folder: Path) -> MissionReport:
    """The report of a mission on a real GPT-2, in several shards."""
    new_model(of.model.new, folder, shard_bytes=200_000)
    refs = {p.name: at.store.put(f"models/gpt2/{p.name}", p) for p in sorted(folder.iterdir())}
    shards = {name: ref for name, ref in refs.items() if name.endswith(".safetensors")}
    assert len(shards) > 1
    return MissionReport(
        mission_id=of.mission_id,
        policy=of.policy,
        stage="prepared",
        base_files={n: r for n, r in refs.items() if n not in shards and n != INDEX},
        base_shards=shards,
    )


@pytest.mark.slow
def test_transformers_loads_an_export(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    at = World(tmp_path / "world", mission(policy="unused"))
    at.mission = mission(mission_id="hf", chunk_bytes=1 << 16)
    at.send(at.mission, hugging_face(at, at.mission, tmp_path / "base"))
    at.run()
    total = at.head().layout.parameters
    vector = torch.randn(total, generator=torch.Generator().manual_seed(0))
    at.upload(0, (0, 4), vector=vector)
    at.run()
    assert at.head().version == 1
    export(at.store, at.head(), tmp_path / "out", quiet)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    weights = {n: t for r in at.head().shards.values() for n, t in load(at.store.get(r)).items()}
    state = model.state_dict()
    assert sum(t.numel() for t in weights.values()) == total
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    assert tokenizer("cat=")["input_ids"]


# -- rolling back -----------------------------------------------------------------------------


def ask(at: World, to: int) -> Record:
    event = RollbackRequest(request_id="r", policy=POLICY, to_version=to)
    (record,) = at.log.append([envelope.message(event)])
    return replace(record, event=event)


def test_the_answer_to_a_rollback_is_the_version_it_made(learnt: World) -> None:
    first, second = ask(learnt, 1), ask(learnt, 2)
    learnt.run()
    for asked, version, parent in ((first, 4, 1), (second, 5, 2)):
        answers = [rollback_answer(asked, r) for r in read("weight-versions", log=learnt.log)]
        (answer,) = [a for a in answers if a]
        assert (answer.version, answer.parent) == (version, parent)


def test_a_rollback_that_cannot_be_met_is_said(learnt: World) -> None:
    asked = ask(learnt, 77)
    learnt.run()
    with pytest.raises(RollbackRefused, match="version 77 of main does not exist"):
        for record in read("dead-letters", log=learnt.log):
            rollback_answer(asked, record)
    other = replace(asked, offset=asked.offset + 1)
    assert [rollback_answer(other, r) for r in read("dead-letters", log=learnt.log)] == [None]


# -- the step proof ---------------------------------------------------------------------------


def test_every_step_can_be_made_again_to_the_last_bit(learnt: World) -> None:
    for version in (1, 2, 3):
        event = known(learnt).version(version)
        named = {**event.shards, **event.optimizer}
        found = recompute_version(records(learnt), learnt.store, version)
        assert found == {name: ref.sha256 for name, ref in named.items()}


def test_a_step_after_a_rollback_can_be_made_again(learnt: World) -> None:
    ask(learnt, 1)
    for i in (6, 7):
        learnt.upload(1, (i, i + 1))
    learnt.run()
    assert len(recompute_version(records(learnt), learnt.store, 5)) == 4
    with pytest.raises(CannotRecompute, match=r"version 4 is a rollback.*recompute version 1"):
        recompute_version(records(learnt), learnt.store, 4)
    with pytest.raises(CannotRecompute, match="version 0 is a base"):
        recompute_version(records(learnt), learnt.store, 0)


def test_a_changed_chunk_is_found(learnt: World) -> None:
    key = next(k for k in learnt.store.keys("gradients/") if "main-2-3" in k)
    learnt.store.objects[key] = gradient(5).numpy().tobytes()[: len(learnt.store.objects[key])]
    with pytest.raises(NotReproduced, match="upload main-2-3: chunk 0"):
        recompute_version(records(learnt), learnt.store, 2)


def test_a_changed_record_is_found(learnt: World) -> None:
    def changed(record: Record) -> Record:
        spoilt = record.at.startswith("gradient-chunks") and record.offset == 2
        return replace(record, value=(record.value or b"") + b" ") if spoilt else record

    with pytest.raises(NotReproduced, match=r"@2: upload main-2-3 by sha256"):
        recompute_version(map(changed, records(learnt)), learnt.store, 2)


def test_other_settings_give_other_weights(learnt: World) -> None:
    def changed(record: Record) -> Record:
        other = mission(uploads_per_step=2, learning_rate=2e-3)
        return replace(record, event=other) if isinstance(record.event, Mission) else record

    with pytest.raises(NotReproduced, match="came out otherwise"):
        recompute_version(map(changed, records(learnt)), learnt.store, 2)


def test_another_environment_is_refused(learnt: World) -> None:
    def changed(record: Record) -> Record:
        if not isinstance(record.event, WeightVersion):
            return record
        elsewhere = record.event.environment.model_copy(update={"threads": 64})
        return replace(record, event=record.event.model_copy(update={"environment": elsewhere}))

    with pytest.raises(CannotRecompute, match="would not come out the same here: threads was 64"):
        recompute_version(map(changed, records(learnt)), learnt.store, 2)


def test_an_expired_parent_is_said(learnt: World) -> None:
    learnt.send(VersionsExpired(policy=POLICY, versions=[1]))
    with pytest.raises(CannotRecompute, match="version 1 of main has expired"):
        recompute_version(records(learnt), learnt.store, 2)


def test_what_is_not_in_the_log_is_said(learnt: World) -> None:
    with pytest.raises(CannotRecompute, match="no version 8"):
        recompute_version(records(learnt), learnt.store, 8)
    less = [r for r in records(learnt) if not isinstance(r.event, Mission)]
    with pytest.raises(CannotRecompute, match="mission m is not in the log"):
        recompute_version(less, learnt.store, 2)
