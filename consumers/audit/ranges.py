"""Half-open ranges of integers, kept merged: memory is the number of gaps, not of ranges."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Ranges:
    """A set of integers as sorted, disjoint ranges."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> bool:
        """Add [start, end); answers whether none of it was there before."""
        if start >= end:
            return True
        # All ranges that touch the new one are merged with it.
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        fresh = not any(self._starts[i] < end and start < self._ends[i] for i in range(low, high))
        if low < high:
            start, end = min(start, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        return fresh

    def __contains__(self, value: int) -> bool:
        at = bisect_right(self._starts, value) - 1
        return at >= 0 and value < self._ends[at]

    @property
    def high(self) -> int:
        """One past the greatest member; 0 when empty."""
        return self._ends[-1] if self._ends else 0

    def gaps(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """The ranges between `start` and `high` that are not in the set."""
        for low, high in zip(self._starts, self._ends, strict=True):
            if start < low:
                yield start, low
            start = max(start, high)
