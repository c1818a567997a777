"""Whether a reader of the log gets on."""

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass
class Watchdog:
    """Says when a reader has been behind for `limit_s` without having moved at all."""

    limit_s: float
    _moved: Hashable = None
    _since_s: float | None = None

    def stalled(self, behind: bool, progress: Hashable, now_s: float) -> bool:
        """Take in how it stands now; `progress` is anything that changes when work is done."""
        if not behind or progress != self._moved or self._since_s is None:
            self._moved, self._since_s = progress, now_s
            return False
        return now_s - self._since_s >= self.limit_s

    def excuse(self) -> None:
        """Start counting anew: nobody could have got on just now."""
        self._since_s = None
