"""Tensors in short: shape, norm, range and the first values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FIRST = 5
"""How many values are shown."""


class BadTensors(ValueError):
    """The bytes are not the tensors that they should be."""


@dataclass(frozen=True)
class Tensor:
    """One tensor; `norm` is Euclidean, in float64.

    What is not finite is counted in `not_finite` and left out of norm and range, which are None
    where nothing is left; among the first values it is None.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    norm: float | None
    min: float | None
    max: float | None
    first: Sequence[float | None]
    not_finite: int = 0

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


# The type of numpy that reads each; it has none for bfloat16, the upper half of a float32.
_KINDS = {
    **{"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "bool": "?"},
    **{"int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1"},
    **{"uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "u1"},
}
_OF_SAFETENSORS = {"BF": "bfloat", "F": "float", "I": "int", "U": "uint"}


def raw_tensor(data: bytes, dtype: str, shape: Sequence[int]) -> Tensor:
    """The tensor of little-endian bytes; raises `BadTensors` where they are too few or too many."""
    return _tensor("", dtype, shape, data)


def tensors_of(data: bytes) -> list[Tensor]:
    """The tensors of a safetensors file, by name; raises `BadTensors`."""
    import safetensors

    try:
        read: Any = safetensors.deserialize
        entries = read(data)
    except safetensors.SafetensorError as error:
        raise BadTensors(f"no safetensors file: {error}") from error
    return [_tensor(n, _dtype(e["dtype"]), e["shape"], e["data"]) for n, e in sorted(entries)]


def _dtype(name: str) -> str:
    """`float32` for the `F32` of safetensors."""
    letters, bits = name.rstrip("0123456789"), name.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return _OF_SAFETENSORS.get(letters, letters.lower()) + bits


def _tensor(name: str, dtype: str, shape: Sequence[int], data: bytes) -> Tensor:
    import numpy as np

    if dtype not in _KINDS:
        raise BadTensors(f"{name or 'the tensor'} has elements of {dtype}")
    kind = np.dtype(_KINDS[dtype])
    if len(data) != math.prod(shape) * kind.itemsize:
        raise BadTensors(f"{len(data):,} bytes are no {dtype} of shape {list(shape)}")
    values: Any = np.frombuffer(data, kind)
    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return _measured(name, dtype, tuple(shape), values)


def _measured(name: str, dtype: str, shape: tuple[int, ...], values: Any) -> Tensor:
    import numpy as np

    finite = values[np.isfinite(values)].astype(np.float64)
    first = [float(v) if math.isfinite(v) else None for v in values[:FIRST]]
    return Tensor(
        name=name,
        dtype=dtype,
        shape=shape,
        norm=float(np.linalg.norm(finite)) if len(finite) else None,
        min=float(finite.min()) if len(finite) else None,
        max=float(finite.max()) if len(finite) else None,
        first=first,
        not_finite=len(values) - len(finite),
    )
