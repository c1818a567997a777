"""Safety of one robot: its watches, its silence and its orders, brought to the one machine."""

from collections.abc import Iterable, Iterator

from schemas.acting import Mode, OperatorOrder, Reading
from schemas.robots import DriverSpec
from schemas.safety import SafetySpec
from streams.acting.safety import Alarm, Change, SafetyMachine, moves
from streams.acting.watches import watches

_ORDERS_REMEMBERED = 1024


class SafetyMonitor:
    """Fed with what the control loop sees; answers what changed and which mode it is."""

    def __init__(self, spec: SafetySpec, driver: DriverSpec, mode: Mode = "NORMAL") -> None:
        self._spec = spec
        self._kinds = {channel.name: channel.kind for channel in driver.channels}
        self._watches = watches(spec, driver)
        self._machine = SafetyMachine(spec.scaled_ms(spec.clear_s), mode)
        self._command_ms: float | None = None
        self._stall_ms = 0.0
        self._driver_error: str | None = None
        self._orders: dict[str, None] = {}
        self._reset_ms: float | None = None

    @property
    def mode(self) -> Mode:
        """The mode now."""
        return self._machine.mode

    @property
    def moves(self) -> bool:
        """Whether commands are carried out now."""
        return moves(self._machine.mode)

    @property
    def gate_timeout_ms(self) -> float:
        """After how long without a set-point the robot brakes by itself."""
        return self._spec.gate_timeout_ms * self._spec.load_factor

    def sense(self, readings: Iterable[Reading]) -> None:
        """Take in what the driver read."""
        for reading in readings:
            kind = self._kinds.get(reading.channel)
            if kind is not None:
                for watch in self._watches:
                    watch.feed(kind, reading)

    def driver_says(self, error: str | None) -> None:
        """What the driver raised when it was last used; None when it worked."""
        self._driver_error = error

    def stalled(self, since_ms: float) -> None:
        """The loop came round so long after the last set-point."""
        if since_ms > self.gate_timeout_ms:
            self._stall_ms = max(self._stall_ms, since_ms)

    def is_fresh(self, stamp_ms: float) -> bool:
        """Whether a command follows from what was seen after the last reset."""
        return self._reset_ms is None or stamp_ms > self._reset_ms

    def commanded(self, now_ms: float) -> None:
        """A fresh command came: silence is counted from here."""
        self._command_ms = now_ms

    def step(self, now_ms: float) -> list[Change]:
        """Look at everything."""
        alarms = list(self._alarms(now_ms))
        self._stall_ms = 0.0
        return self._machine.update(alarms, now_ms)

    def _alarms(self, now_ms: float) -> Iterator[Alarm]:
        for watch in self._watches:
            yield from watch.alarms(now_ms)
        if self._driver_error is not None:
            yield Alarm("SAFE_STOP", "driver", self._driver_error)
        if self._stall_ms:
            limit = f"{self.gate_timeout_ms:.0f} ms is the limit"
            yield Alarm("HOLD", "loop-stall", f"no set-point for {self._stall_ms:.0f} ms, {limit}")
        yield from self._silence(now_ms)

    def _silence(self, now_ms: float) -> Iterator[Alarm]:
        if self._command_ms is None:
            return
        silent_ms = now_ms - self._command_ms
        hold_ms = self._spec.scaled_ms(self._spec.silence_hold_s)
        stop_ms = self._spec.scaled_ms(self._spec.silence_stop_s)
        detail = f"no fresh command for {silent_ms:.0f} ms"
        if silent_ms > stop_ms:
            yield Alarm("SAFE_STOP", "silence", detail)
        elif silent_ms > hold_ms:
            yield Alarm("HOLD", "silence", detail)

    def order(self, order: OperatorOrder, now_ms: float, past: bool = False) -> Change | None:
        """Carry out a person's order once; None for one that was carried out already.

        A reset that was given before this life began (`past`) is refused: what it was to end may
        have come after it.
        """
        if order.order_id in self._orders:
            return None
        self._orders[order.order_id] = None
        while len(self._orders) > _ORDERS_REMEMBERED:
            del self._orders[next(iter(self._orders))]
        said = f"order {order.order_id}" + (f": {order.reason}" if order.reason else "")
        if order.action == "stop":
            return self._machine.strike(Alarm("SAFE_STOP", "operator", f"stop by {said}"))
        if order.action == "terminate":
            return self._machine.strike(Alarm("TERMINATED", "operator", f"terminate by {said}"))
        if past:
            return self._machine.refuse("given before this start; give it again", said)
        return self._reset(now_ms, said)

    def _reset(self, now_ms: float, said: str) -> Change:
        lasting = [a for a in self._alarms(now_ms) if a.cause not in ("silence", "loop-stall")]
        change = self._machine.reset(lasting, said)
        if change.cause == "reset":
            self._command_ms, self._reset_ms = None, now_ms
        return change
