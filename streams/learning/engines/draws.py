"""Inverse-CDF sampling from the logits of a language model."""

import numpy as np
import numpy.typing as npt
import torch

_ELEMENTS = 1 << 24
"""Probabilities in float64 at a time: 128 MiB, whatever the vocabulary."""


def log_distribution(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Log-probabilities that are sampled from, float32, of the shape of `logits`.

    Top-p keeps the most probable tokens until their mass reaches it, and gives the rest
    probability 0 (Holtzman et al., "The curious case of neural text degeneration", 2020).
    """
    logp = torch.log_softmax(logits.float() / temperature, dim=-1)
    if top_p >= 1:
        return logp
    ranked, order = logp.sort(dim=-1, descending=True, stable=True)
    before = ranked.exp().cumsum(-1) - ranked.exp()
    ranked = ranked.masked_fill(before >= top_p, -torch.inf)
    kept = torch.empty_like(logp).scatter_(-1, order, ranked)
    return torch.log_softmax(kept, dim=-1)


def draw(
    logp: torch.Tensor, uniform: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The token of each row by inverse CDF in float64, and its log-probability.

    Shapes: (rows, vocabulary), (rows,). A token of probability 0 is never drawn.
    """
    if logp.device.type == "mps":  # which has no float64
        logp = logp.cpu()
    u = torch.from_numpy(uniform).to(logp.device).unsqueeze(-1)
    rows = max(1, _ELEMENTS // logp.shape[-1])
    tokens = torch.cat(
        [_inverse(*pair) for pair in zip(logp.split(rows), u.split(rows), strict=True)]
    )
    return tokens.squeeze(-1).cpu().numpy(), logp.gather(-1, tokens).squeeze(-1).cpu().numpy()


def _inverse(logp: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    mass = logp.double().exp().cumsum(-1)
    # The last total is not exactly 1: scaling keeps u below it, so an index is always found.
    return torch.searchsorted(mass, u * mass[:, -1:], right=True)


def shortest_floats(values: npt.NDArray[np.float32]) -> list[list[float]]:
    """Numbers whose JSON is the shortest text that parses to the same float32."""
    return [[float(text) for text in row] for row in values.astype("U24").tolist()]
