"""Fixes of original values: JSON merge patches, RFC 7396."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.dotted import set_dotted
from schemas.ids import digest


class BadPatch(ValueError):
    """The text is no merge patch."""


@dataclass(frozen=True)
class Patch:
    """A merge patch: its fields replace the original's, and null takes a field away."""

    document: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.document)

    @property
    def sha256(self) -> str:
        """Over the patch as compact JSON with sorted keys."""
        return digest(_compact(self.document, sort_keys=True))

    def apply(self, value: bytes) -> bytes:
        """The value with the patch in it; what is no JSON object is taken for an empty one.

        Raises `BadPatch` where the result has a number that JSON has not.
        """
        if not self:
            return value
        try:
            return _compact(merged(document_of(value), self.document))
        except ValueError as error:
            raise BadPatch(f"the patched value is no JSON: {error}") from error


def parse_patch(text: str | None, sets: Sequence[str] = ()) -> Patch:
    """The patch in a JSON object, with `dotted.key=value` on top; raises `BadPatch`.

    A value is JSON where it reads as JSON, else text.
    """
    try:
        document = {} if text is None else json.loads(text)
    except ValueError as error:
        raise BadPatch(f"--patch: no JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadPatch("--patch: a merge patch is a JSON object, such as '{\"seed\": 1}'")
    for setting in sets:
        _set(document, setting)
    return Patch(document)


def _set(document: dict[str, Any], text: str) -> None:
    try:
        set_dotted(document, text, _value, "problems.count=5")
    except ValueError as error:
        raise BadPatch(str(error)) from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396's MergePatch(target, patch); the target is not changed."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def document_of(value: bytes) -> Any:
    """The JSON in these bytes; None where they are none."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def differences(before: Any, after: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two documents differ, as `dotted.key`, old and new; None stands for no field."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return [] if before == after else [(path or "value", before, after)]
    found: list[tuple[str, Any, Any]] = []
    for name in dict.fromkeys((*before, *after)):
        here = f"{path}.{name}" if path else str(name)
        found += differences(before.get(name), after.get(name), here)
    return found


def _compact(document: Any, sort_keys: bool = False) -> bytes:
    text = json.dumps(
        document,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=sort_keys,
    )
    return text.encode()
