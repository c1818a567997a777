"""The mean of the gradients of a step, chunk by chunk, in the order that the log names.

Sums of float32 depend on their order, so the order is the canonical one, never that of arrival.
Products and sums are rounded one by one (no fused multiply-add), so the fold does not depend on
where chunks are cut either; the sum of squares is over chunks in order, in float64.
"""

import math
from collections.abc import Sequence

import torch

from schemas.tensors import DType
from streams.learning.flat import FlatVector

_DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class NotFinite(ValueError):
    """A chunk of a gradient holds NaN or infinity."""


def element_bytes(dtype: DType) -> int | None:
    """The size of an element of a gradient; None for a type that no gradient may have."""
    return _DTYPES[dtype].itemsize if dtype in _DTYPES else None


def chunk_tensor(data: bytes, dtype: DType) -> torch.Tensor:
    """The elements of a chunk as float32; raises NotFinite."""
    tensor = torch.frombuffer(bytearray(data), dtype=_DTYPES[dtype]).float()
    # A sum is fifty times cheaper than a look at every element, and never hides one.
    if not math.isfinite(float(tensor.sum())):
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise NotFinite(f"{bad} of {tensor.numel()} elements are not finite")
    return tensor


def fold(
    gradients: Sequence[FlatVector],
    weights: Sequence[float],
    chunks: Sequence[tuple[int, int]],
) -> float:
    """Put sum(w_i g_i) / sum(w_i) in the place of the first gradient; answers its Euclidean norm.

    A gradient alone is its own mean, to the bit, and stays as it is.
    """
    total = sum(weights)
    shares = [weight / total for weight in weights]
    squares = 0.0
    for start, stop in chunks:
        mean = fold_chunk([g.read(start, stop) for g in gradients], shares)
        if len(gradients) > 1:
            gradients[0].write(start, mean)
        squares += float(mean.double().square_().sum())
    return math.sqrt(squares)


def fold_chunk(gradients: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """The weighted sum, accumulated in float32 in the given order; overwrites the gradients."""
    first, *rest = (g.mul_(share) for g, share in zip(gradients, shares, strict=True))
    for gradient in rest:
        first.add_(gradient)
    return first
