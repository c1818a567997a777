"""When each record is due, and how well that was kept."""

from streams.acting.pacing import Lateness


class Pace:
    """Due times from recorded ones, `speed` times as fast; ask it in the order of sending.

    Deadlines are absolute, so lateness does not add up. A record whose time is before that of one
    already sent is due at once. No pause is longer than `max_gap_s`, where that is given.
    """

    def __init__(self, speed: float = 1.0, max_gap_s: float | None = None) -> None:
        self.speed, self.max_gap_s = speed, max_gap_s
        self._first_ms: int | None = None
        self._last_ms = 0
        self._cut_s = 0.0

    def due_s(self, timestamp_ms: int) -> float:
        """When a record of this time is due, in seconds after the first."""
        if self._first_ms is None:
            self._first_ms = self._last_ms = timestamp_ms
        gap_s = max(0, timestamp_ms - self._last_ms) / 1000 / self.speed
        if self.max_gap_s is not None:
            self._cut_s += max(0.0, gap_s - self.max_gap_s)
        self._last_ms = max(self._last_ms, timestamp_ms)
        return (self._last_ms - self._first_ms) / 1000 / self.speed - self._cut_s


class Punctuality:
    """How late records were sent, and how far the times between them were from the recorded."""

    def __init__(self) -> None:
        self.late, self.apart = Lateness(), Lateness()
        self._before: tuple[float, float] | None = None

    def note(self, due_s: float, sent_s: float) -> None:
        """One record was sent; both times in seconds after the first."""
        self.late.add((sent_s - due_s) * 1000)
        if self._before is not None:
            due_before_s, sent_before_s = self._before
            off_s = (sent_s - sent_before_s) - (due_s - due_before_s)
            self.apart.add(abs(off_s) * 1000)
        self._before = due_s, sent_s

    def figures(self) -> dict[str, dict[str, float]]:
        """Milliseconds late, and between records; p50 and p99 within 5 %, and the worst."""
        return {"late_ms": _figures(self.late), "interval_off_ms": _figures(self.apart)}


def _figures(lateness: Lateness) -> dict[str, float]:
    figures = {"p50": lateness.quantile(0.5), "p99": lateness.quantile(0.99)}
    return {name: round(ms, 3) for name, ms in (figures | {"max": lateness.max_ms}).items()}
