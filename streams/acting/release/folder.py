"""What a robot keeps of its policies: whole files by their hash, and one file that says which acts.

`current.json` is replaced in one step (written beside, synced, renamed), so after a kill at any
moment it names either the policy from before or the one from after, and both are there.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from schemas.acting import PolicyRef, Stage
from schemas.base import Model
from schemas.ids import digest
from schemas.tensors import Sha256
from streams.acting.control.policy import Policy, PolicyError, load_policy

Point = Callable[[str], None]
_CURRENT, _FILES, _PART = "current.json", "files", ".part"


class Installed(Model):
    """A policy that was verified whole, and the files that it is made of, by their hashes."""

    ref: PolicyRef
    files: Mapping[str, Sha256]


class Current(Model):
    """What acts, through which release, and what to go back to."""

    release_id: str
    policy: str
    version: int
    stage: Stage
    acting: Installed | None = None
    previous: Installed | None = None
    baseline: Sequence[float] = ()
    starts: int = 0
    reason: str = ""
    metrics: Mapping[str, float] = {}


class PolicyFolder:
    """The folder of one robot; used by one process at a time."""

    def __init__(self, root: Path, point: Point = lambda name: None) -> None:
        self._root, self._point = root, point
        (root / _FILES).mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Keep these bytes, durably; answers their SHA-256."""
        sha256 = digest(data)
        path = self._root / _FILES / sha256
        if not path.exists():
            _replace(path, data, lambda name: self._point(f"file_{name}"))
        return sha256

    def load(self, name: str, version: int, files: Mapping[str, str]) -> Policy:
        """The policy in files {name: hash}; raises `PolicyError` where one is missing or torn."""
        return load_policy(name, version, {file: self._get(sha) for file, sha in files.items()})

    def reload(self, installed: Installed) -> Policy:
        """A policy as it was installed; raises `PolicyError`."""
        ref = installed.ref
        policy = self.load(ref.policy, ref.version, installed.files)
        if policy.ref != ref:
            raise PolicyError(f"{ref.policy} {ref.version}: its tensors have another hash")
        return policy

    def _get(self, sha256: str) -> bytes:
        path = self._root / _FILES / sha256
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PolicyError(f"{path}: {error.strerror}") from error
        if digest(data) != sha256:
            path.unlink(missing_ok=True)
            raise PolicyError(f"{path}: its bytes have another hash")
        return data

    def read(self) -> Current | None:
        """What acts; None where nothing was ever installed, or the file is not readable."""
        try:
            return Current.model_validate_json((self._root / _CURRENT).read_bytes())
        except (OSError, ValueError):
            return None

    def write(self, current: Current) -> None:
        """Replace what acts, durably and in one step."""
        data = current.model_dump_json(indent=1).encode()
        _replace(self._root / _CURRENT, data, self._point)

    def sweep(self, keep: Collection[str]) -> None:
        """Delete the files whose hashes are not these, and what a kill left half written."""
        for path in (self._root / _FILES).iterdir():
            if path.name not in keep:
                path.unlink(missing_ok=True)


def _replace(path: Path, data: bytes, point: Point = lambda name: None) -> None:
    part = path.with_name(path.name + _PART)
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    point("written")
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    point("renamed")
