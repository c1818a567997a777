"""Actuator's end and link over a real pair of sockets: nothing that was said is lost."""

import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.envelope import message
from infra.log import Log, LogUnavailable, Message
from infra.robot.delivery import last_feedback, partition_of, records_between
from infra.robot.link import LinkProcess
from infra.robot.order import LinkOrder
from infra.robot.spool import Spool
from infra.robot.uplink import Delivered, UpLink
from schemas.acting import (
    Command,
    CommandOutcome,
    ControllerClaim,
    Feedback,
    OperatorOrder,
    PolicyRef,
    SafetyEvent,
    SensorFrame,
)
from schemas.base import Event
from schemas.records import Record
from schemas.topics import (
    COMMANDS,
    DEAD_LETTERS,
    FEEDBACK,
    SAFETY_EVENTS,
    SENSOR_FRAMES,
    Topic,
    decode,
)

ROBOT = "r1"
TRACKER = PolicyRef(policy="tracker", version=0, sha256="0" * 64)
LIMIT_S = 20.0


class Threaded:
    """A link in a thread of this process, with a socket of its own."""

    def __init__(self, order: LinkOrder, log: Log, end: socket.socket) -> None:
        self.order, self.end = order, end
        self._thread = threading.Thread(target=LinkProcess(order, log, end).run, daemon=True)
        self._thread.start()

    def poll(self) -> int | None:
        return None if self._thread.is_alive() else 0

    def wait(self, timeout: float | None = None) -> int:
        self._thread.join(timeout)
        return 0

    def die(self) -> None:
        """As a kill would: both ends of the pair are done with."""
        self.end.shutdown(socket.SHUT_RDWR)
        self.wait(10)


class Away:
    """A log that can be away."""

    def __init__(self, log: Log) -> None:
        self.log, self.away = log, threading.Event()

    def __getattr__(self, name: str) -> object:
        if self.away.is_set() and name in ("append", "ends"):
            raise LogUnavailable("the broker is away")
        return getattr(self.log, name)


class Robot:
    """The actuator's side."""

    def __init__(self, log: Log, folder: Path) -> None:
        self.log, self.folder = Away(log), folder
        self.links: list[Threaded] = []
        self.up = UpLink(self._launch)
        self.spool = Spool(folder)
        self.came: list[Delivered] = []
        self.seq = 0

    def _launch(self, end: socket.socket, next_offset: int | None) -> Threaded:
        order = LinkOrder(ROBOT, str(self.folder), next_offset)
        own = socket.socket(fileno=os.dup(end.fileno()))
        self.links.append(Threaded(order, self.log, own))  # type: ignore[arg-type]
        return self.links[-1]

    def turn(self) -> None:
        self.came += self.up.receive(16)

    def until(self, there: Callable[[], bool]) -> None:
        until_s = time.monotonic() + LIMIT_S
        while not there():
            self.turn()
            assert time.monotonic() < until_s, self.came
            time.sleep(0.002)

    def say(self, next_offset: int = 0, epoch: int | None = None) -> None:
        self.until(self.up.has_room)
        self.up.send_feedback(feedback(self.seq, next_offset, epoch))
        self.seq += 1

    def offsets(self) -> list[int]:
        return [offset for offset, event, _ in self.came if event is not None]

    def close(self) -> int:
        left = self.up.close(10)
        self.spool.close()
        return left


def feedback(seq: int, next_offset: int, epoch: int | None, boot_id: str = "b1") -> Feedback:
    return Feedback(
        robot_id=ROBOT,
        boot_id=boot_id,
        seq=seq,
        stamp_ms=seq,
        wall_ms=1e12,
        mode="NORMAL",
        applied=[],
        commands_next=next_offset,
        controller_epoch=epoch,
    )


def command(seq: int, robot: str = ROBOT) -> Command:
    return Command(
        robot_id=robot,
        boot_id="b1",
        controller_epoch=0,
        seq=seq,
        stamp_ms=0,
        deadline_ms=150,
        frame_seq=0,
        set_point=[0.0],
        policy=TRACKER,
        source={},
    )


def append(log: Log, *events: Event) -> list[int]:
    return [record.offset for record in log.append([message(event) for event in events])]


def events(log: Log, topic: Topic) -> list[Event]:
    records: list[Record] = []
    for partition, (first, _) in log.ends(topic.name).items():
        records += records_between(log, partition, first)
    return [decode(topic.name, record.value) for record in records]


@pytest.fixture
def robot(log: Log, tmp_path: Path) -> Iterator[Robot]:
    log.provision([COMMANDS, FEEDBACK, SAFETY_EVENTS, SENSOR_FRAMES, DEAD_LETTERS])
    made = Robot(log, tmp_path)
    yield made
    made.close()


def test_commands_come_down_in_order_and_no_strangers(log: Log, robot: Robot) -> None:
    append(log, command(0))
    robot.until(robot.up.has_room)
    stranger = next(f"s{n}" for n in range(99) if partition_of(COMMANDS, f"s{n}") == _home())
    claim = ControllerClaim(robot_id=ROBOT, controller_id="c")
    offsets = append(log, claim, command(0), command(0, stranger), command(1))
    robot.until(lambda: len(robot.offsets()) == 3)
    assert robot.offsets() == [offsets[0], offsets[1], offsets[3]]
    assert robot.came[-1][0] == offsets[3] + 1 and robot.came[0] == (1, None, False)


def _home() -> object:
    return partition_of(COMMANDS, ROBOT)


def test_what_is_no_event_is_a_dead_letter_and_stops_nothing(log: Log, robot: Robot) -> None:
    robot.until(robot.up.has_room)
    log.append([Message(COMMANDS.name, ROBOT.encode(), b"{no json")])
    append(log, command(0))
    robot.until(lambda: len(robot.offsets()) == 1)
    (letter,) = events(log, DEAD_LETTERS)
    assert letter.origin_topic == COMMANDS.name  # type: ignore[attr-defined]


def test_frames_feedback_and_safety_events_go_up(log: Log, robot: Robot) -> None:
    robot.until(robot.up.has_room)
    frame = SensorFrame(robot_id=ROBOT, boot_id="b1", seq=0, stamp_ms=1, wall_ms=1e12, readings=[])
    assert not robot.up.takes_frames()
    for _ in range(5):
        robot.say()
    robot.until(robot.up.takes_frames)
    assert _feedback(log), "the log knows of this life before anybody can command it"
    assert robot.up.send_frame(frame)
    keep(robot, 3)
    robot.until(lambda: len(events(log, SAFETY_EVENTS)) == 3)
    assert robot.close() == 0
    assert events(log, SENSOR_FRAMES) == [frame]
    partition = partition_of(SENSOR_FRAMES, ROBOT)
    (record,) = records_between(log, partition, log.ends(SENSOR_FRAMES.name)[partition][0])
    assert record.key == b"r1" and dict(record.headers) == dict(message(frame).headers)
    assert [f.seq for f in _feedback(log)] == [0, 1, 2, 3, 4]


class _GivesUp:
    """A log whose live writer gives up every frame, as after a long absence of the broker.

    Before that it `holds` them.
    """

    def __init__(self, log: Log, holds: bool = False) -> None:
        self._log, self._holds, self._held = log, holds, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    def live_writer(self, **options: object) -> "_GivesUp":
        self.lost = 0
        return self

    def send(self, sent: Message) -> bool:
        self._held += self._holds
        self.lost += not self._holds
        return True

    def serve(self) -> None:
        pass

    def flush(self, timeout_s: float) -> int:
        return self._held


def test_what_the_link_gives_up_comes_back_as_a_count(log: Log, robot: Robot) -> None:
    robot.log.log = _GivesUp(log)  # type: ignore[assignment]
    robot.say()
    robot.until(robot.up.takes_frames)
    frame = SensorFrame(robot_id=ROBOT, boot_id="b1", seq=0, stamp_ms=1, wall_ms=1e12, readings=[])
    counted = 0

    def all_counted() -> bool:
        nonlocal counted
        counted += robot.up.given_up()
        return counted == 5

    for _ in range(5):
        assert robot.up.send_frame(frame)
    robot.until(all_counted)
    # A successor counts from nought.
    robot.links[-1].die()
    robot.until(lambda: len(robot.links) == 2 and robot.up.send_frame(frame))
    counted = 4
    robot.until(all_counted)


@pytest.mark.parametrize("holds", [True, False])
def test_frames_that_a_link_had_not_delivered_when_it_died_are_counted(
    log: Log, robot: Robot, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    monkeypatch.setattr("infra.robot.link.FRAMES_AT_ONCE", 1)
    if holds:
        robot.log.log = _GivesUp(log, holds=True)  # type: ignore[assignment]
    robot.say()
    robot.until(robot.up.takes_frames)
    frame = SensorFrame(robot_id=ROBOT, boot_id="b1", seq=0, stamp_ms=1, wall_ms=1e12, readings=[])
    for _ in range(5):
        assert robot.up.send_frame(frame)
    sent = 5

    def reported() -> bool:
        # A real broker's answer comes a moment later, and is told of with a later frame.
        nonlocal sent
        sent += robot.up.send_frame(frame)
        return robot.up._frames_done.done >= 5

    robot.until(lambda: holds or reported())
    assert robot.up.given_up() == 0
    done = robot.up._frames_done.done
    robot.links[-1].die()
    robot.until(lambda: robot.up.restarts == 1)
    assert robot.up.given_up() == 5 if holds else robot.up.given_up() <= sent - done


def keep(robot: Robot, count: int) -> None:
    def event(seq: int) -> SafetyEvent:
        return SafetyEvent(
            robot_id=ROBOT,
            boot_id="b1",
            seq=seq,
            stamp_ms=seq,
            wall_ms=1e12,
            before="NORMAL",
            after="HOLD",
            cause="silence",
        )

    for _ in range(count):
        robot.spool.append(event)


def _feedback(log: Log) -> list[Feedback]:
    return [f for f in events(log, FEEDBACK) if isinstance(f, Feedback)]


def test_all_that_was_said_while_the_log_was_away_arrives_in_order(log: Log, robot: Robot) -> None:
    robot.say()
    robot.log.away.set()
    for _ in range(300):
        robot.say()
    keep(robot, 20)
    robot.log.away.clear()
    robot.until(lambda: len(events(log, SAFETY_EVENTS)) == 20)
    assert robot.close() == 0
    assert [f.seq for f in _feedback(log)] == list(range(301))
    numbers = [e.seq for e in events(log, SAFETY_EVENTS) if isinstance(e, SafetyEvent)]
    assert numbers == list(range(20))


@pytest.mark.slow
def test_a_link_that_dies_is_replaced_and_nothing_is_lost(
    log: Log, robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.robot.link.DRAIN_S", 0.2)
    robot.say()
    append(log, *(command(n) for n in range(5)))
    robot.until(lambda: len(robot.offsets()) == 5)
    robot.log.away.set()
    for _ in range(50):
        robot.say()
    robot.links[0].die()
    append(log, *(command(n) for n in range(5, 10)))
    robot.log.away.clear()
    robot.until(lambda: len(robot.offsets()) == 10)
    assert robot.offsets() == list(range(10)), "read on from where the actuator was"
    assert robot.close() == 0
    seen = dict.fromkeys(f.seq for f in _feedback(log))
    assert list(seen) == list(range(51)), "copies are dropped by number"
    assert robot.up.restarts == 1 and robot.links[1].order.next_offset == 5


def test_a_new_life_reads_on_from_the_last_feedback_under_its_epoch(log: Log, robot: Robot) -> None:
    claim = ControllerClaim(robot_id=ROBOT, controller_id="c")
    append(log, claim, *(command(n) for n in range(4)))
    said = CommandOutcome(
        controller_epoch=0,
        seq=1,
        outcome="applied",
        at="commands[0]@2",
        at_ms=1,
        deadline_ms=2,
        policy=TRACKER,
    )
    old = feedback(0, 3, epoch=0).model_copy(update={"outcomes": [said]})
    append(log, old)
    reset = OperatorOrder(robot_id=ROBOT, order_id="o", action="reset")
    append(log, reset)
    robot.until(lambda: len(robot.offsets()) == 4)
    offset, event, past = robot.came[0]
    assert offset == 0 and isinstance(event, ControllerClaim) and past
    assert robot.came[1] == (3, None, False)
    assert robot.offsets()[1:] == [3, 4, 5]
    assert all(past for _, event, past in robot.came if event is not None), "before its start"
    append(log, reset)
    robot.until(lambda: len(robot.offsets()) == 5)
    assert not next(past for offset, _, past in robot.came if offset == 6)


def test_the_last_feedback_is_found_far_back(log: Log) -> None:
    log.provision([FEEDBACK])
    stranger = next(f"s{n}" for n in range(99) if _partition(f"s{n}") == _partition(ROBOT))
    append(log, feedback(7, 3, None))
    others = feedback(0, 9, None).model_copy(update={"robot_id": stranger})
    log.append([message(others)] * 1500)
    found = last_feedback(log, ROBOT)
    assert found is not None and found.seq == 7
    assert last_feedback(log, "nobody") is None


def _partition(robot_id: str) -> object:
    return partition_of(FEEDBACK, robot_id)


def test_orders_of_a_link_survive_json() -> None:
    order = LinkOrder(ROBOT, "/somewhere", None, [0, 1])
    assert LinkOrder(**dataclasses.asdict(order)) == order
