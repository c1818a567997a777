"""What an event refers to, fetched, checked against its hash and looked at.

A reference that leads nowhere is said in its place, for that is often what one looks for.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from consumers.pretty.tensors import BadTensors, Tensor, raw_tensor, tensors_of
from infra.store import MissingObject, ObjectStore, StoreUnavailable
from schemas.base import Event, Model
from schemas.effects import BadObject
from schemas.learning import Rollout, Spilling
from schemas.tensors import ObjectRef, Spilled, TensorRef
from streams.learning.rollout import load_rollouts
from streams.learning.spill import BadSpill, moved_fields

LARGEST_BYTES = 1 << 30
"""What is larger is named and not fetched: it would have to fit in memory."""

State = Literal["ok", "missing", "wrong", "unavailable", "large"]


@dataclass(frozen=True)
class Found:
    """One reference: where it is in the event, and what is at its other end.

    `state` is `missing` (no such object), `wrong` (other bytes than the hash says, or not what the
    field says they are), `unavailable` (the store does not answer), `large` (not fetched) or `ok`;
    `detail` says why not, or what it is.
    """

    path: str
    ref: ObjectRef
    state: State
    detail: str
    tensors: Sequence[Tensor] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of a `Spilled` one: the fields that were moved there."""

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        found = {"path": self.path, **self.ref.model_dump(mode="json"), "state": self.state}
        tensors = {"tensors": [asdict(tensor) for tensor in self.tensors]} if self.tensors else {}
        return found | {"detail": self.detail, **tensors}


def references(value: Any, path: str = "") -> Iterator[tuple[str, ObjectRef]]:
    """All references in an event, or in any part of one, with their places: `shards[a].key`."""
    match value:
        case ObjectRef():
            yield path, value
        case Model() | Event():
            for name in type(value).model_fields:
                yield from references(getattr(value, name), f"{path}.{name}" if path else name)
        case dict():
            for name, item in value.items():
                yield from references(item, f"{path}[{name}]")
        case list() | tuple():
            for n, item in enumerate(value):
                yield from references(item, f"{path}[{n}]")


def resolved(event: Event, store: ObjectStore) -> Iterator[Found]:
    """All references of an event, those in its spilled fields included, one after the other."""
    for path, ref in references(event):
        found = resolve(path, ref, store, event)
        yield found
        for name, value in found.fields.items():
            for inner, inner_ref in references(value, name):
                yield resolve(inner, inner_ref, store, event)


def resolve(path: str, ref: ObjectRef, store: ObjectStore, event: Event) -> Found:
    """What is at the other end of one reference of the event; what the store raises is said."""
    if ref.size_bytes > LARGEST_BYTES:
        return Found(path, ref, "large", f"larger than {LARGEST_BYTES:,} bytes: not fetched")
    try:
        data = store.get(ref)
    except MissingObject as error:
        return Found(path, ref, "missing", f"{error}; swept, or never stored")
    except BadObject as error:
        return Found(path, ref, "wrong", str(error))
    except StoreUnavailable as error:
        return Found(path, ref, "unavailable", str(error))
    if len(data) != ref.size_bytes:
        wrong = f"{len(data):,} bytes with the right hash, the event says {ref.size_bytes:,}"
        return Found(path, ref, "wrong", wrong)
    try:
        return _looked_at(path, ref, data, event)
    except (BadTensors, BadSpill, ValueError) as error:
        return Found(path, ref, "wrong", f"the hash is right, but: {error}")


def _looked_at(path: str, ref: ObjectRef, data: bytes, event: Event) -> Found:
    if isinstance(ref, TensorRef):
        return Found(path, ref, "ok", "tensor", [raw_tensor(data, ref.dtype, ref.shape)])
    if isinstance(ref, Spilled) and isinstance(event, Spilling):
        fields = moved_fields(type(event), ref, data)
        what = ", ".join(f"{len(value)} {name}" for name, value in fields.items())
        return Found(path, ref, "ok", f"moved fields: {what}", fields=fields)
    if path == "rollouts_ref":
        return Found(path, ref, "ok", _rollouts(load_rollouts(data)))
    if ref.key.endswith(".safetensors"):
        tensors = tensors_of(data)
        elements = sum(tensor.elements for tensor in tensors)
        return Found(path, ref, "ok", f"{len(tensors)} tensors, {elements:,} elements", tensors)
    return Found(path, ref, "ok", _words(ref.key, data))


def _rollouts(rollouts: Sequence[Rollout]) -> str:
    rewards = [rollout.reward for rollout in rollouts]
    lengths = [len(rollout.tokens) for rollout in rollouts]
    if not rollouts:
        return "no rollouts"
    return (
        f"{len(rollouts)} rollouts of {min(lengths)} to {max(lengths)} tokens, reward "
        f"{sum(rewards) / len(rewards):.3f} ({min(rewards):.3g} to {max(rewards):.3g})"
    )


def _words(key: str, data: bytes) -> str:
    """The beginning of a text, or that it is none."""
    if key.endswith(".json"):
        document = json.loads(data)
        kind = "entries" if isinstance(document, dict | list) else "value"
        count = len(document) if isinstance(document, dict | list) else 1
        return f"JSON of {count} {kind}: {_begin(data)}"
    return f"bytes: {_begin(data)}"


def _begin(data: bytes) -> str:
    text = " ".join(data[:200].decode(errors="backslashreplace").split())
    return text[:80] + ("…" if len(text) > 80 or len(data) > 200 else "")
