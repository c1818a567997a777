"""The objects that events name: found, and checked before anything is replayed."""

import functools
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel

from consumers.audit.store import StoreChecker
from consumers.pretty.references import references
from consumers.read import complete
from infra.store import MissingObject, ObjectStore
from schemas.base import Event
from schemas.learning import Spilling
from schemas.tensors import ObjectRef
from schemas.topics import TOPICS
from streams.learning.spill import BadSpill

Check = Literal["size", "hash", "none"]
Named = tuple[str, str, int]
"""Key, SHA-256 and size."""

THREADS = 8


@dataclass
class Checked:
    """What a look into the store found."""

    objects: int = 0
    size_bytes: int = 0
    faults: list[str] = field(default_factory=list)
    """Each with the event that names the object."""


@functools.cache
def may_refer(topic: str) -> bool:
    """Whether an event of this topic can name an object."""
    return any(_fields(kind) for kind in TOPICS[topic].events)


@functools.cache
def _fields(kind: type[BaseModel]) -> tuple[str, ...]:
    """The fields of a model that can hold a reference: nobody looks for one among tokens."""
    return tuple(name for name, info in kind.model_fields.items() if _may(info.annotation))


def _may(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return issubclass(annotation, ObjectRef) or bool(_fields(annotation))
    return any(map(_may, get_args(annotation)))


def named_by(event: Event, store: ObjectStore) -> tuple[list[Named], str]:
    """What an event names, spilled fields included; and why those could not be read.

    Raises `StoreUnavailable`.
    """
    found, problem = list(_named(event)), ""
    if isinstance(event, Spilling) and event.spilled is not None:
        try:
            found += _named(complete(event, store))
        except MissingObject:
            pass  # It is named itself, so the check finds that it is missing.
        except BadSpill as error:
            problem = str(error)
    return found, problem


def _named(event: Event) -> Iterator[Named]:
    for name in _fields(type(event)):
        for _, ref in references(getattr(event, name), name):
            yield ref.key, ref.sha256, ref.size_bytes


def check_references(
    named: dict[Named, str],
    store: ObjectStore,
    check: Check,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Checked:
    """Look whether the objects are there with their size, or read them all and hash them.

    Raises `StoreUnavailable`.
    """
    checked = Checked(len(named), sum(size for _, _, size in named))
    if check == "none":
        return checked
    faults = _by_hash if check == "hash" else _by_size
    for one, text in faults(named, store, report):
        checked.faults.append(f"{named[one]}: {text}")
    return checked


def _by_hash(
    named: Collection[Named], store: ObjectStore, report: Callable[[int, int], None]
) -> Iterator[tuple[Named, str]]:
    refs = [ObjectRef(key=key, sha256=sha, size_bytes=size) for key, sha, size in named]
    for ref, text in StoreChecker(store, report).faults(refs):
        yield (ref.key, ref.sha256, ref.size_bytes), text


def _by_size(
    named: Collection[Named], store: ObjectStore, report: Callable[[int, int], None]
) -> Iterator[tuple[Named, str]]:
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = pool.map(store.size_of, [key for key, _, _ in named])
        for done, (one, size) in enumerate(zip(named, sizes, strict=True), 1):
            report(done, len(named))
            if size is None:
                yield one, f"object {one[0]} is missing: it has expired, or was never stored"
            elif size != one[2]:
                yield one, f"object {one[0]} has {size:,} bytes, the event says {one[2]:,}"
