"""Verifiers: what a completion is worth, and who may be asked."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.problems.reasoning import scorer_of
from producers.problems.sources import load_items
from producers.problems.verifiers import (
    VerifierError,
    exact,
    positional,
    reasoning_gym,
    resolve,
    scorer,
)
from schemas.learning import Problem
from schemas.missions import ProblemSource, Verifier


def problem(answer: str = "tac", **more: Any) -> Problem:
    fields: dict[str, Any] = {"question": "cat", "prompt": "cat=", "verifier": Verifier()}
    return Problem(
        problem_id="p",
        mission_id="m",
        policy="main",
        epoch=0,
        index=0,
        answer=answer,
        **{**fields, **more},
    )


@pytest.mark.parametrize(
    ("completion", "finished", "strict", "partial"),
    [
        ("tac", True, 1.0, 1.0),
        ("tac", False, 0.0, 0.75),
        ("tax", True, 0.0, 0.75),
        ("ta", True, 0.0, 0.5),
        ("tact", True, 0.0, 0.75),
        ("act", True, 0.0, 0.25),
        ("", True, 0.0, 0.0),
        ("xxx", False, 0.0, 0.0),
    ],
)
def test_exact_and_positional(
    completion: str, finished: bool, strict: float, partial: float
) -> None:
    assert exact(problem(), completion, finished) == strict
    assert positional(problem(), completion, finished) == partial


@given(st.text(min_size=1), st.text(), st.booleans())
def test_positional_is_one_for_the_answer_alone(answer: str, text: str, finished: bool) -> None:
    score = positional(problem(answer), text, finished)
    assert 0 <= score <= 1
    assert (score == 1) == (finished and text == answer)


@pytest.mark.slow
def test_reasoning_gym_scores_by_the_family() -> None:
    source = ProblemSource(name="countdown", size=1, seed=1)
    (item,) = load_items(source)
    named = problem(item.answer, question=item.question, metadata=item.metadata)
    assert reasoning_gym(named, item.answer, True) == 1.0
    assert reasoning_gym(named, "no answer", True) < 0.1
    other = named.model_copy(update={"verifier": Verifier(args={"dataset": "gcd"})})
    assert reasoning_gym(other, item.answer, True) == 1.0


def test_text_on_which_a_family_raises_scores_nothing() -> None:
    bare = problem(metadata={"source_dataset": "complex_arithmetic"})
    with pytest.raises(KeyError):
        scorer_of("complex_arithmetic")("1", {"metadata": {}})
    assert reasoning_gym(bare, "1", True) == 0.0


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({}, "set problems.verifier.args.dataset"), ({"source_dataset": "gdc"}, "did you mean 'gcd'")],
)
def test_reasoning_gym_needs_a_family(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(VerifierError, match=message):
        reasoning_gym(problem(metadata=metadata), "x", True)


def test_a_problem_is_scored_by_the_verifier_that_it_names() -> None:
    score = scorer()
    assert score(problem(verifier=Verifier(name="exact")), "tax", True) == 0.0
    assert score(problem(verifier=Verifier(name="positional")), "tax", True) == 0.75


def test_an_unknown_verifier_is_refused_with_the_known() -> None:
    with pytest.raises(VerifierError, match=r"no verifier 'exakt'.*exact, positional"):
        resolve("exakt")


def test_local_code_needs_permission_and_must_be_there() -> None:
    name = f"{__name__}:halves"
    with pytest.raises(VerifierError, match="RALO_ALLOW_LOCAL_CODE"):
        resolve(name)
    asked = problem(verifier=Verifier(name=name))
    assert scorer(allow_local_code=True)(asked, "anything", True) == 0.5
    with pytest.raises(VerifierError, match="nothing_here"):
        resolve(f"{__name__}:nothing_here", allow_local_code=True)
    with pytest.raises(VerifierError, match="no verifier"):
        resolve("os:system:x", allow_local_code=True)


def halves(problem: Problem, completion: str, finished: bool) -> float:
    return 0.5


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.5, "1", None])
def test_what_is_no_score_is_refused(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "answers", lambda *_: value)
    resolve.cache_clear()
    asked = problem(verifier=Verifier(name=f"{__name__}:answers"))
    with pytest.raises(VerifierError, match="a reward is a number from 0 to 1"):
        scorer(allow_local_code=True)(asked, "x", True)
