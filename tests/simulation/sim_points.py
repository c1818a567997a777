"""The points at which a process may be killed: every yield of its generators, and the driver's."""

import ast
import functools
import types
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from schemas.effects import BadObject, Processor, Steps
from schemas.records import Batch

ROOT = Path(__file__).resolve().parents[2]
EFFECTS = ("Get", "Put", "Emit", "Bury", "ListObjects", "DeleteObjects")
WRITER = ("after_put", "sent_outputs", "sent_offsets", "committed")
OTHERS = ("waiting", "request")

At = Callable[[str], None]
"""Told of each point that is passed; kills by raising."""


class Watched:
    """A processor whose generators stop at every yield; see `schemas.effects.Processor`."""

    def __init__(self, processor: Processor, at: At) -> None:
        self._processor, self._at = processor, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def process(self, batch: Batch) -> Steps:
        return self._watch(self._processor.process(batch))

    def tick(self) -> Steps | None:
        steps = self._processor.tick()
        return None if steps is None else self._watch(steps)

    def _watch(self, steps: Steps) -> Steps:
        reply: Any = None
        error: BadObject | None = None
        while True:
            try:
                effect = steps.throw(error) if error else steps.send(reply)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            self._at(f"{_innermost(steps)} {type(effect).__name__}")
            reply, error = None, None
            try:
                reply = yield effect
            except BadObject as bad:
                error = bad


def _innermost(steps: Generator[Any, Any, Any]) -> str:
    """The function whose yield it is."""
    while isinstance(steps.gi_yieldfrom, types.GeneratorType):
        steps = steps.gi_yieldfrom
    return steps.gi_code.co_qualname  # type: ignore[attr-defined, no-any-return]


@functools.cache
def yields() -> frozenset[str]:
    """Every yield of an effect in the code of processors, as `function effect`."""
    found: set[str] = set()
    for folder in ("streams/learning", "streams/acting", "producers/problems"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            _collect(ast.parse(path.read_text()), "", found)
    return frozenset(found)


def _collect(node: ast.AST, name: str, found: set[str]) -> None:
    for child in ast.iter_child_nodes(node):
        inner = name
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            inner = f"{name}.{child.name}".strip(".")
        if isinstance(child, ast.Yield) and isinstance(child.value, ast.Call):
            called = child.value.func
            if isinstance(called, ast.Name) and called.id in EFFECTS:
                found.add(f"{name} {called.id}")
        _collect(child, inner, found)
