"""Runs the generators of logic: performs their effects on a store and gathers their outputs."""

from collections.abc import Callable
from typing import Any

from infra.store import ObjectStore
from schemas.effects import (
    BadObject,
    Bury,
    Commit,
    DeleteObjects,
    Effect,
    Emit,
    Get,
    ListObjects,
    Outputs,
    Put,
    Steps,
)


def perform(effect: Effect, store: ObjectStore, outputs: Outputs) -> Any:
    """The answer to one effect; events and burials are gathered, not yet published."""
    match effect:
        case Get(ref, None):
            return store.get(ref)
        case Get(ref, path) if path is not None:
            return store.get_file(ref, path)
        case Put(key, data):
            return store.put(key, data)
        case Emit(event):
            outputs.events.append(event)
        case Bury():
            outputs.buried.append(effect)
        case ListObjects(prefix):
            return list(store.keys(prefix))
        case DeleteObjects(keys):
            store.delete(keys)
    return None


def drive(steps: Steps, answer: Callable[[Effect], Any]) -> Commit:
    """Run a generator to its end; `answer` performs each effect.

    `BadObject` is thrown into the generator, which may bury the record that named the object;
    every other exception closes the generator and passes through.
    """
    reply: Any = None
    error: BadObject | None = None
    while True:
        try:
            effect = steps.throw(error) if error else steps.send(reply)
        except StopIteration as stop:
            commit: Commit = stop.value
            return commit
        reply, error = None, None
        try:
            reply = answer(effect)
        except BadObject as bad:
            error = bad


def run_in_memory(steps: Steps, store: ObjectStore) -> tuple[Commit, Outputs]:
    """Run a generator against a store alone; for tests, notebooks and recomputation."""
    outputs = Outputs()
    return drive(steps, lambda effect: perform(effect, store, outputs)), outputs
