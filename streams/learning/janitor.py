"""What may be swept from the store: pure functions of the log, so audit can tell swept from lost.

Expiry is announced first; objects go once the announcement is read back from the log.
"""

from collections.abc import Generator, Iterable, Sequence, Set
from itertools import pairwise
from typing import Any

from schemas.effects import DeleteObjects, Effect, ListObjects
from schemas.learning import VersionsExpired, WeightVersion
from schemas.missions import Keep
from schemas.tensors import ObjectRef
from streams.learning import keys
from streams.learning.ledger import Versions
from streams.learning.spill import whole

SWEEP_EVERY = 50
"""Versions between two sweeps."""


def retained(versions: Sequence[WeightVersion], keep: Keep, staleness_max: int) -> set[int]:
    """The versions whose objects stay, of those not expired yet (oldest first).

    The newest `keep.last` (and all that an upload may be based on), the first, the last of each
    mission and every `keep.every`-th; of the latter two also the parent, or their step could not
    be proved.
    """
    numbers = {event.version for event in versions}
    milestones = {event.version for event in versions if event.version % keep.every == 0}
    milestones |= {a.version for a, b in pairwise(versions) if a.mission_id != b.mission_id}
    parents = {event.parent for event in versions if event.version in milestones}
    newest = {event.version for event in versions[-max(keep.last, staleness_max + 1) :]}
    return numbers & {0, *newest, *milestones, *(p for p in parents if p is not None)}


def to_expire(versions: Sequence[WeightVersion], keep: Keep, staleness_max: int) -> list[int]:
    """The versions to announce as expired now."""
    stay = retained(versions, keep, staleness_max)
    return [event.version for event in versions if event.version not in stay]


def objects_of(versions: Iterable[WeightVersion]) -> set[str]:
    """The keys of all files of these versions, whole; a rollback shares them with its target."""
    refs: list[ObjectRef] = []
    for event in versions:
        refs += [*event.files.values(), *event.shards.values(), *event.optimizer.values()]
    return {ref.key for ref in refs}


def dead_weights(
    policy: str, stored: Iterable[str], kept: Sequence[WeightVersion], manifests: Set[str]
) -> list[str]:
    """The stored keys below the policy's weights that no kept version names.

    `manifests`, fields of events, stay as long as the events: for ever, or books would not balance.
    What is newer than the newest known version is left alone: a successor may be writing it.
    """
    named, newest = objects_of(kept), max((event.version for event in kept), default=-1)
    return [
        key
        for key in stored
        if key not in named
        and key not in manifests
        and (version := keys.version_of(policy, key)) is not None
        and version <= newest
    ]


def dead_gradients(
    policy: str, stored: Iterable[str], kept: Iterable[WeightVersion], bases: set[int]
) -> list[str]:
    """The stored keys of gradients that neither a kept version was made of nor a step may use.

    `bases` are the versions that uploads may be based on now.
    """
    proof = {(upload.base_version, upload.upload_id) for event in kept for upload in event.uploads}
    newest = max(bases, default=-1)
    dead = []
    for key in stored:
        found = keys.base_and_upload(policy, key)
        if found and found not in proof and found[0] not in bases and found[0] < newest:
            dead.append(key)
    return dead


def expired_versions(events: Iterable[VersionsExpired]) -> set[int]:
    """All versions announced as expired; so are the chunks of the uploads that they applied."""
    return {version for event in events for version in event.versions}


def sweep(policy: str, versions: Versions, bases: set[int]) -> Generator[Effect, Any, int]:
    """Delete what the log no longer needs, orphans of crashes included; answers how many."""
    kept: list[WeightVersion] = []
    for event in versions.events():
        kept.append((yield from whole(event)))
    weights = yield ListObjects(keys.weights_prefix(policy))
    gradients = yield ListObjects(keys.gradients_prefix(policy))
    dead = dead_weights(policy, weights, kept, versions.manifests)
    dead += dead_gradients(policy, gradients, kept, bases)
    if dead:
        yield DeleteObjects(dead)
    return len(dead)
