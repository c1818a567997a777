"""Rollout engines: what continues token prefixes. One contract, so a model, vLLM or an environment.

An engine is handed rows and gives one segment a row. A row's random numbers are keyed by its seed
and position alone, so what it samples depends on nothing that shares its batch.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence to continue.

    `position` is how many tokens were sampled before: the counter of the first draw. `limit` is
    how many more may be sampled, one at least.
    """

    prefix: tuple[int, ...]
    seed: int
    position: int
    limit: int


@dataclass(frozen=True, slots=True)
class Segment:
    """What a row was continued with; `ended` when the last token is a stop token.

    `logprobs` are those of the distribution that was sampled from (temperature and top-p applied),
    in float32.
    """

    tokens: list[int]
    logprobs: list[float]
    ended: bool


class RolloutEngine(Protocol):
    """Continues token prefixes under one weight version."""

    def generate(
        self, rows: Sequence[Row], temperature: float, top_p: float, stop: Collection[int]
    ) -> list[Segment]:
        """One segment a row, in order; temperature 0 is greedy, with log-probs of 0."""
        ...

    def room(self) -> int | None:
        """How many tokens a sequence may have, prompt included; None where nothing limits it."""
        ...
