"""Models made new, taken from a base, and followed across versions."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from tiny import SPEC, follow, peaked_folder, version_of
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from infra.memory.store import MemoryStore
from schemas.effects import BadObject
from schemas.missions import ModelSpec, NewModel, Training
from streams.learning.engines import Row
from streams.learning.engines.transformers import TransformersEngine
from streams.learning.models import (
    ModelUnavailable,
    PolicyModel,
    PromptError,
    WrongWeights,
    base_folder,
    new_model,
)

CPU = Training(device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return peaked_folder(tmp_path / "model")


def changed(folder: Path, factor: float, only: str = "model") -> None:
    """Scale the tensors of a folder whose shard's name contains `only`."""
    for shard in folder.glob(f"*{only}*.safetensors"):
        shard.write_bytes(
            save({n: t * factor for n, t in load_file(shard).items()}, {"format": "pt"})
        )


def same_weights(model: torch.nn.Module, folder: Path) -> bool:
    wanted = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    held = model.state_dict()
    return all(torch.equal(held[name], tensor) for name, tensor in wanted.items())


def test_equal_specs_make_equal_bytes_and_leave_the_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    new_model(SPEC, tmp_path / "a")
    assert torch.equal(before, torch.random.get_rng_state())
    new_model(SPEC, tmp_path / "b")
    new_model(SPEC.model_copy(update={"seed": 1}), tmp_path / "c")
    a, b, c = ((tmp_path / x / "model.safetensors").read_bytes() for x in "abc")
    assert a == b != c


def test_a_new_model_is_untied_float32_without_dropout(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    assert {"lm_head.weight", "transformer.wte.weight"} <= set(stored)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    model = AutoModelForCausalLM.from_pretrained(folder).train()
    ids = torch.tensor([[2, 3, 4]])
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_the_tokenizer_has_one_token_a_character_and_decodes_to_the_same_text(
    folder: Path,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = SPEC.alphabet + "  a = b"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == len(SPEC.alphabet) + 2
    assert tokenizer(["abc", "a"], padding=True)["input_ids"][1][:2] == [tokenizer.pad_token_id] * 2


def test_a_width_that_the_heads_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="width 10 is no multiple of heads 4"):
        new_model(NewModel(width=10), tmp_path)


def test_generate_on_the_exported_folder_agrees_with_the_engine(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = ["abc", "g", "fe = d"]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    generated = model.generate(**batch, do_sample=False, max_new_tokens=8)[
        :, batch.input_ids.shape[1] :
    ]
    rows = [Row(tuple(tokenizer(p)["input_ids"]), 0, 0, 8) for p in prompts]
    segments = TransformersEngine(model).generate(rows, 0.0, 1.0, {tokenizer.eos_token_id})
    for segment, row in zip(segments, generated.tolist(), strict=True):
        assert segment.tokens == row[: len(segment.tokens)]
        assert segment.ended or len(segment.tokens) == 8


def test_a_base_folder_with_tied_weights_stores_one_of_them(tmp_path: Path, folder: Path) -> None:
    tied = tmp_path / "tied"
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).to(torch.bfloat16).save_pretrained(tied)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tied)
    base_folder(ModelSpec(base=str(tied)), tmp_path / "base")
    stored = load_file(tmp_path / "base" / "model.safetensors")
    assert "lm_head.weight" not in stored
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    store, model = MemoryStore(), PolicyModel(CPU)
    follow(model, version_of(store, tmp_path / "base", 0), store)
    changed(tmp_path / "base", 2.0)
    follow(model, version_of(store, tmp_path / "base", 1), store)
    assert same_weights(model.model, tmp_path / "base")
    held = model.model.state_dict()
    assert held["lm_head.weight"].data_ptr() == held["transformer.wte.weight"].data_ptr()


def test_a_base_that_is_not_there_is_told_with_how_to_mend_it(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    with pytest.raises(
        ModelUnavailable, match=r"model.base .*nothing.*: no such folder here.*base: new"
    ):
        base_folder(ModelSpec(base=missing), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelUnavailable, match="is it a causal language model"):
        base_folder(ModelSpec(base=str(tmp_path / "empty")), tmp_path / "out")


def test_following_swaps_in_place_and_fetches_only_what_changed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    new_model(SPEC, folder, shard_bytes=8000)
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 2
    (folder / "model.safetensors.index.json").unlink()
    store, model = MemoryStore(), PolicyModel(CPU)
    keys = follow(model, version_of(store, folder, 0), store)
    assert len(keys) == len(list(folder.iterdir()))
    assert model.version == 0
    held = model.model
    changed(folder, 3.0, only="00002-of")
    keys = follow(model, version_of(store, folder, 1), store)
    assert keys == [f"weights/p/1/{shards[1]}"]
    assert model.version == 1
    assert model.model is held
    assert all(
        torch.equal(held.state_dict()[name], tensor)
        for shard in shards
        for name, tensor in load_file(folder / shard).items()
    )
    assert follow(model, version_of(store, folder, 2), store) == []
    assert model.version == 2


def test_large_shards_are_mapped_from_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.learning.models._IN_MEMORY_BYTES", 1000)
    store, model = MemoryStore(), PolicyModel(CPU)
    follow(model, version_of(store, folder, 0), store)
    changed(folder, 0.5)
    follow(model, version_of(store, folder, 1), store)
    assert same_weights(model.model, folder)


def test_a_bad_object_leaves_the_held_version_whole(folder: Path, tmp_path: Path) -> None:
    store, model = MemoryStore(), PolicyModel(CPU)
    follow(model, version_of(store, folder, 0), store)
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    changed(folder, 2.0)
    bad = version_of(store, folder, 1)
    store.objects["weights/p/1/model.safetensors"] = b"other bytes"
    with pytest.raises(BadObject):
        follow(model, bad, store)
    assert model.version == 0
    assert all(torch.equal(before[n], t) for n, t in model.model.state_dict().items())


def test_weights_of_another_shape_are_refused_and_the_next_version_is_loaded_whole(
    folder: Path,
) -> None:
    store, model = MemoryStore(), PolicyModel(CPU)
    good = version_of(store, folder, 0)
    follow(model, good, store)
    shard = folder / "model.safetensors"
    weights = load_file(shard)
    weights["lm_head.weight"] = weights["lm_head.weight"][:3].clone()
    shard.write_bytes(save(weights, {"format": "pt"}))
    with pytest.raises(WrongWeights, match=r"tensor lm_head.weight of shape \(3, 16\)"):
        follow(model, version_of(store, folder, 1), store)
    assert model.version is None
    assert len(follow(model, good, store)) == len(good.files) + len(good.shards)
    assert model.version == 0


def test_the_model_computes_in_the_dtype_of_the_mission(folder: Path) -> None:
    store, model = MemoryStore(), PolicyModel(Training(device="cpu", dtype="bfloat16"))
    follow(model, version_of(store, folder, 0), store)
    assert {p.dtype for p in model.model.parameters()} == {torch.bfloat16}
    changed(folder, 2.0)
    follow(model, version_of(store, folder, 1), store)
    wanted = load_file(folder / "model.safetensors")["lm_head.weight"].bfloat16()
    assert torch.equal(model.model.state_dict()["lm_head.weight"], wanted)


def test_prompts_that_do_not_fit_are_errors_and_special_tokens_show_in_texts(folder: Path) -> None:
    store, model = MemoryStore(), PolicyModel(CPU)
    follow(model, version_of(store, folder, 0), store)
    assert model.encode("ab") == (2, 3)
    for prompt, why in (("aXb", "UNK"), ("", "0 tokens"), ("a" * 24, "from 1 to 23 fit")):
        with pytest.raises(PromptError, match=why):
            model.encode(prompt)
    assert model.texts([[2, 3, 1], [2, 3], [1], [], [2, 0, 3, 1]]) == [
        "ab",
        "ab",
        "",
        "",
        "a<pad>b",
    ]
    assert model.longest_token == 5
