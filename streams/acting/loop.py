"""The control loop: read, judge, apply, say; nothing in it waits for anything but its period.

What it talks to is given to it and never blocks: the driver, the link to the log, the spool of
safety events and the orders that were given on the robot itself. The clock that decides is the
robot's; the host's counts only how long a set-point was awaited.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from schemas.acting import (
    Command,
    ControllerClaim,
    Feedback,
    LoopHealth,
    OperatorOrder,
    Reading,
    SafetyEvent,
    SensorFrame,
)
from schemas.base import Event
from schemas.robots import Driver, DriverError
from streams.acting.actuator import Actuator
from streams.acting.safety import Change

logger = logging.getLogger("ralo.actuator")

RECORDS_PER_PERIOD = 16
RECONNECT_MS = 500.0
HEALTH_MS = 1000.0
_BACK_MS = 1000.0
_STEP_MAX = 2.0
"""Periods that a rate limit counts at most, however long the last one was."""

Delivered = tuple[int, Event | None, bool]
"""An offset of `commands`, what lies there (None: nothing for this robot before it), and whether
it was there before this actuator started."""


class ClockWentBack(Exception):
    """The robot's clock is not the one of this life any more: a new one must begin."""


class Link(Protocol):
    """The way to the log; everything it does is at once or not at all."""

    def receive(self, limit: int) -> Sequence[Delivered]:
        """What came from `commands`, in order."""
        ...

    def takes_frames(self) -> bool:
        """Whether the log knows of this life: before, nobody may command it."""
        ...

    def send_frame(self, frame: SensorFrame) -> bool:
        """Hand a frame over; False where there is no room, and it is gone."""
        ...

    def given_up(self) -> int:
        """How many frames that were handed over are gone since last asked, or may be."""
        ...

    def has_room(self) -> bool:
        """Whether feedback can be handed over."""
        ...

    def send_feedback(self, feedback: Feedback) -> None:
        """Hand feedback over; it is kept until the log has it."""
        ...


class Spool(Protocol):
    """Safety events on the robot's disk, until the log has them."""

    def append(self, make: Callable[[int], SafetyEvent]) -> None:
        """Keep the event that is made with the next number."""
        ...


class Packer(Protocol):
    """Makes sensor frames of readings."""

    dropped: int
    """Readings that found no room so far."""

    def take(self, readings: Iterable[Reading]) -> None:
        """Put these into the next frame."""
        ...

    def frame(self, now_ms: float, wall_ms: float) -> SensorFrame | None:
        """The frame that is to be closed now; None before its time."""
        ...


class Tick:
    """Says yes once in each interval."""

    def __init__(self, every_ms: float) -> None:
        self._every_ms, self._next_ms = every_ms, 0.0

    def due(self, now_ms: float) -> bool:
        """Whether the next interval has begun."""
        if now_ms < self._next_ms:
            return False
        self._next_ms = max(self._next_ms + self._every_ms, now_ms)
        return True


class ControlLoop:
    """One robot's loop; `period` is one turn of it."""

    def __init__(
        self,
        actuator: Actuator,
        driver: Driver,
        link: Link,
        spool: Spool,
        packer: Packer,
        local_orders: Callable[[], Sequence[tuple[OperatorOrder, bool]]],
        health: Callable[[], LoopHealth],
        control_hz: float,
        feedback_hz: float,
        host_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
        wall_ms: Callable[[], float] = lambda: time.time() * 1000,
    ) -> None:
        self.actuator, self._driver, self._link = actuator, driver, link
        self._spool, self._packer, self._local_orders = spool, packer, local_orders
        self._health, self._host_ms, self._wall_ms = health, host_ms, wall_ms
        self._period_ms = 1000 / control_hz
        self._feedback, self._healthy = Tick(1000 / feedback_hz), Tick(HEALTH_MS)
        self._reconnect = Tick(RECONNECT_MS)
        self._read_error: str | None = None
        self._apply_error: str | None = None
        self._now_ms: float | None = None
        self._host_last_ms = self._applied_ms = host_ms()

    def period(self) -> None:
        """One period; raises `ClockWentBack`."""
        last_ms, now_ms = self._now_ms, self._robot_ms()
        readings = self._read()
        self.actuator.sense(readings, self._read_error or self._apply_error)
        self._note_stall()
        for offset, event, past in self._link.receive(RECORDS_PER_PERIOD):
            self._take(offset, event, past, now_ms)
        since_ms = self._period_ms if last_ms is None else now_ms - last_ms
        set_point = self.actuator.step(now_ms, min(since_ms, _STEP_MAX * self._period_ms) / 1000)
        self.actuator.done(self._apply(set_point), now_ms)
        self._say(readings, now_ms)

    def stop(self) -> None:
        """Bring the robot to rest as the last thing and say so."""
        self.actuator.done(self._apply(self._driver.spec.rest), self._now_ms or 0.0)
        if self._now_ms is not None and self._link.has_room():
            last = self.actuator.feedback(self._now_ms, self._wall_ms(), self._health())
            self._link.send_feedback(last)
        try:
            self._driver.close()
        except DriverError as error:
            logger.warning("close: %s", error)

    def _robot_ms(self) -> float:
        """The robot's clock; while it does not answer, the host's goes on from its last word."""
        host_ms, last_ms = self._host_ms(), self._now_ms
        try:
            now_ms = self._driver.now_ms()
        except DriverError:
            now_ms = (last_ms or 0.0) + host_ms - self._host_last_ms
        self._host_last_ms = host_ms
        if last_ms is not None and now_ms < last_ms:
            if now_ms < last_ms - _BACK_MS:
                raise ClockWentBack(f"the robot's clock went from {last_ms:.0f} to {now_ms:.0f} ms")
            now_ms = last_ms
        self._now_ms = now_ms
        return now_ms

    def _read(self) -> list[Reading]:
        failed = self._read_error or self._apply_error
        if failed and self._reconnect.due(self._host_ms()):
            self._connect_again()
        try:
            readings = self._driver.read()
        except DriverError as error:
            self._read_error = str(error)
            return []
        self._read_error = None
        return readings

    def _connect_again(self) -> None:
        try:
            self._driver.close()
            self._driver.connect()
        except DriverError as error:
            logger.debug("connect: %s", error)

    def _apply(self, set_point: Sequence[float]) -> list[float] | None:
        try:
            applied = self._driver.apply(set_point)
        except DriverError as error:
            self._apply_error = str(error)
            return None
        self._apply_error, self._applied_ms = None, self._host_ms()
        return applied

    def _note_stall(self) -> None:
        self.actuator.stalled(self._host_ms() - self._applied_ms)

    def _take(self, offset: int, event: Event | None, past: bool, now_ms: float) -> None:
        if isinstance(event, Command | ControllerClaim | OperatorOrder):
            self.actuator.take(offset, event, now_ms, past)
        else:
            self.actuator.skip_to(offset)

    def _say(self, readings: Sequence[Reading], now_ms: float) -> None:
        wall_ms = self._wall_ms()
        changes, self.actuator.changes = self.actuator.changes, []
        for change in changes:
            self._keep(change, now_ms, wall_ms)
        self._send_readings(readings, now_ms, wall_ms)
        if changes or self._feedback.due(now_ms):
            self._say_feedback(now_ms, wall_ms)

    def _send_readings(self, readings: Sequence[Reading], now_ms: float, wall_ms: float) -> None:
        if not self._link.takes_frames():
            self._packer.dropped += len(readings)
            return
        self._packer.dropped += self._link.given_up()
        self._packer.take(readings)
        frame = self._packer.frame(now_ms, wall_ms)
        if frame is not None and not self._link.send_frame(frame):
            # Also one without readings, while the robot does not answer, is missed by its number.
            self._packer.dropped += max(1, len(frame.readings))

    def _say_feedback(self, now_ms: float, wall_ms: float) -> None:
        for order, past in self._local_orders():
            self.actuator.order(order, now_ms, past)
        if self._link.has_room():
            health = self._health() if self._healthy.due(now_ms) else None
            self._link.send_feedback(self.actuator.feedback(now_ms, wall_ms, health))

    def _keep(self, change: Change, now_ms: float, wall_ms: float) -> None:
        robot_id, boot_id = self.actuator.robot_id, self.actuator.boot_id
        logger.warning(
            "%s: %s → %s: %s %s", robot_id, change.before, change.after, change.cause, change.detail
        )

        def event(seq: int) -> SafetyEvent:
            return SafetyEvent(
                robot_id=robot_id,
                boot_id=boot_id,
                seq=seq,
                stamp_ms=now_ms,
                wall_ms=wall_ms,
                before=change.before,
                after=change.after,
                cause=change.cause,
                detail=change.detail,
            )

        self._spool.append(event)
