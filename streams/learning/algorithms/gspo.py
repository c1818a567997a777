"""GSPO: GRPO's advantages with one importance ratio a sequence (arXiv 2507.18071)."""

from typing import TYPE_CHECKING

from streams.learning.algorithms.grpo import Grpo
from streams.learning.algorithms.objective import TokenBatch
from streams.learning.algorithms.registry import algorithm

if TYPE_CHECKING:
    from torch import Tensor


@algorithm("gspo")
class Gspo(Grpo):
    """Group sequence policy optimization: ratio, clip and correction by sequence.

    The paper clips at 3e-4 and 4e-4, for sequences of thousands of tokens.
    """

    def units(self, tokens: int, rows: int) -> int:
        """The policy term is a mean over sequences."""
        return rows

    def _policy(self, batch: TokenBatch) -> "tuple[Tensor, dict[str, Tensor]]":
        """Eq. 5: the mean over sequences of min(s·A, clip(s)·A).

        s is the geometric mean of the tokens' ratios (Eq. 7).
        """
        lengths = batch.mask.sum(-1, keepdim=True).clamp(min=1)

        def sequence(x: "Tensor") -> "Tensor":
            return (x * batch.mask).sum(-1, keepdim=True) / lengths

        value, r, stopped = self._surrogate(
            sequence(batch.logp),
            sequence(batch.old),
            sequence(batch.mu),
            sequence(batch.advantages),
        )
        value = value * self._kept(batch)
        stats = {"ratio_mean": r.sum() / batch.rows, "clip_fraction": stopped.sum() / batch.rows}
        return value.sum() / batch.rows, stats
