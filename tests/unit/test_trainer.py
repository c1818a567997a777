"""The trainer on a store in memory, and the gradient that it makes."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning_steps import finished
from torch import Tensor

from consumers.read import complete
from infra.interpreter import run_in_memory
from infra.memory.store import MemoryStore
from schemas.base import Event, Sources
from schemas.effects import Outputs, Unready
from schemas.learning import (
    Environment,
    GradientUpload,
    Layout,
    Rollout,
    SampleGroup,
    WeightVersion,
)
from schemas.missions import AlgorithmSpec, Mission, MissionReport, NewModel
from schemas.records import Batch, Partition, Record
from schemas.tensors import ObjectRef
from schemas.topics import INLINE_BYTES
from streams.learning.admission import misfit, refusal
from streams.learning.gradients import flat_gradient, policy_logprobs, upload_gradient
from streams.learning.keys import manifest_key
from streams.learning.layout import header_bytes, read_layout
from streams.learning.models import PolicyModel, new_model
from streams.learning.rollout import dump_rollouts
from streams.learning.spill import spill
from streams.learning.trainer import Trainer

CHUNK = 1000
SPEC = NewModel(alphabet="abcdef=", layers=1, heads=2, width=8, positions=12)


def mission(name: str = "m", **parts: Any) -> Mission:
    return Mission.model_validate(
        {
            "mission_id": name,
            "policy": "p",
            "problems": {"name": "spell_backward"},
            "algorithm": {"settings": {"entropy": 0.05}},
            "training": {"groups_per_upload": 4, "staleness_max": 2},
            "budget": {"versions": 1},
            **parts,
        }
    )


def group(name: str, version: int = 0, mission_id: str = "m", **fields: Any) -> SampleGroup:
    """Three rollouts of different lengths, made up from the name alone."""
    seed = hashlib.sha256(name.encode()).digest()
    rollouts = [
        Rollout(
            tokens=[2 + seed[4 * i + t] % 7 for t in range(2 + i)],
            logprobs=[-1.5 - seed[4 * i + t] / 256 for t in range(2 + i)],
            reward=seed[i] / 255,
            stop="length",
        )
        for i in range(3)
    ]
    known = {
        "problem_id": name,
        "mission_id": mission_id,
        "policy": "p",
        "prompt_tokens": [2 + seed[20 + t] % 7 for t in range(1 + seed[30] % 4)],
        "rollouts": rollouts,
        "version": version,
        "source": {"problems-0": (0, 1)},
    }
    return SampleGroup.model_validate({**known, **fields})


@dataclass
class World:
    """A base version in a store, a trainer that knows it, and a log of samples."""

    store: MemoryStore
    base: WeightVersion
    trainer: Trainer = field(default_factory=lambda: Trainer("p"))
    offsets: dict[int, int] = field(default_factory=dict)

    def observe(self, *events: Event) -> None:
        for event in events:
            topic = event.topic
            self.trainer.observe(Record(Partition(topic, 0), 0, b"", event.to_bytes(), event=event))

    def head(self, version: int, *lineage: int) -> None:
        fields = {"version": version, "lineage": list(lineage), "kind": "step"}
        self.observe(self.base.model_copy(update=fields))

    def batch(self, *groups: tuple[int, SampleGroup], dead: tuple[str, ...] = ()) -> Batch:
        """Groups with their partitions, appended in order."""
        records: list[Record] = []
        spans: list[Sources] = []
        for number, one in groups:
            offset = self.offsets.get(number, 0)
            self.offsets[number] = offset + 1
            place = Partition("samples", number)
            records.append(Record(place, offset, b"", one.to_bytes(), event=one))
            spans.append({str(place): (offset, offset + 1)})
        source = {
            name: (min(s[name][0] for s in spans if name in s), self.offsets[int(name[-1])])
            for span in spans
            for name in span
        }
        return Batch(records, spans, source, dead)

    def run(self, batch: Batch) -> tuple[list[GradientUpload], Outputs]:
        commit, outputs = run_in_memory(self.trainer.process(batch), self.store)
        assert commit == "commit"
        uploads = [event for event in outputs.events if isinstance(event, GradientUpload)]
        assert len(uploads) == len(outputs.events)
        return uploads, outputs

    def upload(self, batch: Batch) -> GradientUpload:
        uploads, _ = self.run(batch)
        assert len(uploads) == 1
        return uploads[0]

    def vector(self, upload: GradientUpload) -> "np.ndarray[Any, Any]":
        return np.frombuffer(b"".join(self.store.get(ref) for ref in upload.chunks), "<f4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    new_model(SPEC, path)
    return path


@pytest.fixture
def world(folder: Path) -> World:
    torch.set_num_threads(1)
    store = MemoryStore()
    refs = {path.name: store.put(f"weights/p/0/{path.name}", path) for path in folder.iterdir()}
    shards = {name: ref for name, ref in refs.items() if name.endswith(".safetensors")}
    files = {name: ref for name, ref in refs.items() if name not in shards}
    layout = read_layout({name: header_bytes(folder / name) for name in shards})
    base = WeightVersion(
        policy="p",
        version=0,
        kind="base",
        mission_id="m",
        algorithm=AlgorithmSpec(),
        code_sha256="0" * 64,
        files=files,
        shards=shards,
        layout=Layout(parameters=layout.total, chunk_elements=CHUNK, sha256=layout.sha256),
        environment=Environment(torch="", threads=1, cpu_capability=""),
    )
    built = World(store, base)
    built.observe(mission(), base)
    return built


@pytest.fixture
def held(world: World) -> PolicyModel:
    model = PolicyModel(mission().training)
    run_in_memory(_following(model, world.base), world.store)
    return model


def _following(model: PolicyModel, version: WeightVersion) -> Any:
    yield from model.follow(version)
    return "commit"


def layout_of(folder: Path) -> Any:
    return read_layout({"model.safetensors": header_bytes(folder / "model.safetensors")})


def test_it_waits_for_a_version_and_for_the_mission(world: World) -> None:
    fresh = Trainer("p")
    assert fresh.waiting_for() is not None
    assert world.trainer.waiting_for() is None
    assert world.trainer.intake().max_batch == 4
    with pytest.raises(Unready, match=r"mission other \(of samples\[0\]@0\)"):
        world.run(world.batch((0, group("a", mission_id="other"))))


def test_of_missions_with_one_id_the_first_counts(world: World) -> None:
    world.observe(mission(training={"groups_per_upload": 9, "staleness_max": 0}))
    assert world.trainer.intake().max_batch == 4
    world.head(2, 1, 0)
    assert [use.version for use in world.upload(world.batch((0, group("a", 1)))).groups] == [1]


def test_versions_and_missions_of_other_policies_are_not_its_own(world: World) -> None:
    world.observe(world.base.model_copy(update={"policy": "q", "version": 9}))
    assert world.upload(world.batch((0, group("a")))).base_version == 0


def test_an_upload_is_the_gradient_in_hashed_chunks(
    world: World, folder: Path, held: PolicyModel
) -> None:
    groups = [group("a"), group("b")]
    batch = world.batch((0, groups[0]), (0, groups[1]))
    upload = world.upload(batch)
    expected = upload_gradient(held.model, layout_of(folder), mission(), groups)
    np.testing.assert_array_equal(world.vector(upload), expected.vector.numpy())
    assert expected.vector.abs().sum() > 0
    assert [ref.shape for ref in upload.chunks[:-1]] == [(CHUNK,)] * (len(upload.chunks) - 1)
    assert upload.chunks[0].key.startswith(f"gradients/p/0/{upload.upload_id}/")
    assert upload.weight == sum(len(r.tokens) for g in groups for r in g.rollouts)
    values = b"".join(record.value or b"" for record in batch.records)
    assert upload.records_sha256 == hashlib.sha256(values).hexdigest()
    assert upload.source == {"samples-0": (0, 2)}
    assert [(use.at, use.rollouts) for use in upload.groups] == [
        ("samples[0]@0", 3),
        ("samples[0]@1", 3),
    ]
    assert upload.deterministic
    assert upload.environment is not None
    assert upload.environment.threads == 1
    assert GradientUpload.model_validate_json(upload.to_bytes()) == upload
    assert refusal(upload, world.base, {}, 2) is None
    assert misfit(upload, world.base.layout) is None


def test_a_long_list_of_chunks_is_an_object_beside_them(world: World) -> None:
    batch = world.batch((0, group("a")), (0, group("b")))
    inline = world.upload(batch)
    assert inline.spilled is None
    layout = world.base.layout.model_copy(update={"chunk_elements": 2})
    world.base = world.base.model_copy(update={"layout": layout})
    world.trainer = Trainer("p")
    world.observe(mission(), world.base)
    upload = world.upload(batch)
    assert upload.spilled and upload.chunks == []
    assert upload.spilled.key.startswith(f"gradients/p/0/{upload.upload_id}/fields-")
    assert upload.count("chunks") == -(-layout.parameters // 2) > 310
    assert len(upload.to_bytes()) < INLINE_BYTES < upload.spilled.size_bytes
    np.testing.assert_array_equal(world.vector(complete(upload, world.store)), world.vector(inline))


def test_a_head_with_moved_fields_is_followed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = world.batch((0, group("fresh", 3)), (0, group("abandoned", 2)))
    head = world.base.model_copy(update={"version": 3, "lineage": [1, 0], "kind": "step"})
    monkeypatch.setattr("streams.learning.spill.INLINE_BYTES", 0)
    world.observe(finished(spill(head, partial(manifest_key, "p", 3)), world.store))
    monkeypatch.undo()
    upload = world.upload(batch)
    assert [use.group_id for use in upload.groups] == ["fresh.0"]
    assert [(drop.group_id, drop.reason) for drop in upload.dropped] == [
        ("abandoned.0", "abandoned")
    ]
    assert upload.base_version == 3 and len(upload.chunks) > 1


def test_the_order_is_that_of_the_log_not_of_arrival(world: World) -> None:
    first, second, third = group("a"), group("b"), group("c")
    batch = world.batch((0, first), (0, second), (2, third))
    turned = Batch(batch.records[::-1], batch.spans[::-1], batch.source)
    one, other = world.upload(batch), world.upload(turned)
    assert one == other
    assert [use.group_id for use in one.groups] == ["a.0", "b.0", "c.0"]


def test_what_is_stale_abandoned_or_cancelled_is_listed_not_learnt(world: World) -> None:
    """The head continues 6, 3, 2, 1: a rollback to 3 left 4 and 5 behind."""
    world.head(7, 6, 3, 2, 1)
    batch = world.batch(
        (0, group("fresh", 7)),
        (0, group("bound", 3)),
        (0, group("stale", 2)),
        (0, group("abandoned", 5)),
        (0, group("ancient", 0)),
        (0, group("cancelled", 7, outcome="cancelled", rollouts=[])),
    )
    upload = world.upload(batch)
    assert [use.group_id for use in upload.groups] == ["fresh.0", "bound.0"]
    assert [(drop.group_id, drop.reason) for drop in upload.dropped] == [
        ("stale.0", "stale"),
        ("abandoned.0", "abandoned"),
        ("ancient.0", "stale"),
        ("cancelled.0", "cancelled"),
    ]
    assert upload.stats["staleness_mean"] == 1.0
    assert upload.base_version == 7


def test_a_group_of_a_version_not_seen_yet_waits(world: World) -> None:
    with pytest.raises(Unready, match="version 3, not seen yet"):
        world.run(world.batch((0, group("a", 3))))


def test_with_nothing_left_an_empty_upload_is_published(world: World) -> None:
    world.head(9, 8, 7, 6, 5)
    upload = world.upload(world.batch((1, group("old", 5))))
    assert (upload.chunks, upload.weight, upload.groups) == ([], 0, [])
    assert upload.source == {"samples-1": (0, 1)}
    assert upload.dropped[0].reason == "stale"


def test_dead_letters_inside_the_range_are_listed(world: World) -> None:
    upload = world.upload(Batch([], [], {"samples-3": (4, 5)}, ("samples[3]@4",)))
    assert upload.source == {"samples-3": (4, 5)}
    assert [(drop.at, drop.reason) for drop in upload.dropped] == [("samples[3]@4", "unreadable")]


def test_rollouts_beside_the_event_give_the_same_gradient(world: World) -> None:
    inline = group("a")
    ref = world.store.put("rollouts/a", dump_rollouts(inline.rollouts))
    stored = group("a", rollouts=[], rollouts_ref=ref)
    one = world.upload(world.batch((0, inline)))
    other = world.upload(world.batch((0, stored)))
    assert [c.sha256 for c in one.chunks] == [c.sha256 for c in other.chunks]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"rollouts": []}, "0 rollouts"),
        ({"prompt_tokens": []}, "0 prompt tokens"),
        ({"prompt_tokens": [99]}, "outside the vocabulary of 9"),
        ({"prompt_tokens": [3] * 11}, "longer than the model's 12 positions"),
        ({"rollouts_ref": ObjectRef(key="k", sha256="0" * 64, size_bytes=1)}, "object k: sha256"),
    ],
)
def test_what_cannot_be_learnt_from_is_buried(
    world: World, broken: dict[str, Any], reason: str
) -> None:
    world.store.put("k", b"[]")
    batch = world.batch((0, group("good")), (0, group("bad", **broken)))
    uploads, outputs = world.run(batch)
    assert [use.group_id for use in uploads[0].groups] == ["good.0"]
    assert [(drop.group_id, drop.reason) for drop in uploads[0].dropped] == [
        ("bad.0", "unreadable")
    ]
    assert [buried.record.offset for buried in outputs.buried] == [1]
    assert reason in outputs.buried[0].detail


def test_a_batch_of_two_missions_is_two_uploads_without_gap_or_overlap(world: World) -> None:
    world.observe(mission("n"))
    batch = world.batch(
        (0, group("a")), (0, group("b", mission_id="n")), (1, group("c", mission_id="n"))
    )
    batch = Batch(batch.records, batch.spans, {**batch.source, "samples-2": (0, 4)}, ("at",))
    uploads, _ = world.run(batch)
    assert [(upload.mission_id, upload.source) for upload in uploads] == [
        ("m", {"samples-0": (0, 1)}),
        ("n", {"samples-0": (1, 2), "samples-1": (0, 1), "samples-2": (0, 4)}),
    ]
    assert len({upload.upload_id for upload in uploads}) == 2


def test_equal_batches_give_equal_uploads_in_another_trainer(world: World) -> None:
    batch = world.batch((0, group("a")), (1, group("b")))
    first = world.upload(batch)
    world.trainer = Trainer("p")
    world.observe(mission(), world.base)
    assert world.upload(batch) == first


def test_the_reference_is_the_base_model_of_the_policy(world: World) -> None:
    spec = {"settings": {"kl": 0.5}}
    world.trainer = Trainer("p")
    world.observe(mission(algorithm=spec), world.base)
    batch = world.batch((0, group("a")))
    with pytest.raises(Unready, match="no base model of policy p"):
        world.run(batch)
    report = MissionReport(mission_id="m", policy="p", stage="prepared")
    files = {"base_files": world.base.files, "base_shards": world.base.shards}
    world.observe(report.model_copy(update=files))
    assert world.upload(batch).stats["kl_reference"] == 0


def test_a_report_that_names_no_base_leaves_that_of_the_policy(world: World) -> None:
    """As the provider wrote them of a policy's second mission, once."""
    report = MissionReport(mission_id="m", policy="p", stage="prepared")
    files = {"base_files": world.base.files, "base_shards": world.base.shards}
    world.observe(report.model_copy(update=files), report.model_copy(update={"mission_id": "n"}))
    world.observe(mission("n", algorithm={"settings": {"kl": 0.5}}))
    upload = world.upload(world.batch((0, group("a", mission_id="n"))))
    assert "kl_reference" in upload.stats


@pytest.mark.parametrize("name", ["grpo", "gspo", "treepo"])
def test_micro_batches_add_up_to_the_whole(folder: Path, held: PolicyModel, name: str) -> None:
    groups = [group(letter) for letter in "abcd"]
    spec = {"name": name, "settings": {"entropy": 0.05}}
    whole = upload_gradient(held.model, layout_of(folder), mission(algorithm=spec), groups)
    split = mission(algorithm=spec, training={"micro_batch": 5})
    parts = upload_gradient(held.model, layout_of(folder), split, groups)
    assert (whole.micro_batches, parts.micro_batches) == ([12], [5, 5, 2])
    torch.testing.assert_close(parts.vector, whole.vector, rtol=1e-4, atol=1e-7)
    assert parts.stats == pytest.approx(whole.stats, rel=1e-4, abs=1e-7)
    assert parts.weight == whole.weight


def test_padding_and_company_do_not_change_a_row(held: PolicyModel) -> None:
    prompts, completions = [[2, 3, 4], [5], [6, 7]], [[3, 1], [4, 4, 4, 1], [2]]
    together = policy_logprobs(held.model, prompts, completions)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        alone = policy_logprobs(held.model, [prompt], [completion])
        for name in ("logp", "entropy", "mask"):
            found: Tensor = getattr(together, name)[row, : len(completion)]
            torch.testing.assert_close(found, getattr(alone, name)[0], rtol=1e-5, atol=1e-6)
    assert together.mask.sum() == 7
    assert float(together.logp.detach()[together.mask == 0].abs().sum()) == 0


def test_scores_are_those_of_the_model(held: PolicyModel) -> None:
    ids = torch.tensor([[2, 3, 4, 5]])
    logits = held.model(input_ids=ids).logits[0].detach()
    expected = (logits / 0.7).log_softmax(-1)
    found = policy_logprobs(held.model, [[2, 3]], [[4, 5]], temperature=0.7)
    torch.testing.assert_close(found.logp[0].detach(), expected[[1, 2], [4, 5]])
    entropy = -(expected.exp() * expected).sum(-1)[1:3]
    torch.testing.assert_close(found.entropy[0].detach(), entropy)


def test_a_nucleus_keeps_the_sampled_token_and_finite_gradients(held: PolicyModel) -> None:
    """With top-p near zero only the best token and the sampled one are left."""
    logits = held.model(input_ids=torch.tensor([[2]])).logits[0, 0].detach()
    worst = int(logits.argmin())
    found = policy_logprobs(held.model, [[2]], [[worst]], top_p=1e-6)
    pair = torch.stack([logits[worst], logits.max()]).log_softmax(-1)
    torch.testing.assert_close(found.logp[0, 0].detach(), pair[0])
    held.model.zero_grad()
    (found.logp.sum() + found.entropy.sum()).backward()
    gradients = [p.grad for p in held.model.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_a_parameter_without_gradient_is_zeros_in_its_place(
    folder: Path, held: PolicyModel
) -> None:
    held.model.zero_grad(set_to_none=True)
    layout = layout_of(folder)
    slot = layout.slots[3]
    dict(held.model.named_parameters())[slot.name].grad = torch.full(slot.shape, 2.0)
    vector = flat_gradient(held.model, layout)
    assert vector.shape == (layout.total,)
    assert float(vector.sum()) == 2.0 * (slot.stop - slot.start)
    assert float(vector[slot.start : slot.stop].min()) == 2.0


@pytest.mark.slow
def test_the_log_gives_the_same_bits_in_a_fresh_process(
    folder: Path, held: PolicyModel, tmp_path: Path
) -> None:
    """Here the model was used before and is fetched through a store; there it is read from disk."""
    setting, groups = mission(training={"micro_batch": 7}), [group(name) for name in "abcdefgh"]
    document = {
        "mission": setting.model_dump(mode="json"),
        "groups": [one.model_dump(mode="json") for one in groups],
    }
    (tmp_path / "batch.json").write_text(json.dumps(document))
    command = [sys.executable, "-c", _RECOMPUTE, str(folder), str(tmp_path / "batch.json")]
    environment = {**os.environ, "PYTHONHASHSEED": "17"}
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    here = upload_gradient(held.model, layout_of(folder), setting, groups)
    sha256, stats = answer.decode().split(maxsplit=1)
    assert sha256 == hashlib.sha256(here.vector.numpy().tobytes()).hexdigest()
    assert json.loads(stats) == here.stats


_RECOMPUTE = """
import hashlib, json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM
from schemas.learning import SampleGroup
from schemas.missions import Mission
from streams.learning.gradients import upload_gradient
from streams.learning.layout import header_bytes, read_layout
torch.set_num_threads(1)
folder, batch = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
layout = read_layout({p.name: header_bytes(p) for p in folder.glob("*.safetensors")})
groups = [SampleGroup.model_validate(group) for group in batch["groups"]]
model = AutoModelForCausalLM.from_pretrained(folder)
found = upload_gradient(model, layout, Mission.model_validate(batch["mission"]), groups)
print(hashlib.sha256(found.vector.numpy().tobytes()).hexdigest(), json.dumps(found.stats))
"""
