"""The clocks that processes go by, which a fault run may make jump.

`RALO_CLOCK_FILE` names a JSON file, {pid: seconds}: by so much the clocks of that process are off.
Without it these are the system's. A robot's control loop and what steps its physics do not ask
here: the kernel's monotonic clock does not jump.
"""

import json
import os
import time
from pathlib import Path

VARIABLE = "RALO_CLOCK_FILE"
LOOK_EVERY_S = 0.2


class Clock:
    """The system's clocks, plus what the file says for this process."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._looked_s = 0.0
        self._off_s = 0.0

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic() + self._offset()

    def wall(self) -> float:
        """Seconds since 1970."""
        return time.time() + self._offset()

    def _offset(self) -> float:
        if self._path is not None and time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            self._off_s = read(self._path).get(str(os.getpid()), 0.0)
        return self._off_s


def read(path: Path) -> dict[str, float]:
    """What a file of jumps says; nothing where there is none."""
    try:
        found: dict[str, float] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def write(path: Path, jumps: dict[str, float]) -> None:
    """Say by how much the clocks of each process are off, in one step."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(jumps))
    fresh.replace(path)


_named = os.environ.get(VARIABLE)
_clock = Clock(Path(_named) if _named else None)
monotonic, wall = _clock.monotonic, _clock.wall
