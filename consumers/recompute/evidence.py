"""What proofs share: why one fails, and how they get what the log names.

Errors:

    CannotRecompute          what the proof needs is not here
    ├── Expired              … for it was swept, as the log says
    └── OtherEnvironment     … or this process would round otherwise
    NotReproduced            something else came out than the log names, or the log was changed
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from infra.interpreter import run_in_memory
from infra.log import LogError
from infra.settings import SettingsError
from infra.store import MissingObject, ObjectStore, StoreUnavailable
from schemas.effects import BadObject, Effect, Steps
from schemas.ids import digest
from schemas.learning import Environment, Spilling
from schemas.records import Record
from streams.learning.spill import BadSpill, whole

E = TypeVar("E", bound=Spilling)
T = TypeVar("T")


class CannotRecompute(Exception):
    """What the proof needs is not here, or would not give the same bits here; and why."""


class Expired(CannotRecompute):
    """The objects that the proof needs were swept, as the log says."""


class OtherEnvironment(CannotRecompute):
    """This process would round otherwise than the one that did it then."""


class NotReproduced(Exception):
    """Something else came out than the log names, or the log was changed; `at` is where, if known.

    The message names the place too.
    """

    def __init__(self, why: str, at: str | None = None) -> None:
        super().__init__(why)
        self.at = at


NOT_OURS = (StoreUnavailable, LogError, SettingsError, MemoryError)
"""What says nothing of the log: the proof itself cannot go on."""


def broke(error: Exception) -> str:
    """What to say where the work itself breaks on what the log names."""
    return f"it cannot be made again of what the log names: {type(error).__name__}: {error}"


def must_hash(record: Record, sha256: str, what: str) -> None:
    """Raise `NotReproduced` where the record has other bytes than its name says."""
    actual = digest(record.value or b"")
    if actual != sha256:
        raise NotReproduced(
            f"{record.at}: {what} by sha256 {sha256[:16]}…, the record has {actual[:16]}…: was the "
            "log changed, or is it another one?",
            record.at,
        )


def must_be_alike(what: str, then: Environment) -> None:
    """Raise `OtherEnvironment` where this process would round otherwise."""
    from streams.learning.environment import differences, environment

    if unlike := differences(then, environment()):
        raise OtherEnvironment(
            f"{what} would not come out the same here: {'; '.join(unlike)}. Prove it on a machine "
            f"of that kind, with torch {then.torch}"
        )


@contextmanager
def threads_of(then: Environment) -> Iterator[None]:
    """As many torch threads as there were then, while this lasts."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(then.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def completed(event: E, store: ObjectStore, what: str) -> E:
    """The event with what was moved out of it; raises as `answer_of`, and `NotReproduced`."""
    try:
        event = answer_of(whole(event), store)
    except BadSpill as error:
        raise NotReproduced(f"{what}: {error}") from error
    return event


def answer_of(doing: Generator[Effect, Any, T], store: ObjectStore) -> T:
    """What a generator of effects answers.

    Raises `CannotRecompute` where an object is missing, `NotReproduced` where one was changed.
    """
    found: list[T] = []

    def steps() -> Steps:
        found.append((yield from doing))
        return "commit"

    try:
        run_in_memory(steps(), store)
    except MissingObject as error:
        raise CannotRecompute(f"{error}: was it swept, or is this another store?") from error
    except BadObject as error:
        raise NotReproduced(str(error)) from error
    return found[0]
