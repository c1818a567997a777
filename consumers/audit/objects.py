"""The objects that events name, and who looks whether the store has them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from consumers.audit.report import Findings
from schemas.tensors import ObjectRef

Named = tuple[str, str, int]
"""Key, SHA-256 and size: what is checked once however often it is named."""


class ObjectChecker(Protocol):
    """Looks into the store; raises only when the store does not answer."""

    def read(self, ref: ObjectRef) -> bytes | None:
        """The bytes of an object, or None where they cannot be had or are not looked at."""
        ...

    def faults(self, refs: Sequence[ObjectRef]) -> Iterator[tuple[ObjectRef, str]]:
        """The references whose object is missing, or has another hash or size, and which it is."""
        ...


class NoObjects:
    """Looks at no object: audits the log alone."""

    def read(self, ref: ObjectRef) -> bytes | None:
        """None."""
        return None

    def faults(self, refs: Sequence[ObjectRef]) -> Iterator[tuple[ObjectRef, str]]:
        """Nothing."""
        return iter(())


class References:
    """Which objects must be there, and which may have been swept."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._need: dict[Named, str] = {}
        self._expired: set[Named] = set()
        self._shared: dict[Named, Named] = {}

    def named(self, refs: Iterable[ObjectRef]) -> list[Named]:
        """What is kept of references."""
        tuples = ((ref.key, ref.sha256, ref.size_bytes) for ref in refs)
        return [self._shared.setdefault(one, one) for one in tuples]

    def need(self, named: Iterable[Named], at: str) -> None:
        """These must be there; `at` says who names them."""
        for one in named:
            self._need.setdefault(one, at)

    def expire(self, named: Iterable[Named]) -> None:
        """These may be swept, unless somebody else needs them."""
        self._expired.update(named)

    def may_expire(self, named: Iterable[Named], at: str) -> None:
        """These must be there, unless they have expired."""
        self.need((one for one in named if one not in self._expired), at)

    def check(self, objects: ObjectChecker) -> None:
        """Judge all that is needed."""
        counts = self._findings.counts
        counts["objects_expired"] = len(self._expired - self._need.keys())
        counts["objects_needed"] = len(self._need)
        counts["objects_bytes"] = sum(size for _, _, size in self._need)
        if isinstance(objects, NoObjects):
            return
        refs = [ObjectRef(key=k, sha256=sha, size_bytes=size) for k, sha, size in self._need]
        faults = {(r.key, r.sha256, r.size_bytes): text for r, text in objects.faults(refs)}
        counts["objects_checked"] = len(refs)
        for one, at in self._need.items():
            text = faults.get(one)
            self._findings.judge("reference", text is None, f"{at}: {text}")
