"""Named moments at which a test may kill the process; without `RALO_CRASH_AT` they do nothing.

`RALO_CRASH_AT=after_put:3` kills at the third passing of `after_put`; several are separated by
commas. The moments: `after_put`, `sent_outputs`, `sent_offsets`, `committed`.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable

Point = Callable[[str], None]


def crash_points(spec: str | None) -> Point:
    """What to call at each named moment; raises ValueError for a malformed spec."""
    if not spec:
        return lambda name: None
    wanted = {}
    for part in spec.split(","):
        name, _, count = part.partition(":")
        wanted[name.strip()] = int(count or 1)
    passed: Counter[str] = Counter()

    def point(name: str) -> None:
        passed[name] += 1
        if wanted.get(name) == passed[name]:
            os.kill(os.getpid(), signal.SIGKILL)

    return point
