"""The hash of an algorithm's source code, for the manifest: reads files, imports nothing heavy."""

import ast
import hashlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from streams.learning.algorithms.registry import module_of


def code_sha256(name: str) -> str:
    """SHA-256 over the algorithm's module and what it imports from its own package, by name.

    Raises `UnknownAlgorithm`, or ValueError when its source is in no file.
    """
    hashed = hashlib.sha256()
    for module, path in sorted(source_files(name).items()):
        source = path.read_bytes()
        hashed.update(f"{module} {len(source)}\n".encode() + source)
    return hashed.hexdigest()


def source_files(name: str) -> dict[str, Path]:
    """The files that `code_sha256` covers, {module: path}."""
    start = module_of(name)
    package = start.rpartition(".")[0]
    found: dict[str, Path] = {}
    todo = [start]
    while todo:
        module = todo.pop()
        if module not in found and (path := _file(module)) is not None:
            found[module] = path
            todo += [m for m in _imports(path) if package and m.startswith(f"{package}.")]
    if start not in found:
        raise ValueError(f"algorithm {name!r}: module {start} has no source file; move it into one")
    return found


def _file(module: str) -> Path | None:
    loaded = sys.modules.get(module)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None)
    else:
        spec = find_spec(module)
        origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
