"""Weight versions for people: list, show, compare, export, roll back; logic on lists of records."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consumers.read import complete
from infra.store import ObjectStore
from schemas.learning import (
    DeadLetter,
    RollbackRequest,
    VersionsExpired,
    WeightVersion,
)
from schemas.records import Record
from schemas.tensors import ObjectRef
from streams.learning.layout import FlatLayout, data_offset, read_layout

INDEX = "model.safetensors.index.json"
MANIFEST = "ralo-version.json"
PART = ".part"
"""Ends the name of a file that is still being fetched."""


class NoSuchVersion(Exception):
    """The log has no such version, or its objects have been swept."""


class ExportRefused(Exception):
    """The folder has other files in it."""


class RollbackRefused(Exception):
    """The aggregator cannot roll back to that version, and why."""


@dataclass(frozen=True)
class History:
    """The versions of one policy, in order, and which of them are swept."""

    policy: str
    versions: dict[int, WeightVersion]
    expired: frozenset[int]

    def version(self, number: int) -> WeightVersion:
        """The version, swept or not; raises `NoSuchVersion`."""
        if number not in self.versions:
            newest = max(self.versions)
            raise NoSuchVersion(f"policy {self.policy} has versions 0 to {newest}, not {number}")
        return self.versions[number]

    def kept(self, number: int) -> WeightVersion:
        """The version with its objects; raises `NoSuchVersion`."""
        event = self.version(number)
        if number in self.expired:
            rest = ", ".join(str(n) for n in self.versions if n not in self.expired)
            raise NoSuchVersion(f"version {number} of {self.policy} has expired; kept are {rest}")
        return event


def history(records: Iterable[Record], policy: str) -> History:
    """The versions of a policy from the records of `weight-versions`; raises `NoSuchVersion`."""
    versions: dict[int, WeightVersion] = {}
    expired: set[int] = set()
    policies: set[str] = set()
    for record in records:
        match record.event:
            case WeightVersion() as event:
                policies.add(event.policy)
                if event.policy == policy:
                    versions[event.version] = event
            case VersionsExpired() as event if event.policy == policy:
                expired.update(event.versions)
    if not versions:
        others = f"the log has {', '.join(sorted(policies))}" if policies else "the log has none"
        raise NoSuchVersion(f"policy {policy} has no weight version yet; {others}")
    return History(policy, versions, frozenset(expired))


def summary(event: WeightVersion, expired: bool) -> dict[str, Any]:
    """One line of the list, as JSON has it."""
    step = event.step
    return {
        "version": event.version,
        "kind": event.kind,
        "parent": event.parent,
        "mission_id": event.mission_id,
        "adam_step": step.step if step else 0,
        "learning_rate": step.learning_rate if step else None,
        "grad_norm": step.grad_norm if step else None,
        "clip_factor": step.clip_factor if step else None,
        "uploads": event.count("uploads"),
        "refused": event.count("refused"),
        "groups": event.totals.groups,
        "samples": event.totals.samples,
        "staleness": event.staleness,
        # Their sizes are beside the event where it would be too large.
        "size_bytes": sum(ref.size_bytes for ref in event.shards.values()) or None,
        "objects": "expired" if expired else "kept",
        "reason": event.reason,
    }


# -- comparing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorDifference:
    """Euclidean norms of one tensor in the first version and of the difference, in float64."""

    name: str
    shape: tuple[int, ...]
    norm: float
    difference: float

    @property
    def relative(self) -> float:
        """The difference as a share of the tensor; of nothing, the difference itself."""
        return self.difference / self.norm if self.norm else self.difference


def differing_fields(a: WeightVersion, b: WeightVersion) -> dict[str, tuple[Any, Any]]:
    """What differs between two manifests, {field: (in a, in b)}, nested fields with dots."""
    one, other = _flat(a.model_dump(mode="json")), _flat(b.model_dump(mode="json"))
    return {
        name: (one.get(name), other.get(name))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    }


def differing_tensors(
    store: ObjectStore, a: WeightVersion, b: WeightVersion, progress: Callable[[str], None]
) -> Iterator[TensorDifference]:
    """Per tensor how far the weights are apart; a pair of shards in memory at a time.

    Raises `NoSuchVersion` when the versions have not the same shards.
    """
    a, b = complete(a, store), complete(b, store)
    if a.layout.sha256 != b.layout.sha256 or a.shards.keys() != b.shards.keys():
        raise NoSuchVersion(
            f"versions {a.version} and {b.version} have different tensors: not to be compared"
        )
    for shard in sorted(a.shards):
        progress(shard)
        one = store.get(a.shards[shard])
        other = one if a.shards[shard] == b.shards[shard] else store.get(b.shards[shard])
        yield from _shard_differences(shard, one, other)


def _shard_differences(shard: str, one: bytes, other: bytes) -> Iterator[TensorDifference]:
    import numpy as np

    for slot in read_layout({shard: one}).slots:
        x, y = (
            np.frombuffer(data, "<f4", slot.stop - slot.start, data_offset(data) + 4 * slot.start)
            for data in (one, other)
        )
        norm = float(np.linalg.norm(x.astype(np.float64)))
        apart = float(np.linalg.norm(x.astype(np.float64) - y))
        yield TensorDifference(slot.name, slot.shape, norm, apart)


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        # File names have dots, and a reference is one thing: its hash.
        if isinstance(value, dict) and "sha256" in value and "key" in value:
            flat[prefix + name] = value["sha256"]
        elif isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


# -- exporting --------------------------------------------------------------------------------


def export(
    store: ObjectStore, event: WeightVersion, folder: Path, progress: Callable[[str], None]
) -> list[Path]:
    """Write a version as a Hugging Face folder, every file checked against its hash.

    Beside the model lies its manifest, `ralo-version.json`. Raises `ExportRefused` when the folder
    has something else in it; an export that was cut off goes on.
    """
    event = complete(event, store)
    objects = {**event.files, **event.shards}
    _refuse_other_files(folder, {*objects, INDEX, MANIFEST})
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, ref in sorted(objects.items()):
        progress(name)
        written.append(_fetch(store, ref, folder, name))
    if len(event.shards) > 1 and INDEX not in event.files:
        written.append(folder / INDEX)
        written[-1].write_text(json.dumps(_index(folder, event), indent=2))
    written.append(folder / MANIFEST)
    written[-1].write_text(event.model_dump_json(indent=2, exclude_none=True))
    return written


def _refuse_other_files(folder: Path, ours: set[str]) -> None:
    if not folder.is_dir():
        return
    found = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    others = [name for name in found if name not in ours and name.partition(PART)[0] not in ours]
    if others:
        raise ExportRefused(
            f"{folder} has other files in it ({', '.join(others[:3])}): name an empty folder"
        )


def _fetch(store: ObjectStore, ref: ObjectRef, folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ExportRefused(f"the version names a file outside of the folder: {name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    store.get_file(ref, part)
    part.replace(path)
    return path


def _index(folder: Path, event: WeightVersion) -> dict[str, Any]:
    layout = _layout_of_folder(folder, event)
    return {
        "metadata": {"total_size": 4 * layout.total},
        "weight_map": {slot.name: slot.shard for slot in layout.slots},
    }


def _layout_of_folder(folder: Path, event: WeightVersion) -> FlatLayout:
    from streams.learning.layout import header_bytes

    return read_layout({name: header_bytes(folder / name) for name in event.shards})


# -- rolling back -----------------------------------------------------------------------------


def rollback_answer(asked: Record, record: Record) -> WeightVersion | None:
    """The new version, where this record is the answer to the request; None for other records.

    Raises `RollbackRefused` where the request became a dead letter.
    """
    match record.event:
        case WeightVersion(kind="rollback") as event:
            # A rollback reads on to just after its request.
            done = event.resume.get(str(asked.partition)) == asked.offset + 1
            return event if done and _same_policy(asked, event) else None
        case DeadLetter(at=at) as letter if at == asked.at:
            raise RollbackRefused(f"{asked.at}: {letter.detail or letter.reason}")
    return None


def _same_policy(asked: Record, event: WeightVersion) -> bool:
    return isinstance(asked.event, RollbackRequest) and asked.event.policy == event.policy
