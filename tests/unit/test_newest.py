"""The newest records of a selection, and what comes after them, on the memory log."""

from itertools import islice

import pytest
from test_selection import control, evaluation, put, transact

from consumers.selection import Expression, Selection
from consumers.selection.newest import followed, newest
from infra.memory.log import MemoryLog
from schemas.records import Partition
from schemas.topics import EVALUATIONS, MISSIONS


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog("ns.")
    log.provision([EVALUATIONS, MISSIONS])
    return log


def ends(log: MemoryLog, selection: Selection) -> dict[Partition, int]:
    return {p: end for topic in selection.topics for p, (_, end) in log.ends(topic).items()}


def last(log: MemoryLog, count: int, selection: Selection) -> list[int]:
    return [r.timestamp_ms for r in newest(log, selection, count, ends(log, selection))]


def test_the_last_of_several_topics_by_time(log: MemoryLog) -> None:
    for n in range(20):
        put(log, control(n), 10 * n)
        put(log, evaluation(n, policy=f"p{n}"), 10 * n + 5)
    both = Selection(("missions", "evaluations"))
    assert last(log, 5, both) == [175, 180, 185, 190, 195]
    assert last(log, 0, both) == []
    assert len(last(log, 100, both)) == 40


def test_it_looks_as_far_back_as_filters_need(log: MemoryLog) -> None:
    for n in range(600):
        put(log, evaluation(n, mission="rare" if n in (3, 200, 450) else "m1"), n)
    rare = Selection(("evaluations",), mission="rare")
    assert last(log, 2, rare) == [200, 450]
    assert last(log, 5, rare) == [3, 200, 450]
    assert last(log, 2, Selection(("evaluations",), where=Expression("event.version < 0"))) == []


def test_markers_of_transactions_are_not_counted(log: MemoryLog) -> None:
    for n in range(6):
        transact(log, control(n), abort=n % 2 == 1)
    assert [
        r.offset
        for r in newest(log, Selection(("missions",)), 2, ends(log, Selection(("missions",))))
    ] == [4, 8]


def test_what_was_truncated_is_not_looked_for(log: MemoryLog) -> None:
    for n in range(10):
        put(log, control(n), n)
    log.truncate(Partition("missions", 0), 8)
    assert last(log, 5, Selection(("missions",))) == [8, 9]


def test_following_goes_on_behind_the_newest_and_filters(log: MemoryLog) -> None:
    put(log, evaluation(1), 1)
    chosen = Selection(("evaluations",), mission="m1")
    start = ends(log, chosen)
    put(log, evaluation(2, mission="m2"), 2)
    put(log, evaluation(3), 3)
    found = followed(log, chosen, start)
    assert [r and r.timestamp_ms for r in islice(found, 2)] == [3, None]
    put(log, evaluation(4), 4)
    assert [r and r.timestamp_ms for r in islice(found, 1)] == [4]
