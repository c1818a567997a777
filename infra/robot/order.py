"""What an actuator tells its link at the start."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkOrder:
    """Whose link it is, where its spool lies, and where to read on in `commands`."""

    robot_id: str
    folder: str
    next_offset: int | None
    """None: by the last feedback in the log."""
    cpus: Sequence[int] = ()
    """The cores to run on, for the actuator may be pinned to one."""
