"""Periods on absolute deadlines, by a clock that tests turn."""

import pytest

from streams.acting.pacing import Lateness, Pacer


class Clock:
    """Sleeps as long as it is told, and a little more."""

    def __init__(self, oversleep_s: float = 0.0) -> None:
        self.now_s, self.oversleep_s = 100.0, oversleep_s

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds + self.oversleep_s


def pacer(clock: Clock, rate_hz: float = 200) -> Pacer:
    return Pacer(rate_hz, clock, clock.sleep)


def test_lateness_does_not_add_up() -> None:
    clock = Clock(oversleep_s=0.001)
    p = pacer(clock)
    for _ in range(201):
        p.wait()
        clock.now_s += 0.002
    assert clock.now_s == pytest.approx(101.0 + 0.003, abs=1e-6)
    assert (p.periods, p.missed) == (201, 0)


def test_periods_that_were_over_are_missed_and_skipped() -> None:
    clock = Clock()
    p = pacer(clock)
    p.wait()
    clock.now_s += 0.0235
    late_ms = p.wait()
    assert (p.periods, p.missed) == (5, 3)
    assert late_ms == pytest.approx(18.5)
    assert p.wait() == 0.0 and clock.now_s == pytest.approx(100.025)


def test_a_period_that_is_late_but_not_over_is_not_missed() -> None:
    clock = Clock()
    p = pacer(clock)
    p.wait()
    clock.now_s += 0.009
    assert p.wait() == pytest.approx(4)
    assert (p.periods, p.missed) == (2, 0)


def test_health_is_of_the_time_since_last_asked() -> None:
    clock = Clock()
    p = pacer(clock)
    p.wait()
    clock.now_s += 0.101
    p.wait()
    assert p.health().lateness_max_ms == pytest.approx(96)
    p.wait()
    health = p.health()
    assert (health.periods, health.missed, health.lateness_max_ms) == (22, 19, 0)
    assert p.whole.max_ms == pytest.approx(96)


def test_quantiles_are_right_within_a_bucket() -> None:
    lateness = Lateness()
    for i in range(1, 1001):
        lateness.add(i / 100)
    assert lateness.quantile(0.5) == pytest.approx(5, rel=0.05)
    assert lateness.quantile(0.99) == pytest.approx(9.9, rel=0.05)
    assert lateness.quantile(1.0) == 10 == lateness.max_ms
    assert Lateness().quantile(0.5) == 0


def test_time_left_of_a_period() -> None:
    clock = Clock()
    p = pacer(clock)
    assert p.left_s == 0
    p.wait()
    clock.now_s += 0.002
    assert p.left_s == pytest.approx(0.003)
