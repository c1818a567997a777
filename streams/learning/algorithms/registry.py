"""Which algorithms there are: classes under `@algorithm(name)` and the entry points of others."""

import difflib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from streams.learning.algorithms.base import Algorithm

    Class = TypeVar("Class", bound=type[Algorithm])

GROUP = "ralo.algorithms"
_CLASSES: dict[str, "type[Algorithm]"] = {}


class UnknownAlgorithm(ValueError):
    """No algorithm has this name; the message lists those that there are."""


@overload
def algorithm(name: str) -> "Callable[[Class], Class]": ...
@overload
def algorithm(name: str, settings: Mapping[str, Any]) -> "Algorithm": ...
def algorithm(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Register the class below under this name; or, with settings, an instance of it.

    Raises `UnknownAlgorithm`, or pydantic.ValidationError naming the setting that is wrong.
    """
    if settings is None:
        return lambda cls: _register(name, cls)
    return find(name)(settings)


def names() -> list[str]:
    """All names known: registered in this process, or an installed package's entry point."""
    return sorted({*_CLASSES, *_entries()})


def find(name: str) -> "type[Algorithm]":
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


def _register(name: str, cls: "type[Algorithm]") -> "type[Algorithm]":
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
