"""Which algorithms there are: classes under `@algorithm(name)` and the entry points of others."""

import difflib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from schemas.missions import Mission
    from streams.learning.algorithms.base import Algorithm, Registered
    from streams.learning.algorithms.episodes import EpisodeAlgorithm

    Class = TypeVar("Class", bound=type[Registered])

GROUP = "ralo.algorithms"
_CLASSES: dict[str, "type[Registered]"] = {}


class UnknownAlgorithm(ValueError):
    """No algorithm has this name; the message lists those that there are."""


class WrongKind(ValueError):
    """The algorithm learns from something else than the mission's problems give."""


@overload
def algorithm(name: str) -> "Callable[[Class], Class]": ...
@overload
def algorithm(name: str, settings: Mapping[str, Any]) -> "Registered": ...
def algorithm(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Register the class below under this name; or, with settings, an instance of it.

    Raises `UnknownAlgorithm`, or pydantic.ValidationError naming the setting that is wrong.
    """
    if settings is None:
        return lambda cls: _register(name, cls)
    return find(name)(settings)


def token_algorithm(mission: "Mission") -> "Algorithm":
    """The algorithm of a mission that learns from completions; raises `WrongKind` for another."""
    found: Algorithm = _of_kind(mission, "tokens")
    return found


def episode_algorithm(mission: "Mission") -> "EpisodeAlgorithm":
    """The algorithm of a mission that learns from episodes; raises `WrongKind` for another."""
    found: EpisodeAlgorithm = _of_kind(mission, "episodes")
    return found


def algorithm_of(mission: "Mission") -> "Registered":
    """The mission's algorithm; raises `WrongKind` where its problems give what it cannot use."""
    found: Registered = _of_kind(mission, "episodes" if mission.acts else "tokens")
    return found


def _of_kind(mission: "Mission", kind: str) -> Any:
    found = find(mission.algorithm.name)
    if found.learns_from != kind:
        fitting = [name for name in names() if find(name).learns_from == kind]
        raise WrongKind(
            f"algorithm.name: {mission.algorithm.name} learns from {found.learns_from}, and "
            f"problems.source {mission.problems.source} gives {kind}; take {' or '.join(fitting)}"
        )
    return found(mission.algorithm.settings)


def names() -> list[str]:
    """All names known: registered in this process, or an installed package's entry point."""
    return sorted({*_CLASSES, *_entries()})


def find(name: str) -> "type[Registered]":
    """The class under a name; raises `UnknownAlgorithm`."""
    if name not in _CLASSES and (entry := _entries().get(name)) is not None:
        cls = entry.load()
        _CLASSES.setdefault(name, cls)
    if name not in _CLASSES:
        raise UnknownAlgorithm(_unknown(name))
    return _CLASSES[name]


def module_of(name: str) -> str:
    """The import path of an algorithm's module, without importing it; raises `UnknownAlgorithm`."""
    if name in _CLASSES:
        return _CLASSES[name].__module__
    if (entry := _entries().get(name)) is not None:
        return entry.module
    raise UnknownAlgorithm(_unknown(name))


def _register(name: str, cls: "type[Registered]") -> "type[Registered]":
    known = _CLASSES.get(name)
    if known is not None and (known.__module__, known.__name__) != (cls.__module__, cls.__name__):
        raise ValueError(f"algorithm {name!r} is {known!r} already; {cls!r} needs another name")
    cls.name = name
    _CLASSES[name] = cls
    return cls


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, names(), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"algorithm.name: no algorithm {name!r}{hint}; known: {', '.join(names())}"
