"""What a robot says of its releases: one thing at a time, the next when the log has the one before.

The writer of a control path gives up what it cannot deliver for long, so what was handed over is
not on the log yet: only what was read back is, and what was not is said again. As never more than
one thing is on its way, the log has all in order, and what it has twice it has side by side.
"""

from collections import deque

from schemas.acting import Release

AGAIN_STEPS = 100
"""Control steps after which what was not read back is said again."""


class Sayings:
    """What is to be said, in order."""

    def __init__(self) -> None:
        self._waiting: deque[Release] = deque()
        self._steps: int | None = None
        """Since the first of them was handed over; None while it was not."""

    @property
    def are_known(self) -> bool:
        """Whether all that was said was read back."""
        return not self._waiting

    def add(self, release: Release) -> None:
        """To be said after all that waits."""
        self._waiting.append(release)

    def heard(self, release: Release) -> None:
        """This was read back."""
        first = self._waiting[0] if self._waiting else None
        self._waiting = deque(r for r in self._waiting if not _is_same(r, release))
        if first is not None and _is_same(first, release):
            self._steps = None

    def step(self) -> None:
        """A control step has passed."""
        if self._steps is not None:
            self._steps += 1
            if self._steps >= AGAIN_STEPS:
                self._steps = None

    def due(self) -> list[Release]:
        """What is to be published now: the first that waits, where it is not on its way."""
        if not self._waiting or self._steps is not None:
            return []
        self._steps = 0
        return [self._waiting[0]]


def _is_same(one: Release, other: Release) -> bool:
    return (one.release_id, one.stage) == (other.release_id, other.stage)
