"""The object store in a dictionary."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from infra.store import MissingObject, checked
from schemas.ids import digest
from schemas.tensors import ObjectRef


class MemoryStore:
    """Keeps bytes by key; the same contract as `S3Store`."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def ensure_bucket(self) -> None:
        """Nothing: a dictionary is there."""

    def put(self, key: str, data: bytes | Path) -> ObjectRef:
        """Store the bytes (or the file) under the key, replacing what is there."""
        content = data.read_bytes() if isinstance(data, Path) else bytes(data)
        self.objects[key] = content
        return ObjectRef(key=key, sha256=digest(content), size_bytes=len(content))

    def get(self, ref: ObjectRef) -> bytes:
        """The bytes; raises `MissingObject` or `BadObject`."""
        if ref.key not in self.objects:
            raise MissingObject(f"object {ref.key}: NoSuchKey")
        return checked(ref, self.objects[ref.key])

    def get_file(self, ref: ObjectRef, to: Path) -> Path:
        """Write the bytes to a file; raises as `get`."""
        to.write_bytes(self.get(ref))
        return to

    def size_of(self, key: str) -> int | None:
        """How many bytes the object has, or None where there is none."""
        return len(self.objects[key]) if key in self.objects else None

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys below a prefix, in order."""
        return iter(sorted(key for key in self.objects if key.startswith(prefix)))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete these keys; what is not there is fine."""
        for key in list(keys):
            self.objects.pop(key, None)
