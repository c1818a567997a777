"""From a record to its node and its links, with what was moved out of its event to the store."""

from dataclasses import dataclass

from consumers.read import complete
from consumers.trace.causes import Link, Lost, causes
from consumers.trace.nodes import Name, Node, node_of, unreadable
from infra.store import MissingObject, ObjectStore, StoreUnavailable
from schemas.base import Event
from schemas.effects import BadObject
from schemas.learning import Rollout, SampleGroup, WeightVersion
from schemas.records import Record
from schemas.tensors import ObjectRef
from schemas.topics import NewerSchema, Undecodable, decode
from streams.learning.spill import BadSpill

_NEEDED = {"uploads", "refused"}


@dataclass(frozen=True, slots=True)
class Found:
    """A node, and what it names as its causes."""

    node: Node
    links: tuple[Link, ...] = ()


class Opening:
    """Opens records; an object that is not there is said, and what is there is used."""

    def __init__(self, store: ObjectStore | None) -> None:
        self._store = store
        self.objects = 0

    def open(self, record: Record) -> Found:
        """What a record is."""
        try:
            event = decode(record.partition.topic, record.value)
        except (Undecodable, NewerSchema) as error:
            return Found(unreadable(record, str(error)))
        event, lost = self._completed(event)
        return Found(node_of(record, event), (*causes(record, event), *lost))

    def _completed(self, event: Event) -> tuple[Event, tuple[Link, ...]]:
        try:
            match event:
                case WeightVersion(spilled=moved) if moved and _NEEDED & moved.counts.keys():
                    return self._whole(event), ()
                case SampleGroup(rollouts_ref=ref) if ref is not None:
                    return event.model_copy(update={"rollouts": self._rollouts(ref)}), ()
        except (MissingObject, BadObject, BadSpill, StoreUnavailable, ValueError) as error:
            moved = getattr(event, "spilled", None) or getattr(event, "rollouts_ref", None)
            key = moved.key if moved else ""
            why = f"a part of the event is an object that cannot be had ({error})"
            return event, (Link("has in part", Lost(Name("object", key), why)),)
        return event, ()

    def _whole(self, event: WeightVersion) -> WeightVersion:
        if self._store is None:
            raise MissingObject("no store was asked")
        self.objects += 1
        return complete(event, self._store)

    def _rollouts(self, ref: ObjectRef) -> list[Rollout]:
        from streams.learning.rollout import load_rollouts  # It is heavy, and seldom needed.

        if self._store is None:
            raise MissingObject("no store was asked")
        self.objects += 1
        return load_rollouts(self._store.get(ref))
