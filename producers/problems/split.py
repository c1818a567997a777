"""Train and held out by the question's text alone, and the order of an epoch."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from producers.problems.sources import Item, load_items
from schemas.ids import canonical_text, derived_seed, is_heldout
from schemas.missions import ProblemSource


@dataclass(frozen=True, slots=True)
class Split:
    """The distinct items of a source on their two sides, each ordered by question text."""

    train: list[Item]
    heldout: list[Item]
    read: int

    def describe(self) -> str:
        """What was found, for people."""
        distinct = len(self.train) + len(self.heldout)
        return f"{distinct} distinct questions among {self.read} items read"


def load_split(source: ProblemSource) -> Split:
    """Read and split a source; raises `SourceError`."""
    return split_items(load_items(source), source.heldout)


def split_items(items: Iterable[Item], fraction: float) -> Split:
    """Split items by their question's hash; of equal questions the first counts.

    Both sides are ordered by text, so the order in which a source gives its items is without
    effect on which problem has which index.
    """
    read, distinct = 0, dict[str, Item]()
    for item in items:
        read += 1
        distinct.setdefault(canonical_text(item.question), item)
    train, heldout = list[Item](), list[Item]()
    for text in sorted(distinct):
        (heldout if is_heldout(text, fraction) else train).append(distinct[text])
    return Split(train, heldout, read)


@lru_cache(maxsize=8)
def epoch_order(seed: int, epoch: int, size: int) -> tuple[int, ...]:
    """A permutation of range(size), keyed by the mission's seed and the epoch."""
    order = list(range(size))
    random.Random(derived_seed(seed, "order", epoch)).shuffle(order)
    return tuple(order)


def locate(seed: int, index: int, size: int) -> tuple[int, int]:
    """(epoch, position in the train items) of the problem with this index."""
    epoch, place = divmod(index, size)
    return epoch, epoch_order(seed, epoch, size)[place]
