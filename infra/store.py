"""The object store: tensors and other large bytes, by key, always checked against their hash.

Code to the S3 API: put, get, list, delete and nothing that servers disagree on.
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from infra.settings import SettingsError
from schemas.effects import BadObject
from schemas.ids import digest
from schemas.tensors import ObjectRef


class MissingObject(Exception):
    """No object has this key."""


class StoreUnavailable(Exception):
    """The store does not answer; worth waiting for."""


class ObjectStore(Protocol):
    """What the product asks of a store; MinIO and the memory double keep the same contract."""

    def put(self, key: str, data: bytes | Path) -> ObjectRef:
        """Store the bytes (or the file) under the key, replacing what is there."""
        ...

    def get(self, ref: ObjectRef) -> bytes:
        """The bytes; raises `MissingObject`, `BadObject` or `StoreUnavailable`."""
        ...

    def get_file(self, ref: ObjectRef, to: Path) -> Path:
        """Write the bytes to a file; raises as `get`; on an error no file is left."""
        ...

    def size_of(self, key: str) -> int | None:
        """How many bytes the object has, or None where there is none; `StoreUnavailable`."""
        ...

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys below a prefix, in order."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete these keys; what is not there is fine."""
        ...


class Bucket(ObjectStore, Protocol):
    """A store that can make the place where its objects lie."""

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there; safe to run twice."""
        ...


def checked(ref: ObjectRef, data: bytes) -> bytes:
    """The same bytes, or `BadObject` when they are not what the reference names."""
    actual = digest(data)
    if actual != ref.sha256:
        raise BadObject(
            f"object {ref.key}: sha256 is {actual[:16]}…, the event says {ref.sha256[:16]}…"
        )
    return data


def file_digest(path: Path) -> str:
    """SHA-256 of a file, a megabyte at a time."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class S3Store:
    """Any S3 server through the MinIO client; raises `StoreUnavailable` when it does not answer."""

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        bucket: str,
        secure: bool = False,
        region: str | None = None,
    ) -> None:
        import urllib3
        from minio import Minio

        # Our own waiting (with a limit and a message) replaces urllib3's silent retries.
        pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=3, read=60), retries=False, maxsize=8
        )
        self._client = Minio(
            endpoint,
            access_key=access_key,
            secret_key=secret_key,
            secure=secure,
            region=region or "us-east-1",
            http_client=None if secure else pool,
        )
        self.bucket = bucket

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there; safe to run twice."""
        with _translated(self.bucket):
            if not self._client.bucket_exists(self.bucket):
                self._client.make_bucket(self.bucket)

    def put(self, key: str, data: bytes | Path) -> ObjectRef:
        """Store the bytes (or the file) under the key, replacing what is there."""
        with _translated(key):
            if isinstance(data, Path):
                sha, size = file_digest(data), data.stat().st_size
                self._client.fput_object(self.bucket, key, str(data))
            else:
                sha, size = digest(data), len(data)
                self._client.put_object(self.bucket, key, io.BytesIO(data), size)
        return ObjectRef(key=key, sha256=sha, size_bytes=size)

    def get(self, ref: ObjectRef) -> bytes:
        """The bytes; raises `MissingObject`, `BadObject` or `StoreUnavailable`."""
        with _translated(ref.key):
            response = self._client.get_object(self.bucket, ref.key)
            try:
                data: bytes = response.read()
            finally:
                response.close()
                response.release_conn()
        return checked(ref, data)

    def get_file(self, ref: ObjectRef, to: Path) -> Path:
        """Write the bytes to a file; raises as `get`; on an error no file is left."""
        with _translated(ref.key):
            self._client.fget_object(self.bucket, ref.key, str(to))
        if file_digest(to) != ref.sha256:
            to.unlink()
            raise BadObject(f"object {ref.key}: its bytes do not have the sha256 of the event")
        return to

    def size_of(self, key: str) -> int | None:
        """How many bytes the object has, or None where there is none."""
        try:
            with _translated(key):
                return self._client.stat_object(self.bucket, key).size or 0
        except MissingObject:
            return None

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys below a prefix, in order."""
        with _translated(prefix):
            for item in self._client.list_objects(self.bucket, prefix, recursive=True):
                yield str(item.object_name)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete these keys; what is not there is fine."""
        from minio.deleteobjects import DeleteObject

        with _translated("delete"):
            errors = self._client.remove_objects(self.bucket, [DeleteObject(k) for k in keys])
            for error in errors:
                raise StoreUnavailable(f"delete {error.name}: {error.code} {error.message}")


class _translated:
    """Turns the client's errors into ours, naming the object."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import urllib3
        from minio.error import S3Error, ServerError

        if isinstance(error, S3Error):
            if error.code in ("NoSuchKey", "NoSuchBucket"):
                raise MissingObject(f"object {self._key}: {error.code}") from error
            if error.code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
                raise SettingsError(
                    f"the store refuses its keys ({error.code}, object {self._key}): "
                    "set RALO_S3__ACCESS_KEY and RALO_S3__SECRET_KEY"
                ) from error
            if error.code in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
                raise SettingsError(
                    f"the bucket is of another region ({error.message}): set RALO_S3__REGION"
                ) from error
            # Whatever else it says may pass; waiting has a limit.
            raise StoreUnavailable(f"object {self._key}: {error.code}: {error.message}") from error
        if isinstance(error, urllib3.exceptions.HTTPError | ServerError | OSError):
            raise StoreUnavailable(f"object {self._key}: {error}") from error
