"""Sources: items by template from every kind of source, and where a bad one is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.problems.reasoning import library
from producers.problems.sources import Item, SourceError, load_items
from producers.problems.split import epoch_order, load_split, locate, split_items
from producers.problems.templates import TemplateError, compile_template, render
from schemas.ids import canonical_text, is_heldout
from schemas.missions import ProblemSource

WORDS: dict[str, Any] = {
    "name": "spell_backward",
    "args": {"min_word_len": 3, "max_word_len": 3},
    "prompt": "{word}=",
}


def jsonl(path: Path, *lines: object, **more: Any) -> ProblemSource:
    text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
    path.write_text(text + "\n")
    return ProblemSource(source="jsonl", name=str(path), **more)


def dataset(name: Path | str, **more: Any) -> ProblemSource:
    return ProblemSource(source="datasets", name=str(name), **more)


def test_a_procedural_item_has_its_prompt_by_template() -> None:
    first = next(load_items(ProblemSource(size=3, seed=0, **WORDS)))
    word = first.metadata["word"]
    assert isinstance(word, str)
    assert first.prompt == f"{word}="
    assert first.answer == word[::-1]
    assert first.question.endswith(word)
    assert first.metadata["source_dataset"] == "spell_backward"
    # A tuple in the library: what is in the event is what JSON makes of it.
    assert first.metadata["difficulty"] == {"word_len": [3, 3]}


def test_a_procedural_source_is_a_function_of_its_seed() -> None:
    draws = [list(load_items(ProblemSource(size=50, seed=s, **WORDS))) for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_twenty_thousand_draws_hold_few_distinct_questions() -> None:
    split = load_split(ProblemSource(size=20_000, **WORDS))
    assert split.read == 20_000
    assert len(split.train) + len(split.heldout) == 1370
    assert 0.07 < len(split.heldout) / 1370 < 0.13


def test_pycosat_is_stood_in_for_and_says_so_when_used() -> None:
    library()
    with pytest.raises(RuntimeError, match="zebra_puzzles is not available"):
        sys.modules["pycosat"].itersolve([[1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "zebra_puzzles", "args": {}}, "refused.*pycosat"),
        ({"name": "composite", "args": {}}, "refused.*each"),
        ({"name": "spell_backwards"}, "did you mean 'spell_backward'"),
        ({"args": {"min_word_len": 9, "max_word_len": 3}}, "problems.args of spell_backward"),
        ({"args": {"word_size": 3}}, "problems.args of spell_backward.*word_size"),
        ({"args": {"seed": 3}}, r"\['seed'\] are fields of `problems`"),
        ({"prompt": "{wort}"}, r"\[0\] seed 0: problems.prompt: the item has no {wort}.*word"),
        ({"answer": "{word.upper}"}, "problems.answer.*not allowed"),
    ],
)
def test_a_procedural_source_that_cannot_be_read_says_why(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        list(load_items(ProblemSource(**{**WORDS, "size": 2, **change})))


def test_json_lines_are_items(tmp_path: Path) -> None:
    source = jsonl(
        tmp_path / "sums.jsonl",
        {"a": 1, "b": [2, 3], "solution": {"sum": 6}},
        "",
        {"a": 2, "b": [0, 1], "solution": {"sum": 3}},
        question="{a} + {b[0]} + {b[1]}",
        prompt="{a}+{b[0]}+{b[1]}=",
        answer="{solution[sum]}",
    )
    first, second = load_items(source)
    assert (first.question, first.prompt, first.answer) == ("1 + 2 + 3", "1+2+3=", "6")
    assert second.metadata == {"a": 2, "b": [0, 1], "solution": {"sum": 3}}


def test_the_fields_of_metadata_go_by_their_names(tmp_path: Path) -> None:
    line = {"question": "q", "answer": "a", "metadata": {"word": "w", "n": 2.5, "ok": True}}
    source = jsonl(tmp_path / "x.jsonl", line, prompt="{word} {metadata[n]} {ok} {{}}")
    (item,) = load_items(source)
    assert item == Item("q", "w 2.5 true {}", "a", {"word": "w", "n": 2.5, "ok": True})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting property name"),
        ("[1]", "an object is needed, this is list"),
        ('{"question": "q", "answer": NaN}', "NaN is no JSON number"),
        ('{"question": "q"}', r"problems.answer: the item has no {answer}"),
        ('{"question": "q", "answer": "  "}', "problems.answer gives an empty text"),
        ('{"question": "q", "answer": "%s"}' % ("a" * 300_000), "longer than 253952 bytes"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_malformed_line_names_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    source = jsonl(path, {"question": "fine", "answer": "a"}, line)
    with pytest.raises(SourceError, match=message) as caught:
        list(load_items(source))
    assert str(caught.value).startswith(f"{path}:2: ")


def test_an_item_too_large_for_an_event_is_refused(tmp_path: Path) -> None:
    line = {"question": "q", "answer": "a", "metadata": {"text": "x" * 200_000}}
    source = jsonl(tmp_path / "x.jsonl", line, prompt="{text}")
    with pytest.raises(SourceError, match="a problem may have"):
        list(load_items(source))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.jsonl: No such file"):
        list(load_items(ProblemSource(source="jsonl", name=str(tmp_path / "none.jsonl"))))


def test_a_file_is_read_up_to_the_size(tmp_path: Path) -> None:
    lines = [{"question": f"q{i}", "answer": "a"} for i in range(5)]
    items = list(load_items(jsonl(tmp_path / "x.jsonl", *lines, "not json", size=3)))
    assert [item.question for item in items] == ["q0", "q1", "q2"]


@pytest.mark.slow
def test_datasets_from_a_file_and_from_a_saved_folder(tmp_path: Path, monkeypatch: Any) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"question": f"{i}+1", "answer": str(i + 1), "n": i} for i in range(4)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = datasets.Dataset.from_list(rows)
    table.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"test": table}).save_to_disk(str(tmp_path / "splits"))
    read = [
        list(load_items(source))
        for source in (
            dataset(file),
            dataset(tmp_path / "plain"),
            dataset(tmp_path / "splits", split="test"),
        )
    ]
    assert read[0] == read[1] == read[2]
    assert read[0][3] == Item("3+1", "3+1", "4", {"n": 3})
    with pytest.raises(SourceError, match=r"has \['test'\], not 'train'"):
        list(load_items(dataset(tmp_path / "splits")))


def test_a_dataset_that_is_not_here_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"unknown; a dataset takes"):
        list(load_items(dataset("x", args={"trust_remote_code": True})))
    (tmp_path / "x.exe").write_text("")
    with pytest.raises(SourceError, match=r"one of .*\.parquet"):
        list(load_items(dataset(tmp_path / "x.exe")))


@pytest.mark.slow
def test_a_hub_name_without_a_network_says_so() -> None:
    # In its own process, where the hub's client is told that there is no network.
    code = (
        "from producers.problems.sources import *\n"
        "from schemas.missions import ProblemSource\n"
        "list(load_items(ProblemSource(source='datasets', name='someone/something')))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"HF_HUB_OFFLINE": "1", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert "SourceError: problems.name: dataset 'someone/something'" in done.stderr
    assert "a hub name needs a network, a path must exist" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "{question.__class__}",
        "{__class__}",
        "{question[0].x}",
        "{question!r}",
        "{question:>999999999}",
        "{question:{n}}",
        "{}",
        "{0}",
        "{question",
        "}",
    ],
)
def test_a_template_knows_names_and_indices_only(text: str) -> None:
    with pytest.raises(TemplateError):
        compile_template(text)


@pytest.mark.parametrize("text", ["{x[3]}", "{x[a]}", "{y[1]}", "{z[a][b]}", "{missing}"])
def test_a_template_refuses_what_the_item_lacks(text: str) -> None:
    fields: dict[str, Any] = {"x": [1, 2], "y": "text", "z": {"a": 1}}
    with pytest.raises(TemplateError, match="the item has no"):
        render(compile_template(text), fields)


@given(st.lists(st.text(max_size=8)), st.floats(0, 0.9), st.randoms(use_true_random=False))
def test_a_question_is_on_one_side_whatever_the_order(
    texts: list[str], fraction: float, random: Any
) -> None:
    items = [Item(text, text, "a", {}) for text in texts]
    split = split_items(items, fraction)
    sides = [{canonical_text(i.question) for i in side} for side in (split.train, split.heldout)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {canonical_text(t) for t in texts}
    assert len(split.train) == len(sides[0])
    assert all(is_heldout(text, fraction) for text in sides[1])
    shuffled = random.sample(items, len(items))
    again = split_items(shuffled, fraction)
    assert [canonical_text(i.question) for i in again.train] == [
        canonical_text(i.question) for i in split.train
    ]


@given(st.integers(0, 2**32), st.integers(1, 50), st.integers(0, 3))
def test_an_epoch_takes_every_item_once(seed: int, size: int, epoch: int) -> None:
    places = [locate(seed, index, size) for index in range(epoch * size, (epoch + 1) * size)]
    assert {e for e, _ in places} == {epoch}
    assert sorted(place for _, place in places) == list(range(size))


def test_the_order_is_keyed_by_seed_and_epoch_and_stays_as_it_is() -> None:
    assert epoch_order(0, 0, 8) == (4, 3, 2, 7, 6, 5, 1, 0)
    assert len({epoch_order(seed, epoch, 8) for seed in (0, 1) for epoch in (0, 1)}) == 4
