"""Which changes of a JSON Schema old events or old readers would not survive.

New programs must read old events, so nothing that was valid may become invalid; old programs must
read new events, so no field may go and the discriminator stays. JSON Schema 2020-12, as far as
pydantic uses it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def incompatibilities(old: Schema, new: Schema) -> list[str]:
    """What breaks, each as `path: what`; empty when the change is compatible."""
    return list(dict.fromkeys(_Comparison(old, new).root()))


class _Comparison:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new
        self._seen: set[tuple[str, str]] = set()

    def root(self) -> Iterator[str]:
        before = self._old.get("properties", {}).get("type")
        after = self._new.get("properties", {}).get("type")
        if before is not None and _values(before) != _values(after or {}):
            yield f"type: was {_values(before)}, is {_values(after or {})}"
            return
        yield from self.compare(self._old, self._new, "")

    def compare(self, old: Any, new: Any, path: str) -> Iterator[str]:
        """What of `old` the schema `new` does not accept, or has lost."""
        pair = (_ref(old), _ref(new))
        if all(pair):
            if pair in self._seen:
                return
            self._seen.add(pair)
        old, new = _resolve(self._old, old), _resolve(self._new, new)
        if new is True or new == {} or old is False:
            return
        if new is False or old is True:
            yield f"{_at(path)}: what was accepted is refused now"
            return
        befores, afters = _alternatives(old), _alternatives(new)
        if len(befores) > 1 or len(afters) > 1:
            yield from self._choices(befores, afters, path)
            return
        yield from _narrowed(old, new, path)
        yield from self._fields(old, new, path)
        yield from self._elements(old, new, path)

    def _choices(self, befores: list[Any], afters: list[Any], path: str) -> Iterator[str]:
        for before in befores:
            problems = [self._fresh(before, after, path) for after in afters]
            if all(problems):
                # The alternative meant is most likely the one with the fewest differences.
                yield from min(problems, key=len)

    def _fresh(self, before: Any, after: Any, path: str) -> list[str]:
        attempt = _Comparison(self._old, self._new)
        attempt._seen = set(self._seen)
        return list(attempt.compare(before, after, path))

    def _fields(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in before:
            here = f"{path}.{name}" if path else name
            if name in after:
                yield from self.compare(before[name], after[name], here)
            else:
                yield f"{here}: the field is gone"
        for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
            yield f"{path}.{name}: required now".lstrip(".")
        extra = (old.get("additionalProperties", True), new.get("additionalProperties", True))
        yield from self.compare(*extra, f"{path}.*".lstrip("."))

    def _elements(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        yield from self.compare(old.get("items", True), new.get("items", True), f"{path}[]")
        before, after = old.get("prefixItems", []), new.get("prefixItems", [])
        for index, pair in enumerate(zip(before, after, strict=False)):
            yield from self.compare(*pair, f"{path}[{index}]")
        if len(before) != len(after):
            yield f"{_at(path)}: {len(before)} elements became {len(after)}"


def _narrowed(old: Schema, new: Schema, path: str) -> Iterator[str]:
    before, after = _types(old), _types(new)
    if after and not (before and before <= after):
        yield f"{_at(path)}: was {_said(before)}, is {_said(after)}"
    gone = [v for v in _values(old) or () if v not in (_values(new) or (v,))]
    if gone or (_values(new) and not _values(old)):
        yield f"{_at(path)}: only {_values(new)} is accepted now, was {_values(old) or 'anything'}"
    for name in LOWER:
        if name in new and new[name] > old.get(name, float("-inf")):
            yield f"{_at(path)}: {name} was {old.get(name)}, is {new[name]}"
    for name in UPPER:
        if name in new and new[name] < old.get(name, float("inf")):
            yield f"{_at(path)}: {name} was {old.get(name)}, is {new[name]}"
    if "pattern" in new and new["pattern"] != old.get("pattern"):
        yield f"{_at(path)}: pattern was {old.get('pattern')}, is {new['pattern']}"


def _at(path: str) -> str:
    return path or "value"


def _said(types: set[str]) -> str:
    return " or ".join(sorted(types - {"integer"} if "number" in types else types)) or "anything"


def _types(schema: Schema) -> set[str]:
    """The types accepted; empty is any. Every integer is a number."""
    found = schema.get("type", [])
    types = {found} if isinstance(found, str) else set(found)
    return types | {"integer"} if "number" in types else types


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _alternatives(schema: Schema) -> list[Any]:
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return list(schema[name])
    return [schema]


def _ref(schema: Any) -> str:
    return str(schema["$ref"]) if isinstance(schema, Mapping) and "$ref" in schema else ""


def _resolve(document: Schema, schema: Any) -> Any:
    while _ref(schema):
        schema = document["$defs"][_ref(schema).removeprefix("#/$defs/")]
    return schema
