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


# As safetensors and as references name them: the type of numpy that reads them.
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2"},
    **{"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2"},
}


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
    return [_tensor(n, e["dtype"], e["shape"], e["data"]) for n, e in sorted(entries)]


def _tensor(name: str, dtype: str, shape: Sequence[int], data: bytes) -> Tensor:
    import numpy as np

    if dtype not in _DTYPES:
        raise BadTensors(f"{name or 'the tensor'} has elements of {dtype}")
    kind = np.dtype(_DTYPES[dtype])
    if len(data) != math.prod(shape) * kind.itemsize:
        raise BadTensors(f"{len(data):,} bytes are no {dtype} of shape {list(shape)}")
    values: Any = np.frombuffer(data, kind)
    if dtype in ("bfloat16", "BF16"):
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
