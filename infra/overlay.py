"""The object store of a sandbox: its own objects above those of the original run."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from infra.store import Bucket, MissingObject
from schemas.tensors import ObjectRef

SANDBOX = "sandbox."
"""What the namespaces of sandboxes begin with; its name and a dot follow."""


class OverlayStore:
    """Writes below a prefix, and reads there before it reads the original; keeps `ObjectStore`.

    What it lists and deletes is its own, so no processor in a sandbox can replace or sweep what
    the original run made. What is deleted here shows the original again where there is one, which
    is harmless: all reads are checked against the hash in the reference.
    """

    def __init__(self, under: Bucket, prefix: str) -> None:
        self._under, self._prefix = under, prefix

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there; safe to run twice."""
        self._under.ensure_bucket()

    def put(self, key: str, data: bytes | Path) -> ObjectRef:
        """Store the bytes (or the file) in the sandbox; the reference has the key as given."""
        return self._under.put(self._prefix + key, data).model_copy(update={"key": key})

    def get(self, ref: ObjectRef) -> bytes:
        """The bytes; raises `MissingObject`, `BadObject` or `StoreUnavailable`."""
        try:
            return self._under.get(self._own(ref))
        except MissingObject:
            return self._under.get(ref)

    def get_file(self, ref: ObjectRef, to: Path) -> Path:
        """Write the bytes to a file; raises as `get`; on an error no file is left."""
        try:
            return self._under.get_file(self._own(ref), to)
        except MissingObject:
            return self._under.get_file(ref, to)

    def size_of(self, key: str) -> int | None:
        """How many bytes the object has, or None where there is none."""
        own = self._under.size_of(self._prefix + key)
        return self._under.size_of(key) if own is None else own

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys of the sandbox's own objects below a prefix, in order."""
        for key in self._under.keys(self._prefix + prefix):
            yield key.removeprefix(self._prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete these of the sandbox's own; what is not there is fine."""
        self._under.delete([self._prefix + key for key in keys])

    def _own(self, ref: ObjectRef) -> ObjectRef:
        return ref.model_copy(update={"key": self._prefix + ref.key})
