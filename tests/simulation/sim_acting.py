"""The acting loop in a simulated world: actuator, link, fusion and controller of one robot."""

import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sim_learning import empty, scratch
from sim_robot import FILE, PERIOD_S, ROBOT, SPEC, Body, BodyDriver
from sim_world import Life, Odds, Slot, World

from infra.envelope import message
from infra.live_loop import LiveLoop
from infra.log import LogError, Message
from infra.memory.live import MemoryLiveWriter
from infra.memory.log import MemoryLog
from infra.patience import GaveUp, Patience
from infra.robot.channel import Frame, Said, pack, try_receive
from infra.robot.delivery import SpoolDelivery
from infra.robot.link import LinkProcess
from infra.robot.order import LinkOrder
from infra.robot.spool import Spool
from infra.robot.uplink import UpLink
from producers.robots.frames import FramePacker
from schemas.acting import ControllerClaim, LoopHealth, OperatorOrder, SensorFrame
from schemas.base import Event
from schemas.live import LiveProcessor
from schemas.missions import Patrol, RobotMission
from schemas.records import Record
from streams.acting.actuator import Actuator
from streams.acting.control.controller import Controller
from streams.acting.fusion import SensorFusion
from streams.acting.limits import Limits
from streams.acting.loop import ClockWentBack, ControlLoop
from streams.acting.monitor import SafetyMonitor

ODDS = Odds(kill=0.008, freeze=0.004, others=0.03, freeze_max_s=1.5, away_max_s=(0.2, 0.6, 1.5))
STORM_S, CALM_S, LIMIT_S = 2.2, 0.4, 30.0
LINK_S = 0.02
_RESET_S = 0.5
STANDS_AFTER_S = 0.7
"""From its fastest it brakes in less, after the last command has ended."""


class RobotWorld(World):
    """A world of one robot, in which nothing waits longer than asked for."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, *empty().fork(), ODDS)
        folder = scratch() / "robot"
        shutil.rmtree(folder, ignore_errors=True)
        self.body = Body(self, folder)
        self.links: list[Life] = []
        self.quiet_s, self.limit_s, self.look_s = 0.0, LIMIT_S, 0.2

    def idle(self, seconds: float) -> None:
        self.time.sleep(seconds)


class Unsteady:
    """A log whose live writers lose, repeat and delay what they are given."""

    def __init__(self, world: World, life: Life) -> None:
        self._world, self._life = world, life

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.log, name)

    def live_writer(self, patience_s: float = 10.0, compressed: bool = False) -> "UnsteadyWriter":
        return UnsteadyWriter(self._world, self._life)


class UnsteadyWriter(MemoryLiveWriter):
    """Keeps order, as Kafka's client does; see `infra.live.LiveWriter`."""

    def __init__(self, world: World, life: Life) -> None:
        super().__init__(world.log._view)
        self._world, self._life = world, life
        self._kept: list[Message] = []

    def send(self, message: Message) -> bool:
        self._life.at(f"send to {message.topic}")
        self._kept.append(message)
        drawn = self._world.random.random() if self._world.storm else 1.0
        if drawn < 0.03:
            self._fault("repeat", message)
            self._kept.append(message)
        elif drawn < 0.06 and message.topic == "commands":
            self._fault("lose", message)
            self._kept.pop()
        elif drawn < 0.12:
            self._fault("delay", message)
            self._world.time.call(self._world.random.uniform(0.0, 0.4), self.serve)
            return True
        self.serve()
        return True

    def serve(self) -> None:
        if self._life.task.ended:
            return  # What a dead process had not sent is gone.
        kept, self._kept = self._kept, []
        for one in kept:
            super().send(one)

    def _fault(self, what: str, message: Message) -> None:
        self._world.fault(f"live {what}", f"{self._life.name}: {what} on {message.topic}")


class WatchedLive:
    """A live processor that may be killed at each event that it answers with."""

    def __init__(self, processor: LiveProcessor, life: Life) -> None:
        self._processor, self._life = processor, life

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def take(self, record: Record) -> Iterator[Event]:
        self._life.at("take")
        yield from self._watch(self._processor.take(record))

    def tick(self, now_ms: float) -> Iterable[Event]:
        return self._watch(self._processor.tick(now_ms))

    def _watch(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            self._life.at(type(event).__name__)
            yield event


def run_processor(world: World, life: Life, make: Callable[[], LiveProcessor]) -> None:
    """What `infra.live_loop.run_live` does, under the world's clock."""
    log: Any = Unsteady(world, life)
    processor: Any = WatchedLive(make(), life)
    patience = Patience(life.name, clock=world.time.now, sleep=world.time.sleep)
    loop = LiveLoop(processor, log, patience, world.time.now)
    try:
        loop.start()
        while not life.stopping:
            life.at("turn", often=True)
            loop.turn()
        loop.close()
    except (GaveUp, LogError) as error:
        world.say(f"{life.name} gives up: {error}")


def controller(world: World, log: MemoryLog) -> Controller:
    """A controller with an epoch of its own."""
    claim = ControllerClaim(robot_id=ROBOT, controller_id="c")
    return Controller(FILE, SPEC, log.append([message(claim)])[0].offset)


# -- actuator and link ------------------------------------------------------------------------


def run_actuator(world: RobotWorld, life: Life) -> None:
    """A life of the actuator: the product's loop, link's end and spool."""
    body = world.body
    spool = _Spool(body, life)
    link = _UpLink(world, life)
    boot_id = f"b{next(body.boots)}"
    monitor = SafetyMonitor(FILE.safety, SPEC, spool.mode)
    limits = Limits(SPEC, FILE.safety.degraded_factor, FILE.safety.brake_mps2)
    actuator = Actuator(ROBOT, boot_id, monitor, limits, next_offset=0)
    loop = ControlLoop(
        actuator,
        BodyDriver(body, life),
        link,
        spool,
        FramePacker(ROBOT, boot_id, FILE.frame_hz),
        lambda: [],
        _health,
        FILE.control_hz,
        FILE.feedback_hz,
        host_ms=lambda: world.time.now_s * 1000,
        wall_ms=lambda: world.time.now_s * 1000,
    )
    idle_s = 0.0
    try:
        while not life.stopping:
            loop.period()
            idle_s = 0.0 if actuator.policy else idle_s + PERIOD_S
            body.obeyed_s = world.time.now_s if actuator.policy else body.obeyed_s
            if any(actuator.applied) and idle_s > STANDS_AFTER_S:
                world.breach(f"{life.name} sets {actuator.applied} without a command")
            world.time.sleep(PERIOD_S)
        loop.stop()
    except ClockWentBack as error:
        world.breach(str(error))
    finally:
        link.die()
        spool.close()


class _Spool(Spool):
    def __init__(self, body: Body, life: Life) -> None:
        super().__init__(body.folder)
        self._life = life

    def append(self, make: Any) -> None:
        self._life.at("before spooling")
        super().append(make)
        self._life.at("spooled")


class _UpLink(UpLink):
    def __init__(self, world: RobotWorld, life: Life) -> None:
        super().__init__(lambda end, next_offset: _Link(world, end, next_offset), world.time.now)
        self._life = life

    def send_frame(self, frame: Any) -> bool:
        self._life.at("send frame")
        return super().send_frame(frame)

    def send_feedback(self, feedback: Any) -> None:
        self._life.at("before feedback")
        super().send_feedback(feedback)
        self._life.at("after feedback")

    def die(self) -> None:
        """What becomes of the socket of a process that ends."""
        if self._living is not None:
            self._living.end.close()


class _Link(Slot):
    """A link's process, which nobody but its actuator starts again."""

    def __init__(self, world: RobotWorld, end: socket.socket, next_offset: int | None) -> None:
        super().__init__(world, "link", len(world.links), self._run)
        self._end = end.dup()
        self._end.setblocking(False)
        order = LinkOrder(ROBOT, str(world.body.folder), next_offset)
        self._before = [life for life in world.links if not life.task.ended]
        self.life = Life(self)
        world.links.append(self.life)
        log: Any = Unsteady(world, self.life)
        self._process = LinkProcess(order, log, self._end)

    def ended(self, life: Life) -> None:
        """Nothing: the actuator notices."""

    def poll(self) -> int | None:
        return 0 if self.life is not None and self.life.task.ended else None

    def wait(self, timeout: float | None = None) -> int:
        raise NotImplementedError("no actuator waits for its link here")

    def _run(self, life: Life) -> None:
        try:
            while any(not one.task.ended for one in self._before):
                self.world.time.sleep(LINK_S)
            self._work(life)
        finally:
            self._end.close()

    def _work(self, life: Life) -> None:
        world, process = self.world, self._process
        start = process._start()
        assert start is not None
        hello, end = start
        life.at("hello")
        process._send(pack(hello))
        reader = world.log.live_reader({process._commands: hello.next_offset})
        writer = UnsteadyWriter(world, life)
        spool = SpoolDelivery(world.log, world.body.folder, ROBOT)  # type: ignore[attr-defined]
        waiting: list[Said] = []
        gone = False
        while not gone:
            gone = self._up(life, writer, waiting)
            if waiting:
                life.at("before delivery")
            process._deliver_once(spool, waiting)
            life.at("turn", often=True)
            if not gone:
                records = reader.poll(200, 0.0)
                if records:
                    life.at("commands came")
                    process._pass_on(records, end)
                world.time.sleep(LINK_S)

    def _up(self, life: Life, writer: UnsteadyWriter, waiting: list[Said]) -> bool:
        """Take what the actuator said; whether it has ended."""
        try:
            while letter := try_receive(self._end):
                if isinstance(letter, Frame):
                    writer.send(self._process._message(SensorFrame, letter.value))
                elif isinstance(letter, Said):
                    waiting.append(letter)
        except ConnectionError:
            return True
        return False


def _health() -> LoopHealth:
    return LoopHealth(
        rate_hz=100, periods=0, missed=0, lateness_p50_ms=0, lateness_p99_ms=0, lateness_max_ms=0
    )


# -- the world --------------------------------------------------------------------------------


def acting_world(seed: int) -> RobotWorld:
    """One robot on patrol, in a storm and in the calm after it."""
    world = RobotWorld(seed)
    world.submit(
        RobotMission(
            mission_id="patrol",
            robots={ROBOT: Patrol(waypoints=[(3.0, 1.0), (3.0, 4.0), (0.0, 0.0)], laps=9)},
        )
    )

    def fuse(life: Life) -> None:
        run_processor(world, life, lambda: SensorFusion({ROBOT: FILE.fusion}))

    def control(life: Life) -> None:
        run_processor(world, life, lambda: controller(world, world.log))

    world.slots += [
        Slot(world, "actuator", 0, lambda life: run_actuator(world, life)),
        Slot(world, "fusion", 0, fuse),
        Slot(world, "controller", 0, control),
    ]
    calm_s = world.time.now_s + STORM_S + CALM_S
    # It must follow commands again; until then its link may be waiting to be started again.
    world.is_done = lambda: world.body.obeyed_s > calm_s
    world.begin_storm(STORM_S)
    _operate(world, 0)
    _watch_body(world)
    return world


def _operate(world: RobotWorld, number: int) -> None:
    """Somebody gives a reset now and then."""
    order = OperatorOrder(robot_id=ROBOT, order_id=f"o{number}", action="reset", reason="")
    world.submit(order)
    world.time.call(_RESET_S, lambda: _operate(world, number + 1))


def _watch_body(world: RobotWorld) -> None:
    """The body stands where nobody has told it anything for long enough to stop."""
    body = world.body
    body.advance()
    v_mps, _ = body.goes()
    if body.gate.silent(body.now_ms()) and v_mps:
        body.moving_alone_s += 0.05
    else:
        body.moving_alone_s = 0.0
    if body.moving_alone_s > STANDS_AFTER_S:
        world.breach("the robot goes on though its control loop is silent")
    world.time.call(0.05, lambda: _watch_body(world))
