"""Who scores a completion: functions found by name through the entry points `ralo.verifiers`.

A verifier is `verify(problem, completion, finished) -> float` in [0, 1]; `completion` is the text
without the end token and `finished` whether the model ended it. Events name a verifier and its
arguments; they never carry code.
"""

import functools
import importlib
import math
import re
from collections.abc import Callable
from importlib.metadata import entry_points

from producers.problems.reasoning import family, scorer_of
from schemas.learning import Problem

Verify = Callable[[Problem, str, bool], float]

GROUP = "ralo.verifiers"
_LOCAL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class VerifierError(ValueError):
    """No such verifier, or what it answered is no score."""


def exact(problem: Problem, completion: str, finished: bool) -> float:
    """1 when the model ended and its text is the answer, white space at the ends aside."""
    return float(finished and completion.strip() == problem.answer.strip())


def positional(problem: Problem, completion: str, finished: bool) -> float:
    """The share of right positions: each character of the answer, and the end after the last."""
    answer = problem.answer
    right = sum(a == b for a, b in zip(completion, answer, strict=False))
    ended = finished and len(completion) == len(answer)
    return (right + ended) / (len(answer) + 1)


def reasoning_gym(problem: Problem, completion: str, finished: bool) -> float:
    """The score of the problem's reasoning-gym family (`args.dataset`, else from its metadata).

    A family's parser may raise on text that is no answer in its notation: that text scores 0.
    """
    score = scorer_of(_family_of(problem))
    entry = {"question": problem.question, "answer": problem.answer, "metadata": problem.metadata}
    try:
        return float(score(completion, entry))
    except Exception:
        return 0.0


def _family_of(problem: Problem) -> str:
    name = problem.verifier.args.get("dataset") or problem.metadata.get("source_dataset")
    if not isinstance(name, str):
        raise VerifierError(
            "verifier reasoning-gym: set problems.verifier.args.dataset to the family's name"
        )
    try:
        return family(name)
    except ValueError as error:
        raise VerifierError(f"verifier reasoning-gym: {error}") from error


def scorer(allow_local_code: bool = False) -> Verify:
    """A function that scores any problem by the verifier that it names.

    Raises `VerifierError` for an unknown verifier, or an answer that is outside [0, 1] or NaN.
    """

    def score(problem: Problem, completion: str, finished: bool) -> float:
        name = problem.verifier.name
        value = resolve(name, allow_local_code)(problem, completion, finished)
        if not isinstance(value, int | float) or math.isnan(value) or not 0 <= value <= 1:
            raise VerifierError(
                f"verifier {name!r} answered {value!r} for problem {problem.problem_id}: "
                "a reward is a number from 0 to 1"
            )
        return float(value)

    return score


@functools.lru_cache(maxsize=64)
def resolve(name: str, allow_local_code: bool = False) -> Verify:
    """The verifier of this name; `module:function` only where local code is allowed."""
    if _LOCAL.fullmatch(name):
        return _local(name, allow_local_code)
    found = entry_points(group=GROUP)
    if name not in found.names:
        known = ", ".join(sorted(found.names))
        raise VerifierError(f"no verifier {name!r}; installed are: {known}")
    verify: Verify = found[name].load()
    return verify


def _local(name: str, allowed: bool) -> Verify:
    if not allowed:
        raise VerifierError(
            f"verifier {name!r} is local code: set RALO_ALLOW_LOCAL_CODE=1 where you trust it"
        )
    module, _, function = name.partition(":")
    try:
        verify: Verify = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise VerifierError(f"verifier {name!r}: {error}") from error
    return verify
