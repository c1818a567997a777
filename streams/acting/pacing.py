"""Keeps a loop on absolute deadlines and counts how well: soft real time, misses counted.

Deadlines are multiples of the period from the first one on, so lateness does not add up. A period
that is over before the loop comes to it is missed, counted and skipped.
"""

import math
import time
from collections.abc import Callable

from schemas.acting import LoopHealth

_LEAST_MS, _GROWTH, _BUCKETS = 0.001, 1.05, 400
_LOG_GROWTH = math.log(_GROWTH)


class Lateness:
    """A histogram of latenesses from 1 µs to minutes, each bucket 5 % wide; its size is fixed."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.max_ms = 0.0

    def add(self, late_ms: float) -> None:
        """Count one."""
        if late_ms > _LEAST_MS:
            bucket = int(math.log(late_ms / _LEAST_MS) / _LOG_GROWTH) + 1
            self._counts[min(bucket, _BUCKETS - 1)] += 1
        else:
            self._counts[0] += 1
        self.count += 1
        self.max_ms = max(self.max_ms, late_ms)

    def quantile(self, share: float) -> float:
        """The upper edge of the bucket that this share of all lies up to, in milliseconds."""
        wanted, passed = share * self.count, 0
        for bucket, count in enumerate(self._counts):
            passed += count
            if passed >= wanted and passed:
                return min(_LEAST_MS * _GROWTH**bucket, self.max_ms)
        return 0.0


class Pacer:
    """Waits for the next period."""

    def __init__(
        self,
        rate_hz: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        realtime: str = "",
    ) -> None:
        self.rate_hz, self.period_s = rate_hz, 1 / rate_hz
        self.realtime = realtime
        self.periods = self.missed = 0
        self.whole, self._recent = Lateness(), Lateness()
        self._clock, self._sleep = clock, sleep
        self._due_s: float | None = None

    def wait(self) -> float:
        """Sleep until the next deadline; answers how late it is now, in milliseconds."""
        due_s = self._clock() if self._due_s is None else self._due_s + self.period_s
        # A sleep may end early on some clocks: what is left is slept again.
        while (left_s := due_s - self._clock()) > 0:
            self._sleep(left_s)
        late_s = -left_s
        over = int(late_s / self.period_s)
        self._due_s = due_s + over * self.period_s
        self.missed += over
        self.periods += 1 + over
        self.whole.add(late_s * 1000)
        self._recent.add(late_s * 1000)
        return late_s * 1000

    @property
    def left_s(self) -> float:
        """Until the next deadline; negative when it is over."""
        return 0.0 if self._due_s is None else self._due_s + self.period_s - self._clock()

    def health(self) -> LoopHealth:
        """Periods since the start, lateness since this was last asked for."""
        recent, self._recent = self._recent, Lateness()
        return LoopHealth(
            rate_hz=self.rate_hz,
            periods=self.periods,
            missed=self.missed,
            lateness_p50_ms=recent.quantile(0.5),
            lateness_p99_ms=recent.quantile(0.99),
            lateness_max_ms=recent.max_ms,
            realtime=self.realtime,
        )
