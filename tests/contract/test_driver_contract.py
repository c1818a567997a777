"""The driver on both backends: exactly once, whatever dies, and every wait ends."""

import base64
import contextlib
import itertools
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from contract_helpers import Crash, World, crash_at, visible
from copying import (
    WHOLE,
    Copier,
    Gatherer,
    Watch,
    as_message,
    ask,
    assert_contiguous,
    assert_once,
    drive,
    lag,
    letters,
    problem,
    run_until,
    samples,
)

from infra.driver import Driver
from infra.log import Expelled, Log, Message
from infra.patience import GaveUp
from infra.store import ObjectStore
from schemas.effects import Emit, Get, StateInput, Steps, Unready
from schemas.ids import digest
from schemas.missions import MissionControl
from schemas.records import Batch, Partition, Record
from schemas.tensors import ObjectRef
from schemas.topics import MISSIONS, decode

NAMES = [f"p{n:02}" for n in range(24)]


@pytest.fixture
def ready(log: Log) -> Log:
    """The log with its topics."""
    log.provision(WHOLE)
    return log


class Fleet:
    """Starts drivers, and stops them all at the end."""

    def __init__(self, world: World, log: Log, store: ObjectStore) -> None:
        self.world, self.log, self.store = world, log, store
        self.running: list[Driver] = []

    def start(self, processor: Copier, instance: str = "i0", **options: object) -> Driver:
        driver = drive(self.world, self.log, self.store, processor, instance, **options)  # type: ignore[arg-type]
        self.running.append(driver)
        return driver

    def dies(self, driver: Driver) -> None:
        """The process ends where it stands; what it left open stays open."""
        self.running.remove(driver)
        driver.close()

    def all_done(self, names: list[str]) -> Callable[[], bool]:
        """Whether there are as many samples as names; looks seldom, for looking takes time."""
        turns = iter(range(10**9))
        return lambda: next(turns) % 20 == 19 and len(samples(self.world, self.log)) >= len(names)

    def finish(self, names: list[str], *drivers: Driver) -> None:
        """Run until all are done, and a little longer, lest more should come."""
        run_until(self.world, self.all_done(names), *drivers)
        for _ in range(30):
            for driver in drivers:
                driver.step()


@pytest.fixture
def fleet(world: World, ready: Log, store: ObjectStore) -> Fleet:
    made = Fleet(world, ready, store)
    yield made
    for driver in made.running:
        driver.close()


def die_at(driver: Driver) -> None:
    """Step until the process dies."""
    with pytest.raises(Crash):
        for _ in range(3000):
            driver.step()


def test_each_record_has_one_output(world: World, ready: Log, fleet: Fleet) -> None:
    ask(ready, NAMES)
    processor = Copier()
    fleet.finish(NAMES, fleet.start(processor))
    found = samples(world, ready)
    assert_once(found, NAMES)
    assert_contiguous(found, ready)
    assert max(len(batch.records) for batch in processor.batches) <= 8
    assert fleet.store.get(_ref("copies/p00", b"what is p00?")) == b"what is p00?"


def test_lag_reaches_zero_behind_markers_and_other_policies(
    world: World, ready: Log, fleet: Fleet
) -> None:
    writer = ready.writer("source")
    for name in NAMES[:4]:
        mine = as_message(problem(name))
        writer.publish([mine, _foreign(name)], {}, "g", world.nobody)
    with pytest.raises(Crash):
        lost = [as_message(problem("lost"))]
        writer.publish(lost, {}, "g", world.nobody, crash_at("sent_outputs"))
    ready.writer("source").close()
    driver = fleet.start(Copier())
    run_until(world, lambda: driver._committed == _ends(ready), driver)
    assert lag(driver) == 0
    assert_once(samples(world, ready), NAMES[:4])


def test_an_idle_driver_behind_open_and_aborted_transactions_is_content(
    world: World, ready: Log, fleet: Fleet
) -> None:
    driver = fleet.start(Copier(), patience_s=1.0)
    mine = [as_message(problem("p00")), _foreign("f0"), _foreign("f1")]
    ready.writer("source").publish(mine, {}, "g", world.nobody)
    lost = [as_message(problem(f"lost{n}")) for n in range(20)]
    for _ in range(3):
        # Each aborts what the one before left open; that of the last stays open at the tail.
        with pytest.raises(Crash):
            writer = ready.writer("source")
            writer.publish(lost, {}, "g", world.nobody, crash_at("sent_outputs"))
    stable = ready.stable_ends(sorted(_ends(ready), key=str))
    assert stable != _ends(ready)
    run_until(world, lambda: driver._committed == stable, driver)
    for _ in range(17):
        for _ in world.quiet_tries():
            driver.step()
    assert driver._committed == stable == ready.stable_ends(sorted(stable, key=str))
    assert_once(samples(world, ready), ["p00"])


def test_a_member_that_joins_in_mid_batch_doubles_nothing(
    world: World, ready: Log, fleet: Fleet
) -> None:
    ask(ready, NAMES)
    second: list[Driver] = []

    def join(name: str) -> None:
        if not second:
            second.append(fleet.start(Copier(), "i1"))
        for _ in world.quiet_tries():
            second[0].step()

    first = fleet.start(Copier(on_record=join))
    run_until(world, lambda: bool(second), first)
    fleet.finish(NAMES, first, second[0])
    assert_once(samples(world, ready), NAMES)
    assert_contiguous(samples(world, ready), ready)
    assert len(first._reader.assignment()) == len(second[0]._reader.assignment()) == 2


@pytest.mark.parametrize("moment", ["after_put", "sent_outputs", "sent_offsets", "committed"])
def test_a_kill_at_any_moment_costs_and_doubles_nothing(
    world: World, ready: Log, fleet: Fleet, moment: str
) -> None:
    ask(ready, NAMES)
    doomed = fleet.start(Copier(max_batch=4), point=crash_at(moment))
    die_at(doomed)
    fleet.dies(doomed)
    fleet.finish(NAMES, fleet.start(Copier(max_batch=4)))
    assert_once(samples(world, ready), NAMES)
    assert_contiguous(samples(world, ready), ready)


def test_a_driver_that_was_replaced_publishes_nothing_more(
    world: World, ready: Log, fleet: Fleet
) -> None:
    ask(ready, NAMES)
    successor: list[Driver] = []

    def replace(name: str) -> None:
        if not successor:
            successor.append(fleet.start(Copier()))

    old = fleet.start(Copier(on_record=replace))
    with pytest.raises(Expelled):
        for _ in range(3000):
            old.step()
    fleet.finish(NAMES, successor[0])
    assert_once(samples(world, ready), NAMES)


def test_undecodable_records_become_dead_letters(world: World, ready: Log, fleet: Fleet) -> None:
    giant = random.Random(0).randbytes(300 * 1024)
    bad = [b"\xff\x00 not json", b'{"type":"problem"}', b"[" * 90_000, b'{"type":"other"}', giant]
    for n, value in enumerate(bad):
        ask(ready, [f"before{n}"], key="k")
        ready.append([Message("problems", b"k", value, {"who": b"foreign"}, 1_700_000_000_000 + n)])
    ask(ready, ["last"], key="k")
    names = [f"before{n}" for n in range(len(bad))] + ["last"]
    fleet.finish(names, fleet.start(Copier()))
    found = letters(world, ready)
    assert [base64.b64decode(letter.value_base64) for letter in found] == bad
    assert [letter.origin_offset for letter in found] == [1, 3, 5, 7, 9]
    assert {letter.origin_topic for letter in found} == {"problems"}
    assert {letter.at for letter in found} == {
        f"problems[{letter.origin_partition}]@{letter.origin_offset}" for letter in found
    }
    for n, letter in enumerate(found):
        assert letter.reason == "undecodable"
        assert letter.detail
        assert letter.processor == "copier"
        assert base64.b64decode(letter.key_base64 or "") == b"k"
        assert letter.headers == {"who": "foreign"}
        assert letter.timestamp_ms == 1_700_000_000_000 + n
    assert_once(samples(world, ready), names)


def test_a_deadly_record_is_found_and_the_others_are_done(
    world: World, ready: Log, fleet: Fleet
) -> None:
    ask(ready, NAMES[:12], key="k")

    def deadly(name: str) -> None:
        if name == "p07":
            raise Crash(name)

    deaths = 0
    driver = fleet.start(Copier(on_record=deadly))
    while len(samples(world, ready)) < 11:
        try:
            for _ in range(50):
                driver.step()
        except Crash:
            deaths += 1
            assert deaths < 12
            fleet.dies(driver)
            driver = fleet.start(Copier(on_record=deadly))
    fleet.finish(NAMES[:11], driver)
    assert_once(samples(world, ready), [n for n in NAMES[:12] if n != "p07"])
    (letter,) = letters(world, ready)
    assert (letter.reason, letter.origin_offset) == ("deadly", 7)
    assert base64.b64decode(letter.value_base64) == problem("p07").to_bytes()
    assert f"{deaths} times" in letter.detail


def test_kills_by_an_operator_make_no_record_deadly(world: World, ready: Log, fleet: Fleet) -> None:
    ask(ready, NAMES[:6], key="k")
    for _ in range(3):
        driver = fleet.start(Copier(), point=crash_at("after_put"))
        die_at(driver)
        fleet.dies(driver)
    fleet.finish(NAMES[:6], fleet.start(Copier()))
    assert letters(world, ready) == []
    assert_once(samples(world, ready), NAMES[:6])


def test_waits_in_vain_make_no_record_deadly(
    world: World, ready: Log, fleet: Fleet, store: ObjectStore
) -> None:
    ask(ready, ["p00"])
    for _ in range(7):
        driver = fleet.start(Fetcher(max_batch=1), patience_s=0.4)
        with pytest.raises(GaveUp, match="needed"):
            driver.run(threading.Event())
        fleet.dies(driver)
    store.put("needed", b"needed")
    last = Fetcher(max_batch=1)
    fleet.finish(["p00"], fleet.start(last))
    assert letters(world, ready) == []
    assert_once(samples(world, ready), ["p00"])
    assert [len(batch.records) for batch in last.batches] == [1]


def test_stops_make_no_record_deadly(world: World, ready: Log, fleet: Fleet) -> None:
    """Neither while it waits, nor in mid-batch, even where a kill follows."""
    ask(ready, ["p00"])
    for turn in range(8):
        stop, looks = threading.Event(), itertools.count()
        watch = Watch(lambda looks=looks, stop=stop: next(looks) > 400 and stop.set())  # type: ignore[misc]
        if turn % 2:
            driver = fleet.start(Fetcher(max_batch=1), patience_s=1e6, watch=watch)
            driver.run(stop)
        else:
            told = Copier(max_batch=1, on_record=lambda name, stop=stop: stop.set())  # type: ignore[misc]
            driver = fleet.start(told, point=crash_at("sent_outputs"))
            with pytest.raises(Crash):
                driver.run(stop)
        fleet.dies(driver)
    fleet.finish(["p00"], fleet.start(Copier()))
    assert letters(world, ready) == []
    assert_once(samples(world, ready), ["p00"])


def test_kills_while_a_batch_is_held_make_no_record_deadly(
    world: World, ready: Log, fleet: Fleet
) -> None:
    ask(ready, NAMES[:4], key="k")
    for _ in range(7):
        held = Gatherer(max_batch=1, group="gatherer")
        doomed = fleet.start(held)
        run_until(world, lambda held=held: len(held.held) == 4, doomed)  # type: ignore[misc]
        fleet.dies(doomed)
    ask(ready, NAMES[4:6], key="k")
    fleet.finish(["one"], fleet.start(Gatherer(max_batch=1, group="gatherer")))
    assert letters(world, ready) == []
    assert [s.problem_id for s in samples(world, ready)] == ["+".join(NAMES[:6])]


@dataclass
class Mortal(Gatherer):
    """Dies of one record, `deaths` times at most."""

    group: str = "gatherer"
    killer: str = ""
    deaths: int = 99

    def process(self, batch: Batch) -> Steps:
        names = [decode("problems", record.value).key for record in batch.records]
        if self.killer in names and self.deaths > 0:
            raise Crash(self.killer)
        return (yield from super().process(batch))


def test_the_deadly_one_of_a_held_batch_is_found(world: World, ready: Log, fleet: Fleet) -> None:
    ask(ready, NAMES[:7], key="k")
    deaths = 0
    driver = fleet.start(Mortal(max_batch=1, killer="p03"))
    while not samples(world, ready):
        try:
            fleet.finish(["one"], driver)
        except Crash:
            deaths += 1
            assert deaths < 12
            fleet.dies(driver)
            driver = fleet.start(Mortal(max_batch=1, killer="p03"))
    (letter,) = letters(world, ready)
    assert (letter.reason, letter.origin_offset, deaths) == ("deadly", 3, 5)
    rest = [name for name in NAMES[:7] if name != "p03"]
    assert [s.problem_id for s in samples(world, ready)] == ["+".join(rest)]


def test_a_careful_driver_commits_nothing_that_it_holds(
    world: World, ready: Log, fleet: Fleet
) -> None:
    ask(ready, NAMES[:12], key="k")
    for deaths in (1, 1, 1, 0):
        processor = Mortal(max_batch=8, gather=12, killer="p00", deaths=deaths)
        doomed = fleet.start(processor)
        with contextlib.suppress(Crash):
            run_until(world, lambda p=processor: len(p.held) == 8, doomed)  # type: ignore[misc]
        fleet.dies(doomed)
    fleet.finish(["one"], fleet.start(Gatherer(max_batch=8, gather=12, group="gatherer")))
    assert [s.problem_id for s in samples(world, ready)] == ["+".join(NAMES[:12])]
    assert_contiguous(samples(world, ready), ready)


def test_a_held_batch_is_published_with_what_completes_it(
    world: World, ready: Log, fleet: Fleet
) -> None:
    ask(ready, NAMES[:4], key="k")
    ready.append([Message("problems", b"k", b"bad")])
    held = Gatherer(max_batch=1, group="gatherer")
    doomed = fleet.start(held)
    run_until(world, lambda: len(held.held) == 4, doomed)
    for _ in range(30):
        doomed.step()
    assert samples(world, ready) == letters(world, ready) == []
    # A kill while holding: the successor begins where the last publication ended.
    fleet.dies(doomed)
    successor = fleet.start(Gatherer(max_batch=1, group="gatherer"))
    ask(ready, NAMES[4:12], key="k")
    fleet.finish(["two"] * 2, successor)
    found = samples(world, ready)
    assert [s.problem_id for s in found] == ["+".join(NAMES[:6]), "+".join(NAMES[6:12])]
    assert_contiguous(found, ready)
    assert [letter.origin_offset for letter in letters(world, ready)] == [4]
    assert lag(successor) == 0


@dataclass
class Fetcher(Copier):
    """Needs an object before it can answer."""

    def process(self, batch: Batch) -> Steps:
        yield Get(_ref("needed", b"needed"))
        return (yield from super().process(batch))


def test_a_missing_object_is_waited_for(
    world: World, ready: Log, fleet: Fleet, store: ObjectStore
) -> None:
    ask(ready, NAMES[:3])
    waits = []

    def put_at_last() -> None:
        waits.append(1)
        if len(waits) == 40:
            store.put("needed", b"needed")

    watch = Watch(put_at_last)
    fleet.finish(NAMES[:3], fleet.start(Fetcher(), watch=watch))
    assert len(waits) > 40
    assert_once(samples(world, ready), NAMES[:3])


def test_a_missing_object_ends_the_process_at_the_limit(
    world: World, ready: Log, fleet: Fleet
) -> None:
    ask(ready, NAMES[:3])
    driver = fleet.start(Fetcher(), patience_s=1.0)
    with pytest.raises(GaveUp, match="needed"):
        for _ in range(3000):
            driver.step()
    fleet.dies(driver)
    fleet.finish(NAMES[:3], fleet.start(Copier()))
    assert_once(samples(world, ready), NAMES[:3])


def test_an_event_of_a_newer_schema_is_waited_for_not_buried(
    world: World, ready: Log, fleet: Fleet
) -> None:
    ask(ready, ["old"], key="k")
    ready.append([as_message(problem("new", schema_version=2), key="k")])
    ask(ready, ["behind"], key="k")
    driver = fleet.start(Copier(max_batch=1), patience_s=1.0)
    with pytest.raises(GaveUp, match="schema_version 2"):
        for _ in range(3000):
            driver.step()
    assert_once(samples(world, ready), ["old"])
    assert letters(world, ready) == []


def test_sources_leave_no_gap_over_restarts_aborts_and_other_policies(
    world: World, ready: Log, fleet: Fleet
) -> None:
    writer, names = ready.writer("source"), []
    for n, name in enumerate(NAMES):
        batch = [as_message(problem(name), key=f"k{n % 3}"), _foreign(name)]
        point = crash_at("sent_offsets" if n % 5 == 4 else "never")
        try:
            writer.publish(batch, {}, "g", world.nobody, point)
            names.append(name)
        except Crash:
            writer = ready.writer("source")
    writer.close()
    for moment in ("committed", "sent_offsets", "after_put", "committed"):
        doomed = fleet.start(Copier(max_batch=3), point=crash_at(moment))
        die_at(doomed)
        fleet.dies(doomed)
    fleet.finish(names, fleet.start(Copier(max_batch=3)))
    assert_once(samples(world, ready), names)
    assert_contiguous(samples(world, ready), ready)


@dataclass
class Stateful(Copier):
    """Announces each problem in a state topic that all instances read to its end first."""

    group: str = "stateful"
    state: tuple[StateInput, ...] = (StateInput(MISSIONS, barrier=True),)
    story: list[str] = field(default_factory=list)

    def observe(self, record: Record) -> None:
        assert isinstance(record.event, MissionControl)
        self.story.append(record.event.mission_id)

    def assigned(self, partitions: list[Partition]) -> dict[Partition, int]:
        self.story.append("assigned")
        return {}

    def process(self, batch: Batch) -> Steps:
        for record in batch.records:
            name = decode("problems", record.value).key
            yield Emit(MissionControl(mission_id=name, action="pause"))
        return (yield from super().process(batch))


@pytest.mark.parametrize(
    ("moment", "before"), [("committed", ["p00"]), ("sent_offsets", []), ("sent_outputs", [])]
)
def test_what_a_predecessor_published_is_known_before_work_starts(
    world: World, ready: Log, fleet: Fleet, moment: str, before: list[str]
) -> None:
    ask(ready, ["p00"])
    doomed = fleet.start(Stateful(policy=None), point=crash_at(moment))
    die_at(doomed)
    fleet.dies(doomed)
    successor = Stateful(policy=None)
    driver = fleet.start(successor)
    run_until(world, lambda: "assigned" in successor.story, driver)
    assert successor.story[: successor.story.index("assigned")] == before
    fleet.finish(["p00"], driver)
    assert_once(samples(world, ready), ["p00"])
    assert [r.key for r in visible(world, ready, MISSIONS)] == [b"p00"]


@dataclass
class Patient(Stateful):
    """Cannot work before it has observed a pause."""

    group: str = "patient"

    def process(self, batch: Batch) -> Steps:
        if "go" not in self.story:
            raise Unready("the mission to go")
        return (yield from Copier.process(self, batch))


def test_work_that_is_not_ready_is_done_when_the_state_has_come(
    world: World, ready: Log, fleet: Fleet
) -> None:
    ask(ready, NAMES[:3])
    looks = []

    def go_at_last() -> None:
        looks.append(1)
        if len(looks) == 40:
            go = MissionControl(mission_id="go", action="resume")
            ready.append([Message("missions", b"go", go.to_bytes())])

    driver = fleet.start(Patient(policy=None), watch=Watch(go_at_last))
    fleet.finish(NAMES[:3], driver)
    assert_once(samples(world, ready), NAMES[:3])


def test_work_that_never_gets_ready_ends_the_process(
    world: World, ready: Log, fleet: Fleet
) -> None:
    ask(ready, NAMES[:3])
    driver = fleet.start(Patient(policy=None), patience_s=1.0)
    with pytest.raises(GaveUp, match="the mission to go"):
        for _ in range(3000):
            driver.step()


def _ref(key: str, data: bytes) -> ObjectRef:
    return ObjectRef(key=key, sha256=digest(data), size_bytes=len(data))


def _foreign(name: str) -> Message:
    """Another policy's problem: by its header, or (every second) by its value alone."""
    event = problem(f"foreign-{name}", policy="other")
    return as_message(event, key=name, header=int(name[1:]) % 2 == 0)


def _ends(log: Log) -> dict[Partition, int]:
    return {p: end for p, (_, end) in log.ends("problems").items()}
