"""References to objects in the store: an event carries the name, the hash and a summary."""

from typing import Annotated, Literal

from pydantic import StringConstraints

from schemas.base import Model

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
DType = Literal["float32", "bfloat16", "float16", "float64"]


class ObjectRef(Model):
    """One object in the store, by key, hash and size."""

    key: str
    sha256: Sha256
    size_bytes: int


class Spilled(ObjectRef):
    """Where fields lie that were moved out of an event: an object of JSON, by name of the field.

    `counts` says how many entries each of them has.
    """

    counts: dict[str, int]


class TensorRef(ObjectRef):
    """One tensor as raw little-endian bytes in the store."""

    dtype: DType
    shape: tuple[int, ...]
