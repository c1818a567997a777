"""Fields by their dotted names, as in `--set training.micro_batch=8`."""

from collections.abc import Callable
from typing import Any


def set_dotted(
    document: dict[str, Any], text: str, read: Callable[[str], Any], example: str
) -> None:
    """Set what `field.field=value` says; raises `ValueError` for what says nothing.

    `read` makes a value of its text, `example` is what the error shows.
    """
    name, equals, value = text.partition("=")
    *parents, last = name.split(".")
    if not equals or not all((*parents, last)):
        raise ValueError(f"--set {text}: write field=value, such as {example}")
    inner = document
    for parent in parents:
        inner = inner.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ValueError(f"--set {text}: {parent} holds no fields")
    inner[last] = read(value)
