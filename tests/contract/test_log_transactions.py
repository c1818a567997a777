"""Transactions: all or nothing, seen by readers only when settled, fenced by epoch."""

import contextlib
from collections.abc import Callable

import pytest
from contract_helpers import (
    ALONE,
    IN,
    OUT,
    Crash,
    World,
    crash_at,
    during,
    message,
    settle,
    silent,
    started,
    texts,
    until,
    visible,
    wait_for,
)

from infra.log import Aborted, Fenced, Log, LogError, Mark
from schemas.records import Partition


@pytest.fixture
def out(log: Log) -> Log:
    """The log with its topics."""
    log.provision([IN, OUT])
    return log


def test_what_is_aborted_is_never_seen(world: World, out: Log) -> None:
    out.append([message("before")])
    with pytest.raises(Crash):
        out.writer("w").publish([message("lost")], {}, "g", world.nobody, crash_at("sent_outputs"))
    settle(out, "w")
    out.append([message("after")])
    assert texts(visible(world, out)) == ["before", "after"]


def test_markers_and_aborted_records_take_offsets(world: World, out: Log) -> None:
    writer = out.writer("w")
    writer.publish([message("a"), message("b")], {}, "g", world.nobody)
    with pytest.raises(Crash):
        writer.publish([message("lost")], {}, "g", world.nobody, crash_at("sent_outputs"))
    writer = out.writer("w")
    writer.publish([message("c")], {}, "g", world.nobody)
    writer.close()
    # a 0, b 1, marker 2, lost 3, marker 4, c 5, marker 6
    assert [(r.offset, *texts([r])) for r in visible(world, out)] == [(0, "a"), (1, "b"), (5, "c")]
    assert out.ends("out") == {ALONE: (0, 7)}


def test_a_transaction_reaches_all_its_partitions_or_none(world: World, out: Log) -> None:
    both = [message("x", IN, "a"), message("y", IN, "b"), message("z", IN, "c"), message("w", OUT)]
    with pytest.raises(Crash):
        out.writer("w").publish(both, {}, "g", world.nobody, crash_at("sent_offsets"))
    settle(out, "w")
    assert visible(world, out, IN) == visible(world, out, OUT) == []
    writer = out.writer("w")
    writer.publish(both, {}, "g", world.nobody)
    writer.close()
    assert sorted(texts(visible(world, out, IN))) == ["x", "y", "z"]
    assert texts(visible(world, out, OUT)) == ["w"]


def test_later_records_wait_behind_an_open_transaction(world: World, out: Log) -> None:
    reader = out.state_reader({ALONE: 0})
    writer = out.writer("w")

    def look() -> None:
        out.append([message("plain")])
        silent(world, reader)

    writer.publish([message("first")], {}, "g", world.nobody, during("sent_outputs", look))
    assert texts(until(world, reader, 2)) == ["first", "plain"]


def test_records_before_an_open_transaction_do_not_wait(world: World, out: Log) -> None:
    out.append([message("early")])
    with pytest.raises(Crash):
        out.writer("w").publish([message("open")], {}, "g", world.nobody, crash_at("sent_outputs"))
    reader = out.state_reader({ALONE: 0})
    assert texts(until(world, reader, 1)) == ["early"]
    silent(world, reader)


def test_a_writer_with_a_newer_namesake_is_fenced(world: World, out: Log) -> None:
    old, new = out.writer("w"), out.writer("w")
    new.publish([message("new")], {}, "g", world.nobody)
    with pytest.raises(Fenced):
        old.publish([message("old")], {}, "g", world.nobody)
    new.publish([message("newer")], {}, "g", world.nobody)
    assert texts(visible(world, out)) == ["new", "newer"]


@pytest.mark.parametrize("moment", ["sent_outputs", "committed"])
def test_a_fenced_writer_can_be_given_up(world: World, out: Log, moment: str) -> None:
    old = out.writer("w")
    take_over = during(moment, lambda: out.writer("w"))
    with contextlib.suppress(Aborted):
        old.publish([message("old")], {}, "g", world.nobody, take_over)
    with pytest.raises(LogError):
        old.publish([message("older")], {}, "g", world.nobody)
    old.close()


@pytest.mark.parametrize("moment", ["sent_outputs", "sent_offsets"])
def test_a_namesake_in_the_middle_of_a_publication_aborts_it(
    world: World, out: Log, moment: str
) -> None:
    zombie = out.writer("w")
    successor = []
    take_over = during(moment, lambda: successor.append(out.writer("w")))
    with pytest.raises(Aborted):
        zombie.publish([message("zombie")], {}, "g", world.nobody, take_over)
    successor[0].publish([message("successor")], {}, "g", world.nobody)
    assert texts(visible(world, out)) == ["successor"]


def test_writers_with_other_ids_do_not_disturb_each_other(world: World, out: Log) -> None:
    one, two = out.writer("one"), out.writer("two")
    inner = during("sent_outputs", lambda: two.publish([message("two")], {}, "g", world.nobody))
    one.publish([message("one")], {}, "g", world.nobody, inner)
    assert texts(visible(world, out)) == ["one", "two"]


def test_a_writer_can_be_used_again_after_an_abort(world: World, out: Log) -> None:
    reader = out.work_reader("g", [IN], "one")
    started(world, reader, 2)
    stale = reader.membership()
    reader.close()
    reader = out.work_reader("g", [IN], "one")
    mine = started(world, reader, 2)
    writer = out.writer("w")
    with pytest.raises(Aborted):
        writer.publish([message("stale")], {mine[0]: Mark(0)}, "g", stale)
    writer.publish([message("fresh")], {mine[0]: Mark(0)}, "g", reader.membership())
    assert texts(visible(world, out)) == ["fresh"]


@pytest.mark.parametrize(
    ("moment", "done"), [("sent_outputs", False), ("sent_offsets", False), ("committed", True)]
)
def test_outputs_and_offsets_are_one(world: World, out: Log, moment: str, done: bool) -> None:
    out.append([message("in", IN)])
    reader = out.work_reader("g", [IN], "one")
    started(world, reader, 2)
    (record,) = until(world, reader, 1)
    mark = Mark(record.offset + 1, "with it")
    with pytest.raises(Crash):
        out.writer("w").publish(
            [message("out")], {record.partition: mark}, "g", reader.membership(), crash_at(moment)
        )
    settle(out, "w")
    assert texts(visible(world, out)) == (["out"] if done else [])
    assert reader.committed([record.partition]) == {record.partition: mark if done else None}


def test_offsets_alone_can_be_published(world: World, out: Log) -> None:
    reader = out.work_reader("g", [IN], "one")
    mine = started(world, reader, 2)
    writer = out.writer("w")
    writer.publish([], {p: Mark(7, "nothing came of it") for p in mine}, "g", reader.membership())
    assert reader.committed(mine) == {p: Mark(7, "nothing came of it") for p in mine}


def test_the_text_beside_an_offset_survives(world: World, out: Log) -> None:
    reader = out.work_reader("g", [IN], "one")
    mine = started(world, reader, 2)
    text = '{"m":12,"a":3,"u":40,"t":-1}'
    reader.commit({mine[0]: Mark(5, text)})
    assert reader.committed(mine) == {mine[0]: Mark(5, text), mine[1]: None}
    reader.close()
    successor = out.work_reader("g", [IN], "one")
    started(world, successor, 2)
    assert successor.committed([mine[0]]) == {mine[0]: Mark(5, text)}


def test_the_position_passes_markers_so_that_lag_reaches_zero(world: World, out: Log) -> None:
    writer = out.writer("w")
    for n in range(3):
        writer.publish([message(str(n))], {}, "g", world.nobody)
    with pytest.raises(Crash):
        writer.publish([message("lost")], {}, "g", world.nobody, crash_at("sent_outputs"))
    settle(out, "w")
    reader = out.work_reader("idle", [OUT], "one")
    started(world, reader, 1)
    assert texts(until(world, reader, 3)) == ["0", "1", "2"]
    end = out.ends("out")[ALONE][1]
    _poll_to(world, lambda: reader.poll(10, 0.05) == [] and reader.position(ALONE) == end)
    reader.commit({ALONE: Mark(end)})
    assert reader.committed([ALONE]) == {ALONE: Mark(end)}


def test_the_position_stops_before_an_open_transaction(world: World, out: Log) -> None:
    out.append([message("early")])
    with pytest.raises(Crash):
        out.writer("w").publish([message("open")], {}, "g", world.nobody, crash_at("sent_outputs"))
    reader = out.work_reader("g", [OUT], "one")
    started(world, reader, 1)
    until(world, reader, 1)
    silent(world, reader)
    assert reader.position(ALONE) == 1


@pytest.mark.parametrize("moment", ["sent_outputs", "committed"])
def test_a_barrier_waits_for_what_a_predecessor_left_open(
    world: World, out: Log, moment: str
) -> None:
    with pytest.raises(Crash):
        out.writer("w").publish([message("state")], {}, "g", world.nobody, crash_at(moment))
    reader = out.state_reader({ALONE: 0})
    reader.snapshot(["out"])
    seen: list[str] = []
    if moment == "sent_outputs":
        silent(world, reader)
        assert reader.behind(["out"])
        settle(out, "w")
    for _ in world.tries():
        if not reader.behind(["out"]):
            break
        seen += texts(reader.poll(10, 0.05))
    assert not reader.behind(["out"])
    assert seen == (["state"] if moment == "committed" else [])


def test_a_barrier_is_judged_by_the_ends_at_its_time(world: World, out: Log) -> None:
    out.provision([IN])
    reader = out.state_reader({ALONE: 0, Partition("in", 0): 0, Partition("in", 1): 0})
    reader.snapshot(["out"])
    assert not reader.behind(["out"])
    out.append([message("later")])
    assert not reader.behind(["out"])
    reader.snapshot(["out"])
    assert reader.behind(["out"])
    assert not reader.behind(["in"])
    until(world, reader, 1)
    assert not reader.behind(["out"])


def test_a_writer_that_was_closed_publishes_nothing(world: World, out: Log) -> None:
    writer = out.writer("w")
    writer.close()
    with pytest.raises(LogError):
        writer.publish([message("late")], {}, "g", world.nobody)
    assert visible(world, out) == []


def _poll_to(world: World, condition: Callable[[], bool]) -> None:
    wait_for(world, "the position to reach the end", condition)
