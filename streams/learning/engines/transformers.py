"""The rollout engine on transformers: batched decoding with a key-value cache."""

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from streams.learning.engines import Row, Segment
from streams.learning.engines.counters import Seeds, uniforms
from streams.learning.engines.draws import draw, log_distribution, shortest_floats

_COMPACT = 0.25
"""The share of ended rows from which dropping them is cheaper than carrying them along."""


@functools.cache
def _accepted(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def room(model: Any) -> int | None:
    """How many tokens the model's positions allow, or None."""
    return getattr(model.config, "max_position_embeddings", None)


class TransformersEngine:
    """Continues prefixes with a causal language model of transformers, held elsewhere."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def room(self) -> int | None:
        """The model's number of positions."""
        return room(self._model)

    def generate(
        self, rows: Sequence[Row], temperature: float, top_p: float, stop: Collection[int]
    ) -> list[Segment]:
        """One segment a row, in order; temperature 0 is greedy, with log-probs of 0."""
        if not rows:
            return []
        with torch.inference_mode():
            return self._generate(rows, temperature, top_p, stop)

    def _generate(
        self, rows: Sequence[Row], temperature: float, top_p: float, stop: Collection[int]
    ) -> list[Segment]:
        distinct: dict[tuple[int, ...], int] = {}
        places = np.array([distinct.setdefault(row.prefix, len(distinct)) for row in rows])
        stream, output = _Stream(self._model, list(distinct)), _Output(rows, stop)
        logp = _scores(stream.prefill(), temperature, top_p)
        logp = logp[torch.from_numpy(places).to(logp.device)]
        while True:
            tokens = output.take(logp, greedy=temperature == 0)
            if not output.running.any():
                return output.segments()
            kept = output.compact()
            logp = _scores(stream.decode(tokens[kept], places[kept]), temperature, top_p)
            places = np.arange(len(kept))


def _scores(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Log-probabilities to sample from, or plain logits where the best one is taken."""
    return log_distribution(logits, temperature, top_p) if temperature else logits.float()


class _Stream:
    """A model reading on: the cache of the rows that still run, and their padding."""

    def __init__(self, model: Any, prefixes: list[tuple[int, ...]]) -> None:
        self._model = model
        self._accepted = _accepted(type(model).forward)
        self._cache: Any = None
        self._ids, self._lengths = _left_padded(prefixes, model.device)
        padded = int(self._lengths.min()) < self._ids.shape[1]
        # Without padding no mask is built at all: a fifth of a small model's step.
        self._mask = _mask(self._lengths, self._ids.shape[1]) if padded else None
        self._last = (room(model) or 1 << 62) - 1

    def prefill(self) -> torch.Tensor:
        """Logits after each prefix, (prefixes, vocabulary)."""
        positions = None
        if self._mask is not None:
            positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        return self._forward(self._ids, positions)

    def decode(self, tokens: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> torch.Tensor:
        """Logits after one more token on each of these rows of before, (tokens, vocabulary).

        A place may come many times: that is how a prompt read once becomes a group.
        """
        if not np.array_equal(places, np.arange(len(self._lengths))):
            self._select(torch.from_numpy(places).to(self._model.device))
        ids = torch.from_numpy(tokens).to(self._model.device).unsqueeze(-1)
        positions = None
        if self._mask is not None:
            self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
            # A row that ended is carried along and may pass the last position.
            positions = self._lengths.clamp(max=self._last).unsqueeze(-1)
        self._lengths = self._lengths + 1
        return self._forward(ids, positions)

    def _select(self, places: torch.Tensor) -> None:
        self._cache.reorder_cache(places)
        self._lengths = self._lengths[places]
        if self._mask is not None:
            self._mask = self._mask[places]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        more: dict[str, Any] = {"logits_to_keep": 1, "position_ids": positions}
        out = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **{name: value for name, value in more.items() if name in self._accepted},
        )
        self._cache = out.past_key_values
        logits: torch.Tensor = out.logits[:, -1]
        return logits


def _left_padded(
    prefixes: list[tuple[int, ...]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (prefixes, longest) with zeros on the left, and lengths."""
    lengths = np.array([len(prefix) for prefix in prefixes])
    ids = np.zeros((len(prefixes), lengths.max()), dtype=np.int64)
    for row, prefix in zip(ids, prefixes, strict=True):
        row[len(row) - len(prefix) :] = prefix
    return torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device)


def _mask(lengths: torch.Tensor, width: int) -> torch.Tensor:
    columns = torch.arange(width, device=lengths.device)
    return (columns >= width - lengths.unsqueeze(-1)).long()


class _Output:
    """What was sampled so far; `live` are the rows that the model still carries."""

    def __init__(self, rows: Sequence[Row], stop: Collection[int]) -> None:
        self.seeds: Seeds = np.array([row.seed for row in rows], dtype=np.uint64)
        self.positions = np.array([row.position for row in rows], dtype=np.int64)
        self.limits = np.array([row.limit for row in rows], dtype=np.int64)
        self.stop = np.array(sorted(stop), dtype=np.int64)
        longest = int(self.limits.max())
        self.tokens = np.zeros((len(rows), longest), dtype=np.int64)
        self.logprobs = np.zeros((len(rows), longest), dtype=np.float32)
        self.counts = np.zeros(len(rows), dtype=np.int64)
        self.ended = np.zeros(len(rows), dtype=bool)
        self.live = np.arange(len(rows))
        self.running = np.ones(len(rows), dtype=bool)
        self.step = 0

    def take(self, logp: torch.Tensor, greedy: bool) -> npt.NDArray[np.int64]:
        """Sample one token for each live row; those that ended before are not recorded."""
        if greedy:
            tokens: npt.NDArray[np.int64] = logp.argmax(-1).cpu().numpy()
            logprobs = np.zeros(len(tokens), dtype=np.float32)
        else:
            tokens, logprobs = draw(
                logp, uniforms(self.seeds[self.live], self.positions[self.live] + self.step)
            )
        rows = self.live[self.running]
        self.tokens[rows, self.step] = tokens[self.running]
        self.logprobs[rows, self.step] = logprobs[self.running]
        self.step += 1
        self.counts[rows] = self.step
        self.ended[rows] = np.isin(tokens[self.running], self.stop)
        self.running = ~self.ended[self.live] & (self.step < self.limits[self.live])
        return tokens

    def compact(self) -> npt.NDArray[np.int64]:
        """The places, among the live rows, of those that the model carries on."""
        if self.running.mean() > 1 - _COMPACT:
            return np.arange(len(self.live))
        kept = np.flatnonzero(self.running)
        self.live, self.running = self.live[kept], self.running[kept]
        return kept

    def segments(self) -> list[Segment]:
        """The segment of each row."""
        logprobs = shortest_floats(self.logprobs)
        return [
            Segment(tokens[:count], floats[:count], ended)
            for tokens, floats, count, ended in zip(
                self.tokens.tolist(),
                logprobs,
                self.counts.tolist(),
                self.ended.tolist(),
                strict=True,
            )
        ]
