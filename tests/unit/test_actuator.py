"""Which commands are carried out: one by one, and whatever is delivered in whatever order."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from acting_world import (
    BOOT,
    ROVER,
    World,
    actuator,
    claim,
    command,
    order,
    safety_spec,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.acting import Command, ControllerClaim, Feedback, OperatorOrder
from schemas.records import parse_at
from streams.acting.actuator import OUTCOMES_MAX, Actuator
from streams.acting.limits import Limits

Event = Command | ControllerClaim | OperatorOrder


def said(a: Actuator) -> list[tuple[int, str]]:
    return [(o.seq, o.outcome) for o in a.feedback(0, 0).outcomes]


def step(a: Actuator, now_ms: float) -> list[float]:
    set_point = a.step(now_ms, 0.005)
    a.done(set_point, now_ms)
    return set_point


def test_a_command_is_applied_until_its_deadline_then_the_robot_brakes() -> None:
    a = actuator()
    a.take(0, claim(), 0)
    a.take(1, command(0, set_point=[0.2, 0.0]), 10)
    speeds = [step(a, now_ms)[0] for now_ms in range(10, 400, 5)]
    assert speeds[27] == 0.2 and a.policy is None
    assert all(v < 0.2 for v in speeds[28:]) and speeds[-1] == 0
    brake_mps2 = (speeds[28] - speeds[29]) / 0.005
    assert brake_mps2 == pytest.approx(2.4)
    assert said(a) == [(0, "applied")]


def test_the_outcome_says_what_was_applied_and_what_limited_it() -> None:
    a = actuator()
    a.take(1, command(0, set_point=[3.0, 0.1]), 10)
    step(a, 10)
    (outcome,) = a.feedback(0, 0).outcomes
    assert outcome.applied == [pytest.approx(0.01), 0.1]
    assert outcome.limits == ["v_mps:range", "v_mps:rate"]
    assert outcome.at_ms == 10 and outcome.at.startswith("commands[") and outcome.at.endswith("]@1")


@pytest.mark.parametrize(
    "late, outcome",
    [
        ({"stamp_ms": -200.0, "deadline_ms": 0.0}, "expired"),
        ({"boot_id": "b0"}, "lost"),
        ({"epoch": 0}, "old-epoch"),
        ({"epoch": 99}, "old-epoch"),
        ({"set_point": [0.1]}, "unsafe"),
    ],
)
def test_what_may_not_be_carried_out_says_why(late: dict[str, object], outcome: str) -> None:
    a = actuator()
    a.take(0, claim(), 0)
    a.take(1, claim(), 0)
    a.take(2, command(0, **{"epoch": 1, **late}), 10)  # type: ignore[arg-type]
    assert step(a, 10) == [0, 0]
    assert said(a) == [(0, outcome)]


def test_of_two_in_one_period_the_newer_is_applied() -> None:
    a = actuator()
    a.take(1, command(0), 10)
    a.take(2, command(1), 10)
    step(a, 10)
    assert said(a) == [(0, "superseded"), (1, "applied")]


def test_a_copy_in_the_log_is_a_duplicate_and_the_same_record_again_is_passed_over() -> None:
    a = actuator()
    a.take(1, command(0), 10)
    step(a, 10)
    a.take(2, command(0), 15)
    a.take(1, command(0), 15)
    step(a, 15)
    assert said(a) == [(0, "applied"), (0, "duplicate")]


def test_an_older_number_that_comes_late_is_superseded() -> None:
    a = actuator()
    for offset, seq in ((1, 2), (2, 1)):
        a.take(offset, command(seq), 10)
        step(a, 10)
    assert said(a) == [(2, "applied"), (1, "superseded")]


def test_a_new_claim_ends_what_the_old_controller_had_begun() -> None:
    a = actuator()
    a.take(0, claim(), 0)
    a.take(1, command(0, epoch=0), 10)
    assert step(a, 10)[0] > 0
    a.take(2, claim(), 15)
    assert step(a, 15)[0] < 0.01 and a.policy is None
    a.take(3, command(1, epoch=0), 20)
    a.take(4, command(0, epoch=2), 20)
    step(a, 20)
    assert said(a) == [(0, "applied"), (1, "old-epoch"), (0, "applied")]
    assert a.feedback(0, 0).controller_epoch == 2


def test_a_command_that_waited_for_a_stop_is_unsafe() -> None:
    a = actuator()
    a.take(1, command(0), 10)
    a.order(order("stop"), 10)
    assert step(a, 10) == [0, 0]
    a.take(2, command(1), 15)
    assert said(a) == [(0, "unsafe"), (1, "unsafe")]


def test_a_command_whose_driver_failed_is_not_tried_again() -> None:
    a = actuator()
    a.take(1, command(0), 10)
    a.step(10, 0.005)
    a.done(None, 10)
    assert step(a, 15) == [0, 0]
    assert said(a) == [(0, "unsafe")]


def test_feedback_is_bounded_and_says_how_far_all_outcomes_are_said() -> None:
    a = actuator()
    for offset in range(1, 2 * OUTCOMES_MAX):
        a.take(offset, command(offset, boot_id="b0"), 10)
    first, second = a.feedback(0, 0), a.feedback(0, 0)
    assert [len(f.outcomes) for f in (first, second)] == [OUTCOMES_MAX, OUTCOMES_MAX - 1]
    assert first.commands_next == OUTCOMES_MAX + 1 and second.commands_next == 2 * OUTCOMES_MAX
    assert [first.seq, second.seq] == [0, 1]


def test_a_command_that_waits_is_not_settled() -> None:
    a = actuator()
    a.take(1, command(0), 10)
    assert a.feedback(0, 0).commands_next == 1
    step(a, 10)
    assert a.feedback(0, 0).commands_next == 2


# --- limits


def test_the_brake_keeps_the_robot_on_its_curve() -> None:
    limits = Limits(ROVER, 0.5, 2.4)
    for _ in range(100):
        limits.towards([0.5, 1.0], 0.005, degraded=False)
    way = [limits.brake(0.005) for _ in range(60)]
    assert all(w == pytest.approx(2 * v) for v, w in way)
    assert way[-1] == [0, 0]


@given(
    st.lists(
        st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.booleans(), st.floats(0, 0.01)),
        max_size=40,
    )
)
def test_whatever_is_asked_for_stays_within_range_rate_and_mode(
    asked: list[tuple[float, float, bool, float]],
) -> None:
    limits = Limits(ROVER, 0.5, 2.4)
    last = 0.0
    for v, w, degraded, dt_s in asked:
        (v_done, w_done), named = limits.towards([v, w], dt_s, degraded)
        assert -0.5 <= v_done <= 1.0 and -2.0 <= w_done <= 2.0
        assert abs(v_done - last) <= 2.0 * dt_s + 1e-12
        if degraded:
            assert abs(w_done) <= 1.0
        if not named:
            assert (v_done, w_done) == (v, w)
        last = v_done


# --- whatever order, copies and restarts

EPOCHS = (0, 3)
"""Offsets of the claims in every history."""


@dataclass
class Life:
    """What one history showed: which commands were begun when, and all that was said."""

    begun: list[tuple[Command, float]] = field(default_factory=list)
    feedback: list[Feedback] = field(default_factory=list)


SENDS = st.tuples(
    st.integers(0, 3), st.sampled_from(EPOCHS), st.booleans(), st.sampled_from([-10.0, 20, 50, 500])
)
"""A command's number, epoch, whether it is for the boot that lives, how long it is good for."""
ACTS = st.one_of(
    SENDS,
    SENDS,
    st.sampled_from(["turn", "turn", "hear", "step", "say", "restart", "again", "stop", "reset"]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(ACTS, max_size=40))
def test_none_twice_none_late_none_of_an_older_epoch_and_each_has_an_outcome(
    acts: list[object],
) -> None:
    log: list[Event] = [claim(), command(0, 0.0, 0), command(1, 0.0, 0), claim()]
    life, a, now_ms = Life(), actuator(), 0.0
    boots, taken = [BOOT, "b2"], 0

    def send(seq: int, epoch: int, here: bool, good_ms: float) -> Command:
        boot = boots[0] if here else "b0"
        return command(seq, now_ms, epoch, boot_id=boot, deadline_ms=now_ms + good_ms)

    def deliver(upto: int) -> None:
        nonlocal taken
        for offset in range(taken, upto):
            a.take(offset, log[offset], now_ms)
        taken = max(taken, upto)

    def period() -> None:
        nonlocal now_ms
        now_ms += 40
        before = a._acting
        set_point = a.step(now_ms, 0.04)
        if a._taking_up is not None:
            life.begun.append((a._taking_up[0].command, now_ms))
        elif a._acting is not None:
            assert a._acting is before, "nothing is taken up again"
        if a._acting is not None:
            assert now_ms < a._acting.command.deadline_ms
            assert a._acting.command.boot_id == a.boot_id
        a.done(set_point, now_ms)

    def restart() -> None:
        nonlocal a, taken
        newest = life.feedback[-1] if life.feedback else None
        if len(boots) == 1 or newest is None or newest.boot_id != a.boot_id:
            return
        boots.pop(0)
        a = actuator(boot_id=boots[0])
        if newest.controller_epoch is not None:
            a.take(newest.controller_epoch, claim(), now_ms, True)
        a.skip_to(newest.commands_next)
        taken = newest.commands_next

    for act in acts:
        if act == "turn":
            deliver(len(log))
            period()
        elif act == "step":
            period()
        elif act == "hear":
            deliver(len(log))
        elif act == "say":
            life.feedback.append(a.feedback(now_ms, 0))
        elif act == "restart":
            restart()
        elif act == "again":
            taken = 0
        elif isinstance(act, str):
            log.append(order(act, f"o{len(log)}"))
        else:
            log.append(send(*act))  # type: ignore[misc]
    deliver(len(log))
    period()
    life.feedback += [a.feedback(now_ms, 0), a.feedback(now_ms, 0)]
    _judge(life, log)


def _judge(life: Life, log: list[Event]) -> None:
    boots = [BOOT, "b2"]
    ids = Counter((c.boot_id, c.controller_epoch, c.seq) for c, _ in life.begun)
    assert all(count == 1 for count in ids.values()), "executed twice"
    assert all(now_ms < c.deadline_ms for c, now_ms in life.begun), "executed late"
    order_ = [(boots.index(c.boot_id), c.controller_epoch, c.seq) for c, _ in life.begun]
    assert order_ == sorted(order_), "executed after a newer one"
    epochs = [c.controller_epoch for c, _ in life.begun]
    assert epochs == sorted(epochs), "executed for a controller that was replaced"
    outcomes = Counter((parse_at(o.at)[1], f.boot_id) for f in life.feedback for o in f.outcomes)
    assert all(count == 1 for count in outcomes.values()), "two outcomes in one life"
    named = {offset for offset, _ in outcomes}
    assert named == {i for i, event in enumerate(log) if isinstance(event, Command)}
    assert life.feedback[-1].commands_next == len(log)
    applied = {
        (f.boot_id, o.controller_epoch, o.seq)
        for f in life.feedback
        for o in f.outcomes
        if o.outcome == "applied"
    }
    assert applied <= set(ids), "said to be applied, and was not"


# --- the loop


def test_feedback_waits_for_room_and_then_has_every_outcome() -> None:
    world = World()
    world.drive(200)
    world.link.room = False
    world.run(1000)
    assert world.packer.dropped > 0
    world.link.room = True
    world.run(100)
    seqs = [f.seq for f in world.link.feedback]
    assert seqs == list(range(len(seqs)))
    assert len(world.link.outcomes()) >= 25
    assert set(world.link.outcomes().values()) == {"applied"}


def test_no_frame_goes_up_before_the_log_knows_of_this_life() -> None:
    world = World()
    world.link.announced = False
    world.run(100)
    assert not world.link.frames and world.packer.dropped == 4 * 20
    world.link.announced = True
    world.run(100)
    assert len(world.link.frames) == 20 and world.link.frames[0].dropped == 4 * 20


def test_feedback_names_the_policy_that_acts_and_none_while_it_rests() -> None:
    world = World(safety_spec())
    world.drive(500)
    assert world.link.feedback[-1].policy is not None
    world.commanding = False
    world.run(400)
    assert world.link.feedback[-1].policy is None
    assert world.link.feedback[-1].applied == [0, 0]


def test_a_change_of_mode_is_said_at_once() -> None:
    world = World()
    world.drive(1000)
    world.rover.broken = "gone"
    world.run(10)
    assert world.link.feedback[-1].mode == "SAFE_STOP"


def test_frames_that_the_link_gave_up_are_counted_by_the_next() -> None:
    world = World()
    world.run(10)
    before = world.packer.dropped
    world.link.lost = 7
    world.run(1)
    assert world.packer.dropped == before + 7
