"""A robot, its clock, its link and its spool in memory, for tests of what acts."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from schemas.acting import (
    Command,
    ControllerClaim,
    Feedback,
    LoopHealth,
    OperatorOrder,
    PolicyRef,
    Reading,
    SafetyEvent,
    SensorFrame,
)
from schemas.base import Event
from schemas.robots import ChannelSpec, DriverError, DriverSpec, SetPointField
from schemas.safety import SafetySpec
from streams.acting.actuator import Actuator
from streams.acting.limits import Limits
from streams.acting.loop import ControlLoop, Delivered
from streams.acting.monitor import SafetyMonitor

BOOT = "b1"
ROBOT = "r1"
TRACKER = PolicyRef(policy="tracker", version=0, sha256="0" * 64)
PERIOD_MS = 5.0

ROVER = DriverSpec(
    name="tiny",
    channels=[
        ChannelSpec(name="odometry", kind="odometry", fields=["v_mps", "w_radps"], rate_hz=50),
        ChannelSpec(name="scan", kind="scan", fields=["range_m@0"], rate_hz=20),
        ChannelSpec(name="position", kind="position", fields=["x_m", "y_m"], rate_hz=5),
        ChannelSpec(
            name="imu", kind="imu", fields=["wx", "wy", "wz", "ax", "ay", "az"], rate_hz=50
        ),
    ],
    set_point=[
        SetPointField(name="v_mps", low=-0.5, high=1.0, rate_max=2.0),
        SetPointField(name="yaw_rate_radps", low=-2.0, high=2.0),
    ],
    rest=[0.0, 0.0],
)


def safety_spec(**changes: Any) -> SafetySpec:
    """As on a dedicated machine: time-outs are what they say."""
    return SafetySpec.model_validate({"load": "dedicated", "silence_hold_s": 0.5, **changes})


def actuator(spec: SafetySpec | None = None, boot_id: str = BOOT, next_offset: int = 0) -> Actuator:
    spec = spec or safety_spec()
    limits = Limits(ROVER, spec.degraded_factor, spec.brake_mps2)
    return Actuator(ROBOT, boot_id, SafetyMonitor(spec, ROVER), limits, next_offset)


def command(seq: int, stamp_ms: float = 0.0, epoch: int = 0, **changes: Any) -> Command:
    """A command to drive straight on at half a metre a second, good for 150 ms."""
    document: dict[str, Any] = {
        "robot_id": ROBOT,
        "boot_id": BOOT,
        "controller_epoch": epoch,
        "seq": seq,
        "stamp_ms": stamp_ms,
        "deadline_ms": stamp_ms + 150,
        "frame_seq": 0,
        "set_point": [0.5, 0.0],
        "policy": TRACKER,
        "source": {},
    }
    return Command.model_validate({**document, **changes})


def claim() -> ControllerClaim:
    return ControllerClaim(robot_id=ROBOT, controller_id="c")


def order(action: str, order_id: str = "o1") -> OperatorOrder:
    return OperatorOrder.model_validate(
        {"robot_id": ROBOT, "order_id": order_id, "action": action, "reason": "test"}
    )


def reading(channel: str, stamp_ms: float, *values: float) -> Reading:
    return Reading(channel=channel, seq=0, stamp_ms=stamp_ms, values=list(values))


class TinyRover:
    """Goes along x as it is told, measured without error.

    `broken` says what it raises; then it must be connected again.
    """

    def __init__(self) -> None:
        self.spec = ROVER
        self.clock_ms = 1000.0
        self.v_mps = self.x_m = 0.0
        self.wall_m = 100.0
        self.silent: set[str] = set()
        self.broken: str | None = None
        self.applied: list[list[float]] = []
        self._open = True

    def connect(self) -> None:
        self._open = self.broken is None
        self._check()

    def now_ms(self) -> float:
        return self.clock_ms

    def pass_time(self, ms: float) -> None:
        self.clock_ms += ms
        self.x_m += self.v_mps * ms / 1000

    def read(self) -> list[Reading]:
        self._check()
        at = self.clock_ms
        every = [
            reading("odometry", at, self.v_mps, 0.0),
            reading("scan", at, self.wall_m - self.x_m),
            reading("position", at, self.x_m, 0.0),
            reading("imu", at, 0, 0, 0, 0, 0, 9.81),
        ]
        return [r for r in every if r.channel not in self.silent]

    def apply(self, set_point: Sequence[float]) -> list[float]:
        self._check()
        self.v_mps = set_point[0]
        self.applied.append(list(set_point))
        return list(set_point)

    def _check(self) -> None:
        self._open = self._open and self.broken is None
        if not self._open:
            raise DriverError(self.broken or "not connected")

    def close(self) -> None:
        pass


class MemoryLink:
    """Gives what tests lay before it; takes feedback while there is room."""

    def __init__(self) -> None:
        self.inbox: list[Delivered] = []
        self.frames: list[SensorFrame] = []
        self.feedback: list[Feedback] = []
        self.room = self.announced = True
        self.offset = self.lost = 0

    def publish(self, event: Event) -> int:
        """Append to `commands`; answers the offset."""
        self.inbox.append((self.offset, event, False))
        self.offset += 1
        return self.offset - 1

    def receive(self, limit: int) -> Sequence[Delivered]:
        taken, self.inbox = self.inbox[:limit], self.inbox[limit:]
        return taken

    def takes_frames(self) -> bool:
        return self.announced

    def send_frame(self, frame: SensorFrame) -> bool:
        if self.room:
            self.frames.append(frame)
        return self.room

    def given_up(self) -> int:
        frames, self.lost = self.lost, 0
        return frames

    def has_room(self) -> bool:
        return self.room

    def send_feedback(self, feedback: Feedback) -> None:
        self.feedback.append(feedback)

    def outcomes(self) -> dict[tuple[int, int], str]:
        """Outcome by epoch and number."""
        return {(o.controller_epoch, o.seq): o.outcome for f in self.feedback for o in f.outcomes}


class MemorySpool:
    """Safety events as a list."""

    def __init__(self) -> None:
        self.events: list[SafetyEvent] = []

    def append(self, make: Callable[[int], SafetyEvent]) -> None:
        self.events.append(make(len(self.events)))


class CountingPacker:
    """A frame for each period, empty."""

    def __init__(self) -> None:
        self.dropped = 0
        self._readings: list[Reading] = []

    def take(self, readings: Iterable[Reading]) -> None:
        self._readings += readings

    def frame(self, now_ms: float, wall_ms: float) -> SensorFrame | None:
        readings, self._readings = self._readings, []
        return SensorFrame(
            robot_id=ROBOT,
            boot_id=BOOT,
            seq=0,
            stamp_ms=now_ms,
            wall_ms=wall_ms,
            readings=readings,
            dropped=self.dropped,
        )


class World:
    """A rover under its control loop, in virtual time, with a controller that can fall silent."""

    def __init__(self, spec: SafetySpec | None = None) -> None:
        self.rover, self.link, self.spool = TinyRover(), MemoryLink(), MemorySpool()
        self.packer = CountingPacker()
        self.actuator = actuator(spec)
        self.local: list[tuple[OperatorOrder, bool]] = []
        self.commanding = False
        self.set_point = [0.5, 0.0]
        self.lag_ms = 20.0
        self._epoch: int | None = None
        self._seq = 0
        self._next_command_ms = 0.0
        self.loop = ControlLoop(
            self.actuator,
            self.rover,
            self.link,
            self.spool,
            self.packer,
            self._local_orders,
            _health,
            control_hz=1000 / PERIOD_MS,
            feedback_hz=20,
            host_ms=lambda: self.rover.clock_ms,
            wall_ms=lambda: 1.8e12,
        )

    def _local_orders(self) -> list[tuple[OperatorOrder, bool]]:
        orders, self.local = self.local, []
        return orders

    def run(self, ms: float, period_ms: float = PERIOD_MS) -> None:
        """Let time pass, period by period."""
        until_ms = self.rover.clock_ms + ms
        while self.rover.clock_ms < until_ms - 1e-9:
            self.rover.pass_time(period_ms)
            if self.commanding and self.rover.clock_ms >= self._next_command_ms:
                self._command()
            self.loop.period()

    def _command(self) -> None:
        if self._epoch is None:
            self._epoch = self.link.publish(claim())
        stamp_ms = self.rover.clock_ms - self.lag_ms
        self.link.publish(command(self._seq, stamp_ms, self._epoch, set_point=list(self.set_point)))
        self._seq += 1
        self._next_command_ms = self.rover.clock_ms + 50

    def drive(self, ms: float = 1000) -> None:
        """Have commands published, and time pass."""
        self.commanding = True
        self.run(ms)

    @property
    def mode(self) -> str:
        return self.actuator.safety.mode

    def causes(self) -> list[tuple[str, str, str]]:
        """What was told: cause, mode before, mode after."""
        return [(e.cause, e.before, e.after) for e in self.spool.events]


def _health() -> LoopHealth:
    return LoopHealth(
        rate_hz=200,
        periods=0,
        missed=0,
        lateness_p50_ms=0,
        lateness_p99_ms=0,
        lateness_max_ms=0,
    )
