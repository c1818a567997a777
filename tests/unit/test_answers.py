import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from typer.testing import CliRunner

from consumers.answers import ask, prompt_of
from infra.cli import app
from infra.connect import connect_log, connect_store
from infra.envelope import message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from infra.store import MissingObject
from schemas.learning import VersionsExpired, WeightVersion
from schemas.missions import Mission
from schemas.topics import TOPICS
from streams.learning.models import PromptError


def mission(prompt: str = "{word}=", max_tokens: int = 5) -> Mission:
    return tiny.mission_of(
        problems={"name": "spell", "prompt": prompt}, rollout={"max_tokens": max_tokens}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.peaked_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def version(folder: Path, store: MemoryStore) -> WeightVersion:
    return tiny.version_of(store, folder, 3, parent=2, previous=2)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{word}=", "cat="),
        ("{question}", "cat"),
        ("{word}{word}=", "catcat="),
        ("{{{metadata[word]}}}", "{cat}"),
        ("{a} + {b}", "cat"),
        ("always the same", "cat"),
    ],
)
def test_the_text_takes_the_place_of_the_only_field(template: str, prompt: str) -> None:
    assert prompt_of(template, "cat") == prompt


def test_the_answer_is_what_transformers_decodes_greedily(
    store: MemoryStore, version: WeightVersion, folder: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("abc", "g", "fade a"):
        answer = ask(store, version, mission(), text)
        inputs = tokenizer(text + "=", return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=5,
                do_sample=False,
            )
        completion = out[0, inputs["input_ids"].shape[1] :]
        assert answer.answer == tokenizer.decode(completion, skip_special_tokens=True)
        assert answer.ended == (int(completion[-1]) == tokenizer.eos_token_id)
        with torch.inference_mode():
            logits = model(out).logits[0, inputs["input_ids"].shape[1] - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, completion[:, None]).sum()
        assert answer.logprob == pytest.approx(float(expected), abs=1e-4)
        assert (answer.policy, answer.version, answer.prompt) == ("p", 3, text + "=")


def test_an_answer_ends_where_the_model_ends(store: MemoryStore, version: WeightVersion) -> None:
    answer = ask(store, version, mission(max_tokens=100), "abc")
    assert len(answer.prompt) + len(answer.answer) <= tiny.SPEC.positions


def test_what_the_model_cannot_read_is_named(store: MemoryStore, version: WeightVersion) -> None:
    with pytest.raises(PromptError, match="xyz"):
        ask(store, version, mission(), "xyz")


def test_a_missing_shard_is_named(store: MemoryStore, version: WeightVersion) -> None:
    store.delete(ref.key for ref in version.shards.values())
    with pytest.raises(MissingObject, match="weights/p/3"):
        ask(store, version, mission(), "abc")


# -- the verb ----------------------------------------------------------------------------------


@pytest.fixture
def connected(
    store: MemoryStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[MemoryLog, CliRunner]:
    """The verb on a log in memory with versions 3 and 4 of policy `p`, of which 3 is expired."""
    log = MemoryLog()
    log.provision(list(TOPICS.values()))
    versions: list[Any] = [tiny.version_of(store, folder, n) for n in (3, 4)]
    expired = VersionsExpired(policy="p", versions=[3])
    log.append([message(event) for event in [mission(), *versions, expired]])
    monkeypatch.setattr(f"{connect_log.__module__}.connect_log", lambda config: log)
    monkeypatch.setattr(f"{connect_store.__module__}.connect_store", lambda config: store)
    monkeypatch.delenv("RALO_POLICY", raising=False)
    return log, CliRunner()


def test_the_verb_prints_the_answer_alone(
    connected: tuple[MemoryLog, CliRunner], store: MemoryStore, version: WeightVersion
) -> None:
    expected = ask(store, version, mission(), "abc")
    printed = connected[1].invoke(app, ["ask", "abc", "--policy", "p"])
    assert (printed.exit_code, printed.stdout) == (0, expected.answer + "\n")
    document = json.loads(connected[1].invoke(app, ["ask", "abc", "--json"]).stdout)
    assert (document["version"], document["policy"], document["prompt"]) == (4, "p", "abc=")
    assert document["answer"] == expected.answer
    assert document["logprob"] == pytest.approx(expected.logprob)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--policy", "q"], "policy q has no weight version yet; the log has p"),
        (["--version", "9"], "has versions 0 to 4, not 9"),
        (["--version", "3"], "version 3 of p has expired; kept are 4"),
    ],
)
def test_what_cannot_be_asked_is_named(
    connected: tuple[MemoryLog, CliRunner], options: list[str], reason: str
) -> None:
    failed = connected[1].invoke(app, ["ask", "abc", *options])
    assert reason in str(failed.exception)
