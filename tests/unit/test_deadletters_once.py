"""A letter is requeued once: whatever dies, whoever else is at it, whatever a commit answers."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from letters_world import (
    Crash,
    assert_each_once,
    die,
    drop,
    problem,
    requeue,
    resolutions,
    sent,
    with_dead_problems,
)

from consumers.deadletters.book import Book
from consumers.deadletters.resolve import Decision, Overtaken, Resolver, settle
from infra.log import LogUnavailable
from infra.memory.log import MemoryLog

LETTERS, BATCH = 7, 3
POINTS = ("sent_outputs", "sent_offsets", "committed")
CALLS = {"ends", "state_reader", "writer", "snapshot", "behind", "poll", "publish"}


def at(point: str, count: int, act: Callable[[], None]) -> Callable[[str], None]:
    """A point that acts at the so manieth passing of one name."""
    passed = 0

    def pass_(name: str) -> None:
        nonlocal passed
        passed += name == point
        if name == point and passed == count:
            act()

    return pass_


def die_here() -> None:
    raise Crash


class Counted:
    """A log, or what it opened, whose every call may be the last."""

    def __init__(self, inner: Any, before: Callable[[str], None]) -> None:
        self._inner, self._before = inner, before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in CALLS:
            return found

        def call(*args: Any, **named: Any) -> Any:
            self._before(name)
            made = found(*args, **named)
            return Counted(made, self._before) if name in ("state_reader", "writer") else made

        return call


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_death_at_a_point_of_a_transaction(point: str, count: int) -> None:
    log = with_dead_problems(LETTERS)
    with pytest.raises(Crash):
        requeue(log, point=at(point, count, die_here), batch=BATCH)
    done = len(sent_and_settled(log))
    assert done == BATCH * (count - (point != "committed")) or done == LETTERS
    assert requeue(log, batch=BATCH).done == LETTERS - done
    assert_each_once(log, LETTERS)


def sent_and_settled(log: MemoryLog) -> list[Any]:
    """What both is there and is said to be there, once no transaction is open."""
    settle(log)
    copies = sent(log)
    assert len(copies) == len(resolutions(log))
    return copies


def test_death_before_any_call() -> None:
    calls = 0
    while True:
        log, left, names = with_dead_problems(LETTERS), calls, list[str]()

        def before(name: str) -> None:
            nonlocal left
            names.append(name)  # noqa: B023
            if left == 0:
                raise Crash
            left -= 1

        died = True
        with contextlib.suppress(Crash):
            requeue(Counted(log, before), batch=BATCH)
            died = False
        requeue(log, batch=BATCH)
        assert_each_once(log, LETTERS)
        if not died:
            break
        calls += 1
    assert calls > 40 and set(names) == CALLS, f"{calls} calls of {sorted(set(names))}"


@pytest.mark.parametrize(
    "fault", ["abort_next", "fail_next_commit", "lose_next_commit_reply", "unavailable_polls"]
)
@pytest.mark.parametrize("times", [1, 2])
def test_what_a_commit_answers_does_not_matter(fault: str, times: int) -> None:
    log = with_dead_problems(LETTERS)

    def go_wrong() -> None:
        setattr(log.faults, fault, times)

    outcome = requeue(log, point=at("sent_outputs", 2, go_wrong), batch=BATCH)
    assert (outcome.done, outcome.before) == (LETTERS, 0)
    assert_each_once(log, LETTERS)


def test_a_commit_that_arrives_twice_ends_no_other_transaction() -> None:
    """Clients have no KIP-890: of one producer, it would end the transaction after its own."""
    log = with_dead_problems(LETTERS)
    log.faults.repeat_next_commit = 3
    requeue(log, batch=BATCH, point=at("sent_outputs", 2, log.deliver_late))
    assert_each_once(log, LETTERS)


def test_a_commit_that_arrives_after_the_run_has_ended_changes_nothing() -> None:
    log = with_dead_problems(LETTERS)

    def lose() -> None:
        log.faults.fail_next_commit = 1

    requeue(log, batch=BATCH, point=at("sent_offsets", 2, lose))
    log.deliver_late()
    assert_each_once(log, LETTERS)


def test_patience_with_the_broker_has_a_limit() -> None:
    log, slept = with_dead_problems(LETTERS), list[float]()
    clock = iter(range(10**6))
    book = Book.read(log)
    log.faults.unavailable_writers = 10**6
    resolver = Resolver(log, book, clock=lambda: next(clock), sleep=slept.append)
    with pytest.raises(LogUnavailable):
        resolver.run(Decision(letter, "dropped") for letter in book.waiting())
    assert 50 < len(slept) < 70


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_two_operators(point: str, count: int) -> None:
    """Another does all of it in the middle: the first stops, or finds nothing left."""
    log = with_dead_problems(LETTERS)
    others = list[int]()

    def meanwhile() -> None:
        others.append(requeue(log, batch=2).done)

    if point == "committed":
        outcome = requeue(log, point=at(point, count, meanwhile), batch=BATCH)
        assert outcome.done + outcome.before == LETTERS and [outcome.before] == others
    else:
        with pytest.raises(Overtaken, match="another `ralo dlq` has taken over"):
            requeue(log, point=at(point, count, meanwhile), batch=BATCH)
        assert others == [LETTERS - BATCH * (count - 1)]
    assert_each_once(log, LETTERS)


def test_what_one_drops_the_other_does_not_send() -> None:
    log = with_dead_problems(LETTERS)
    outcome = requeue(log, point=at("committed", 1, lambda: none(drop(log))), batch=BATCH)
    assert (outcome.done, outcome.before) == (BATCH, LETTERS - BATCH)
    assert len(sent(log)) == BATCH
    actions = [one.action for one in resolutions(log)]
    assert actions == ["requeued"] * BATCH + ["dropped"] * (LETTERS - BATCH)


def none(_: object) -> None:
    """What a point answers."""


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    letters=st.integers(1, 9),
    batch=st.integers(1, 4),
    trouble=st.lists(
        st.tuples(
            st.sampled_from(POINTS),
            st.integers(1, 4),
            st.sampled_from(
                [
                    "die",
                    "other",
                    "more",
                    "late",
                    "abort_next",
                    "fail_next_commit",
                    "lose_next_commit_reply",
                    "repeat_next_commit",
                ]
            ),
        ),
        max_size=5,
    ),
)
def test_any_trouble_in_any_order(
    letters: int, batch: int, trouble: list[tuple[str, int, str]]
) -> None:
    log, count = with_dead_problems(letters), letters

    def happen(what: str) -> None:
        nonlocal count
        match what:
            case "die":
                raise Crash
            case "other":
                requeue(log, batch=2)
            case "more":
                die(log, problem(count))
                count += 1
            case "late":
                log.deliver_late()
            case fault:
                setattr(log.faults, fault, 1)

    for point, passing, what in trouble:
        act = at(point, passing, lambda what=what: happen(what))  # type: ignore[misc]
        with contextlib.suppress(Crash, Overtaken):
            requeue(log, point=act, batch=batch)
    for name in ("abort_next", "fail_next_commit", "lose_next_commit_reply", "repeat_next_commit"):
        setattr(log.faults, name, 0)
    requeue(log, batch=batch)
    log.deliver_late()
    assert_each_once(log, count)
