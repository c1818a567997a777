"""How far a verb that reads much has come: one line on stderr, where it takes a while."""

import sys
import time
from collections.abc import Callable

QUIET_S = 2.0
"""What takes no longer says nothing of its progress."""
EVERY_S = 0.5
WIDTH = 60


class Counting:
    """A line `verb: what done of of unit`, from the second after `QUIET_S` on."""

    def __init__(
        self, verb: str, unit: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._verb, self._unit, self._clock = verb, f" {unit}" if unit else "", clock
        self._began = self._said = clock()
        self._silent = True

    def __call__(self, what: str, done: int, of: int) -> None:
        """So many of so many are done."""
        now = self._clock()
        if now - self._began < QUIET_S or now - self._said < EVERY_S:
            return
        self._said, self._silent = now, False
        end = "\r" if sys.stderr.isatty() else "\n"
        text = f"{self._verb}: {what} {done:,} of {of:,}{self._unit}"
        print(text.ljust(WIDTH), end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if not self._silent and sys.stderr.isatty():
            print(" " * WIDTH, end="\r", file=sys.stderr)
            self._silent = True
