"""The modes, held to the rules that PX4 and Nav2 publish for theirs."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.acting import MODES, Mode
from streams.acting.safety import SEVERITY, Alarm, SafetyMachine, moves

ALARMS = st.lists(
    st.builds(
        Alarm,
        st.sampled_from(MODES[1:]),
        st.sampled_from(["obstacle", "geofence", "silence"]),
    ),
    max_size=3,
)


def machine(mode: Mode = "NORMAL") -> SafetyMachine:
    return SafetyMachine(clear_ms=500, mode=mode)


def test_the_order_of_severity_is_fixed() -> None:
    assert MODES == ("NORMAL", "DEGRADED", "HOLD", "SAFE_STOP", "TERMINATED")
    assert [mode for mode in MODES if moves(mode)] == ["NORMAL", "DEGRADED"]


@pytest.mark.parametrize("first, second", list(itertools.permutations(MODES[1:], 2)))
def test_the_most_severe_wins_whichever_comes_first(first: Mode, second: Mode) -> None:
    m = machine()
    m.update([Alarm(first, "a")], 0)
    m.update([Alarm(first, "a"), Alarm(second, "b")], 1)
    assert m.mode == max(first, second, key=SEVERITY.__getitem__)


@pytest.mark.parametrize("mode", ["HOLD", "SAFE_STOP", "TERMINATED"])
def test_a_cause_that_goes_away_clears_nothing(mode: Mode) -> None:
    m = machine()
    m.update([Alarm(mode, "silence")], 0)
    for now_ms in range(0, 100_000, 100):
        assert m.update([], now_ms) == []
    assert m.mode == mode


def test_degraded_only_slows_and_ends_by_itself() -> None:
    m = machine()
    m.update([Alarm("DEGRADED", "obstacle")], 0)
    assert m.update([], 100) == []
    assert m.update([], 599) == []
    assert [c.cause for c in m.update([], 600)] == ["cleared"]
    assert m.mode == "NORMAL"


def test_degraded_goes_on_while_its_cause_comes_and_goes() -> None:
    m = machine()
    for now_ms in range(0, 5000, 100):
        m.update([Alarm("DEGRADED", "obstacle")] if now_ms % 400 == 0 else [], now_ms)
        assert m.mode == "DEGRADED"


def test_a_reset_is_refused_while_the_cause_persists() -> None:
    m, cause = machine(), Alarm("HOLD", "obstacle", "0.2 m")
    m.update([cause], 0)
    refused = m.reset([cause], "by order")
    assert (refused.cause, refused.before, refused.after) == ("reset-refused", "HOLD", "HOLD")
    assert "obstacle: 0.2 m" in refused.detail
    assert m.reset([], "by order").after == m.mode == "NORMAL"


def test_terminated_is_final() -> None:
    m = machine("TERMINATED")
    assert m.reset([], "by order").cause == "reset-refused"
    assert m.mode == "TERMINATED"


def test_a_reset_leads_to_degraded_where_that_still_has_a_cause() -> None:
    m, slow = machine(), Alarm("DEGRADED", "geofence")
    m.update([Alarm("SAFE_STOP", "tilt"), slow], 0)
    assert m.reset([slow], "by order").after == "DEGRADED"
    assert m.update([slow], 1) == []


def test_an_alarm_that_changes_nothing_is_told_once() -> None:
    m = machine()
    m.update([Alarm("SAFE_STOP", "tilt")], 0)
    told = [m.update([Alarm("HOLD", "silence", f"{t} ms")], t) for t in range(5)]
    assert [len(changes) for changes in told] == [1, 0, 0, 0, 0]
    assert (told[0][0].before, told[0][0].after) == ("SAFE_STOP", "SAFE_STOP")


def test_the_same_cause_grown_worse_is_told() -> None:
    m = machine()
    m.update([Alarm("HOLD", "silence")], 0)
    (change,) = m.update([Alarm("SAFE_STOP", "silence")], 1)
    assert (change.before, change.after) == ("HOLD", "SAFE_STOP")


def test_two_stale_sources_are_two_alarms() -> None:
    m = machine()
    stale = [Alarm("HOLD", "stale-source", subject=s) for s in ("imu", "scan")]
    assert len(m.update(stale, 0)) == 2


@given(st.lists(st.one_of(ALARMS, st.just("reset")), max_size=30))
def test_whatever_happens_only_a_granted_reset_leads_down_from_a_stop(steps: list[object]) -> None:
    m, present = machine(), list[Alarm]()
    for now_ms, step in enumerate(steps):
        before = m.mode
        if step == "reset":
            granted = m.reset(present, "by order").cause == "reset"
            assert granted == (before != "TERMINATED" and all(moves(a.mode) for a in present))
        else:
            present = step  # type: ignore[assignment]
            changes = m.update(present, now_ms * 100)
            for one, next_ in itertools.pairwise(changes):
                assert one.after == next_.before
            for alarm in present:
                assert SEVERITY[m.mode] >= SEVERITY[alarm.mode]
            assert moves(before) or SEVERITY[m.mode] >= SEVERITY[before]
