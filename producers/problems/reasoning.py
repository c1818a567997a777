"""reasoning-gym without pycosat: procedural problems by family, and the scores of its families."""

import difflib
import functools
import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from pydantic import JsonValue

REFUSED: Mapping[str, str] = {
    "zebra_puzzles": "it needs pycosat, which has no wheel",
    "composite": "it is a mixture of families; submit a mission for each",
}

Score = Callable[[str, dict[str, Any]], float]


@functools.cache
def library() -> Any:
    """Import reasoning_gym (some seconds), a stand-in taking the place of pycosat."""
    try:
        importlib.import_module("pycosat")
    except ImportError:
        sys.modules["pycosat"] = _stand_in()
    with warnings.catch_warnings():
        # A dependency has comparisons that Python warns of whenever it compiles them.
        warnings.simplefilter("ignore", SyntaxWarning)
        return importlib.import_module("reasoning_gym")


def _stand_in() -> types.ModuleType:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError(f"family zebra_puzzles is not available: {REFUSED['zebra_puzzles']}")

    module = types.ModuleType("pycosat", "Stands where reasoning_gym imports pycosat.")
    for name in ("solve", "itersolve"):
        setattr(module, name, refuse)
    return module


@functools.cache
def family(name: str) -> str:
    """The name, when it is a family that can be used; else raises ValueError with a near one."""
    if name in REFUSED:
        raise ValueError(f"family {name!r} of reasoning-gym is refused: {REFUSED[name]}")
    library()
    known = importlib.import_module("reasoning_gym.factory").DATASETS
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}"
        raise ValueError(f"reasoning-gym has no family {name!r}; {hint}")
    return name


def draw_items(
    name: str, args: Mapping[str, JsonValue], size: int, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Draw `size` items of a family, each with where it was drawn; raises ValueError."""
    if taken := sorted({"size", "seed"} & set(args)):
        raise ValueError(f"problems.args: {taken} are fields of `problems`, not arguments")
    dataset = _create(name, {**args, "size": size, "seed": seed})
    for index in range(size):
        yield f"{name}[{index}] seed {seed}", dataset[index]


def _create(name: str, args: Mapping[str, Any]) -> Any:
    family(name)
    try:
        return library().create_dataset(name, **args)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"problems.args of {name}: {error}") from error


@functools.lru_cache(maxsize=32)
def scorer_of(name: str) -> Score:
    """The family's `score_answer(answer, entry)`; raises ValueError for an unknown family."""
    score: Score = _create(name, {}).score_answer
    return score
