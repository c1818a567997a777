"""Groups: static members, hand-over of partitions, stale memberships."""

import time

import pytest
from contract_helpers import (
    FOUR,
    IN,
    OUT,
    World,
    joined,
    message,
    resume,
    silent,
    started,
    texts,
    until,
    visible,
    wait_for,
)

from infra.log import Aborted, Expelled, Fenced, Log, Mark, WorkReader
from schemas.records import Partition

HEARTBEATS_S = 6.0
"""Within this every member of a group has heard of a rebalance."""


@pytest.fixture
def out(log: Log) -> Log:
    """The log with its topics."""
    log.provision([IN, OUT, FOUR])
    return log


def share(world: World, one: WorkReader, two: WorkReader, each: int) -> None:
    """Poll both until each has its share."""

    def shared() -> bool:
        one.poll(1, 0.05)
        two.poll(1, 0.05)
        return len(one.assignment()) == len(two.assignment()) == each

    wait_for(world, f"{each} partitions each", shared)


def test_assigned_partitions_are_silent_until_started(world: World, out: Log) -> None:
    out.append([message(str(n), IN, str(n)) for n in range(8)])
    reader = out.work_reader("g", [IN], "one")
    mine = joined(world, reader, 2)
    assert mine == [Partition("in", 0), Partition("in", 1)]
    assert set(reader.changes().assigned) == set(mine)
    assert reader.changes().assigned == ()
    silent(world, reader)
    reader.start({mine[0]: 0})
    zero = [n for n in until(world, reader, 1) if n.partition == mine[0]]
    assert zero
    silent_of(world, reader, mine[1])
    reader.start({mine[1]: 0})
    assert {r.partition for r in until(world, reader, 1)} >= {mine[1]}


def silent_of(world: World, reader: WorkReader, partition: Partition) -> None:
    for _ in world.quiet_tries():
        assert partition not in {r.partition for r in reader.poll(100, 0.05)}


def test_a_reader_reads_again_from_where_it_is_told(world: World, out: Log) -> None:
    out.append([message(str(n), IN, "k") for n in range(5)])
    reader = out.work_reader("g", [IN], "one")
    started(world, reader, 2)
    first = until(world, reader, 5)
    partition = first[0].partition
    reader.start({partition: 2})
    assert reader.position(partition) == 2
    assert texts(until(world, reader, 3)) == ["2", "3", "4"]
    assert reader.position(partition) == 5


def test_a_paused_partition_stays_where_it_is(world: World, out: Log) -> None:
    reader = out.work_reader("g", [IN], "one")
    mine = started(world, reader, 2)
    silent(world, reader)
    reader.pause(mine)
    out.append([message(str(n), IN, str(n)) for n in range(8)])
    silent(world, reader)
    reader.resume(mine)
    assert len(until(world, reader, 8)) == 8


def test_pausing_what_has_gone_to_another_is_harmless(world: World, out: Log) -> None:
    one = out.work_reader("g", [FOUR], "one")
    before = started(world, one, 4)
    two = out.work_reader("g", [FOUR], "two")
    share(world, one, two, 2)
    one.pause(before)
    one.resume(before)
    resume(two, two.assignment())
    out.append([message(str(n), FOUR, str(n)) for n in range(20)])
    read = until(world, one, 1) + until(world, two, 1)

    def all_read() -> bool:
        read.extend(one.poll(100, 0.05) + two.poll(100, 0.05))
        return len(read) >= 20

    wait_for(world, "all records", all_read)
    assert sorted(map(int, texts(read))) == list(range(20))


def test_work_is_shared_and_comes_back(world: World, out: Log) -> None:
    one = out.work_reader("g", [FOUR], "one")
    started(world, one, 4)
    one.changes()
    two = out.work_reader("g", [FOUR], "two")
    share(world, one, two, 2)
    assert one.assignment().isdisjoint(two.assignment())
    assert set(one.changes().revoked) == two.assignment() == set(two.changes().assigned)
    resume(two, two.assignment())
    out.append([message(str(n), FOUR, str(n)) for n in range(40)])
    read = until(world, one, 1) + until(world, two, 1)

    def all_read() -> bool:
        read.extend(one.poll(100, 0.05) + two.poll(100, 0.05))
        return len(read) >= 40

    wait_for(world, "all records", all_read)
    assert sorted(map(int, texts(read))) == list(range(40))


def test_a_partition_has_one_owner_at_a_time(world: World, out: Log) -> None:
    one = out.work_reader("g", [FOUR], "one")
    started(world, one, 4)
    two = out.work_reader("g", [FOUR], "two")
    # The first does not poll: it may be at work, so nothing is taken from it.
    for _ in world.quiet_tries():
        two.poll(1, 0.05)
        assert two.assignment() == set()
    assert len(one.assignment()) == 4
    share(world, one, two, 2)


def test_a_membership_from_before_a_rebalance_is_refused(world: World, out: Log) -> None:
    out.append([message("in", FOUR)])
    one = out.work_reader("g", [FOUR], "one")
    started(world, one, 4)
    (record,) = until(world, one, 1)
    stale = one.membership()
    two = out.work_reader("g", [FOUR], "two")
    share(world, one, two, 2)
    writer = out.writer("w")
    after = {record.partition: Mark(record.offset + 1)}
    with pytest.raises(Fenced):
        writer.publish([message("stale")], after, "g", stale)
    # The generation is what counts: with the present one the broker takes it from either.
    writer.publish([message("current")], after, "g", one.membership())
    assert texts(visible(world, out)) == ["current"]


def test_a_returning_static_member_goes_on_at_once(world: World, out: Log) -> None:
    one = out.work_reader("g", [FOUR], "one")
    started(world, one, 4)
    two = out.work_reader("g", [FOUR], "two")
    share(world, one, two, 2)
    mine, membership = one.assignment(), two.membership()
    two.changes()
    one.close()
    returned = out.work_reader("g", [FOUR], "one")
    joined(world, returned, 2)
    assert returned.assignment() == mine
    two.poll(1, 0.05)
    assert two.changes() == type(two.changes())()
    # The other member was not disturbed: what it read before is still good.
    writer = out.writer("w")
    theirs = sorted(two.assignment(), key=str)
    writer.publish([message("kept")], {theirs[0]: Mark(0)}, "g", membership)


def test_a_closed_static_member_keeps_its_partitions(world: World, out: Log) -> None:
    one = out.work_reader("g", [FOUR], "one")
    started(world, one, 4)
    one.close()
    two = out.work_reader("g", [FOUR], "two")
    for _ in world.quiet_tries():
        two.poll(1, 0.05)
        assert two.assignment() == set()


def test_a_replaced_static_member_is_told(world: World, out: Log) -> None:
    old = out.work_reader("g", [IN], "one")
    mine = started(world, old, 2)
    stale = old.membership()
    new = out.work_reader("g", [IN], "one")
    assert joined(world, new, 2) == mine
    writer = out.writer("w")
    with pytest.raises(Aborted):
        writer.publish([message("stale")], {mine[0]: Mark(1)}, "g", stale)
    with pytest.raises(Expelled):
        for _ in world.tries():
            old.poll(1, 0.05)
    with pytest.raises((Fenced, Expelled)):
        old.commit({mine[0]: Mark(1)})
    assert new.committed(mine) == dict.fromkeys(mine)
    assert visible(world, out) == []


def test_groups_do_not_share_offsets(world: World, out: Log) -> None:
    out.append([message("in", IN)])
    readers = [out.work_reader(group, [IN], "one") for group in ("g", "h")]
    for reader in readers:
        mine = started(world, reader, 2)
        until(world, reader, 1)
    readers[0].commit({mine[0]: Mark(9)})
    assert readers[0].committed([mine[0]]) == {mine[0]: Mark(9)}
    assert readers[1].committed([mine[0]]) == {mine[0]: None}
    for reader in readers:
        reader.close()


def test_who_dies_while_partitions_change_hands_leaves_none_to_nobody(
    world: World, out: Log
) -> None:
    """Its successor is given what the dead one was to keep, and nobody is told of the rest."""
    one = out.work_reader("g", [FOUR], "one")
    joined(world, one, 4)
    two = out.work_reader("g", [FOUR], "two")
    # The first knows of the second in the background, and would give half away when it polls.
    until_s = time.monotonic() + HEARTBEATS_S * (world.name != "memory")
    while time.monotonic() < until_s:
        assert two.poll(1, 0.05) == []
    one.close()
    successor = out.work_reader("g", [FOUR], "one")
    share(world, successor, two, 2)
