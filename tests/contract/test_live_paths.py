"""The control path's reader, writer and loop: nothing waits, nothing is lost on the way."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from contract_helpers import FOUR, World, message, texts, until, visible

from infra.live_loop import LiveLoop
from infra.log import Log, Message
from infra.patience import GaveUp
from schemas.acting import FusedState, Reading, SensorFrame
from schemas.base import Event
from schemas.live import LiveInput
from schemas.missions import MissionControl
from schemas.partitioner import partition_for
from schemas.records import Partition, Record
from schemas.topics import DEAD_LETTERS, FUSED_STATES, MISSIONS, SENSOR_FRAMES, Topic, decode

ROBOT, STRANGER = "rover-1", "rover-2"


def test_a_live_reader_begins_where_it_is_told_and_keeps_order(world: World, log: Log) -> None:
    log.provision([FOUR])
    log.append([message(str(n), FOUR, "key") for n in range(20)])
    home = Partition("four", partition_for(b"key", 4))
    reader = log.live_reader({home: 5})
    assert texts(until(world, reader, 15)) == [str(n) for n in range(5, 20)]
    log.append([message("more", FOUR, "key")])
    assert texts(until(world, reader, 1)) == ["more"]


def test_a_live_reader_does_not_see_what_was_aborted(world: World, log: Log) -> None:
    log.provision([FOUR])
    reader = log.live_reader(dict.fromkeys(log.ends("four"), 0))
    writer = log.writer("t")
    writer.publish([message("seen", FOUR, "a")], {}, "g", world.nobody)
    log.append([message("after", FOUR, "a")])
    assert texts(until(world, reader, 2)) == ["seen", "after"]


def test_a_live_writer_keeps_order_and_delivers_all(world: World, log: Log) -> None:
    log.provision([FOUR])
    writer = log.live_writer()
    for n in range(200):
        assert writer.send(message(str(n), FOUR, "key"))
    writer.serve()
    assert writer.flush(10) == 0
    assert writer.lost == 0
    assert texts(visible(world, log, FOUR)) == [str(n) for n in range(200)]


def frame(seq: int, robot: str = ROBOT) -> SensorFrame:
    reading = Reading(channel="odometry", seq=seq, stamp_ms=seq * 20.0, values=[0.5, 0.0])
    return SensorFrame(
        robot_id=robot, boot_id="b", seq=seq, stamp_ms=seq * 20.0, wall_ms=1e12, readings=[reading]
    )


def keyed(event: Event) -> Message:
    return Message(event.topic, event.key.encode(), event.to_bytes())


class Counting:
    """Answers each frame with a state that says how many frames there were in all."""

    name = "counting"
    robots: Sequence[str] = (ROBOT,)
    tick_ms: float | None = None

    def __init__(self, rewind_s: float | None = None, more: Sequence[Topic] = ()) -> None:
        self.inputs = [LiveInput(SENSOR_FRAMES, rewind_s), *(LiveInput(t, None) for t in more)]
        self.replayed: list[Any] = []
        self.taken: list[Any] = []
        self.ticks = 0

    def replay(self, record: Record) -> None:
        self.replayed.append(record.event)

    def take(self, record: Record) -> Iterable[Event]:
        self.taken.append(record.event)
        if isinstance(record.event, SensorFrame):
            yield FusedState(
                robot_id=record.event.robot_id,
                boot_id="b",
                stamp_ms=record.event.stamp_ms,
                wall_ms=record.event.wall_ms,
                frame_seq=len(self.replayed) + len(self.taken),
                filter="planar",
                names=[],
                mean=[],
                covariance=[],
                source={str(record.partition): (record.offset, record.offset + 1)},
            )

    def tick(self, now_ms: float) -> Iterable[Event]:
        self.ticks += 1
        return ()


@pytest.fixture
def acting(log: Log) -> Log:
    log.provision([SENSOR_FRAMES, FUSED_STATES, MISSIONS, DEAD_LETTERS])
    return log


def turns(world: World, loop: LiveLoop, done: Any) -> None:
    for _ in world.tries():
        loop.turn(0.05)
        if done():
            break
    loop.close()
    assert done()


def test_the_past_is_replayed_in_silence_and_the_new_is_answered(world: World, acting: Log) -> None:
    acting.append([keyed(frame(n)) for n in range(3)])
    logic = Counting()
    loop = LiveLoop(logic, acting)
    loop.start()
    assert [f.seq for f in logic.replayed] == [0, 1, 2]
    acting.append([keyed(frame(3)), keyed(frame(4))])
    turns(world, loop, lambda: len(logic.taken) == 2)
    states = [decode("fused-states", r.value) for r in visible(world, acting, FUSED_STATES)]
    assert [s.frame_seq for s in states if isinstance(s, FusedState)] == [4, 5]


def test_a_start_may_begin_at_the_end(world: World, acting: Log) -> None:
    acting.append([keyed(frame(0))])
    logic = Counting(rewind_s=0)
    loop = LiveLoop(logic, acting)
    loop.start()
    acting.append([keyed(frame(1))])
    turns(world, loop, lambda: len(logic.taken) == 1)
    assert logic.replayed == []


def test_of_what_is_its_own_it_goes_through_the_past_alone(world: World, acting: Log) -> None:
    logic = Counting()
    logic.inputs.append(LiveInput(FUSED_STATES, None, past_only=True))
    acting.append([keyed(frame(0))])
    loop = LiveLoop(logic, acting)
    loop.start()
    acting.append([keyed(frame(1))])
    turns(world, loop, lambda: len(logic.taken) == 1)
    again = Counting()
    again.inputs.append(LiveInput(FUSED_STATES, None, past_only=True))
    loop = LiveLoop(again, acting)
    loop.start()
    assert {type(event) for event in again.replayed} == {SensorFrame, FusedState}
    acting.append([keyed(frame(2))])
    turns(world, loop, lambda: len(again.taken) == 1)
    assert all(isinstance(event, SensorFrame) for event in logic.taken + again.taken)


def test_only_records_of_its_robots_are_taken_but_all_missions(world: World, acting: Log) -> None:
    logic = Counting(more=[MISSIONS])
    loop = LiveLoop(logic, acting)
    loop.start()
    control = MissionControl(mission_id="patrol", action="cancel")
    acting.append([keyed(frame(0, STRANGER)), keyed(control), keyed(frame(0))])
    turns(world, loop, lambda: len(logic.taken) == 2)
    assert control in logic.taken
    assert frame(0) in logic.taken


def test_what_is_no_event_becomes_a_dead_letter_and_the_next_is_taken(
    world: World, acting: Log
) -> None:
    acting.append([Message("sensor-frames", ROBOT.encode(), b"{torn")])
    logic = Counting()
    loop = LiveLoop(logic, acting)
    loop.start()
    acting.append([Message("sensor-frames", ROBOT.encode(), b"{torn again"), keyed(frame(0))])
    turns(world, loop, lambda: len(logic.taken) == 1)
    (letter,) = [decode("dead-letters", r.value) for r in visible(world, acting, DEAD_LETTERS)]
    assert (letter.reason, letter.origin_offset) == ("undecodable", 1)  # type: ignore[attr-defined]


def test_an_event_of_a_newer_schema_stops_it_loudly(world: World, acting: Log) -> None:
    newer = frame(0).model_copy(update={"schema_version": 2})
    acting.append([keyed(newer)])
    with pytest.raises(GaveUp, match=r"sensor-frames\[\d\]@0: .*upgrade"):
        LiveLoop(Counting(), acting).start()


def test_ticks_come_at_their_rate_whether_records_come_or_not(acting: Log) -> None:
    logic, now_s = Counting(), 0.0
    logic.tick_ms = 250.0
    loop = LiveLoop(logic, acting, clock=lambda: now_s)
    loop.start()
    for _ in range(50):
        now_s += 0.125
        loop.turn(0.0)
    loop.close()
    assert logic.ticks == 1 + 25, "the first at once"
