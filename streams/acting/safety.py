"""The modes of a robot: the most severe cause wins, and only a person's reset leads back.

    NORMAL      commands are carried out within the limits
    DEGRADED    the same within narrower limits; it ends by itself, for it only slows
    HOLD        the robot brakes and rests; commands are refused until a reset
    SAFE_STOP   the same, for graver causes: tilt, driver, operator, long silence
    TERMINATED  final, over restarts too: no order leads out of it

A reset is refused while a cause of HOLD or worse persists. Silence is none of these: a robot that
was reset rests until a command comes that was made after the reset, so there is nothing to fear
from a controller that is not there yet; silence is counted again from that command on.

The order of severity, that a recovered link clears nothing and that TERMINATED is final are PX4's
rules for its failsafes; that a source which is missing is a stop is Nav2's (collision monitor).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.acting import MODES, Mode

SEVERITY: dict[Mode, int] = {mode: rank for rank, mode in enumerate(MODES)}
_HOLD = SEVERITY["HOLD"]


def worst(*modes: Mode) -> Mode:
    """The most severe of these modes."""
    return max(modes, key=SEVERITY.__getitem__)


def moves(mode: Mode) -> bool:
    """Whether commands are carried out in this mode."""
    return SEVERITY[mode] < _HOLD


@dataclass(frozen=True, slots=True)
class Alarm:
    """A cause that calls for a mode as long as it persists; `subject` tells causes apart."""

    mode: Mode
    cause: str
    detail: str = ""
    subject: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same alarm as a moment ago, whatever its figures."""
        return self.mode, self.cause, self.subject


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be told as a `SafetyEvent`."""

    before: Mode
    after: Mode
    cause: str
    detail: str = ""


class SafetyMachine:
    """The mode, moved up by alarms and down by resets; starts where the last life ended."""

    def __init__(self, clear_ms: float, mode: Mode = "NORMAL") -> None:
        self.mode = mode
        self._clear_ms = clear_ms
        self._clear_since_ms: float | None = None
        self._told: set[tuple[str, str, str]] = set()

    def update(self, alarms: Iterable[Alarm], now_ms: float) -> list[Change]:
        """Take in all alarms that persist now; each is told once between two ways down."""
        present = sorted(alarms, key=lambda alarm: -SEVERITY[alarm.mode])
        changes = [self.strike(alarm) for alarm in present if alarm.key not in self._told]
        self._told.update(alarm.key for alarm in present)
        return [*changes, *self._cleared(bool(present), now_ms)]

    def strike(self, alarm: Alarm) -> Change:
        """Take in what happens once, such as an order; always told."""
        before, self.mode = self.mode, worst(self.mode, alarm.mode)
        return Change(before, self.mode, alarm.cause, alarm.detail)

    def _cleared(self, alarmed: bool, now_ms: float) -> list[Change]:
        if self.mode != "DEGRADED" or alarmed:
            self._clear_since_ms = None
            return []
        if self._clear_since_ms is None:
            self._clear_since_ms = now_ms
        if now_ms - self._clear_since_ms < self._clear_ms:
            return []
        return [self._down("NORMAL", "cleared", "")]

    def reset(self, alarms: Iterable[Alarm], detail: str) -> Change:
        """A person's reset; refused, and told so, while a cause persists and when terminated."""
        present = list(alarms)
        grave = [alarm for alarm in present if not moves(alarm.mode)]
        if self.mode == "TERMINATED":
            return self.refuse("a terminated robot stays so", detail)
        if grave:
            causes = "; ".join(f"{alarm.cause}: {alarm.detail}" for alarm in grave)
            return self.refuse(causes, detail)
        change = self._down(worst("NORMAL", *(a.mode for a in present)), "reset", detail)
        self._told.update(alarm.key for alarm in present)
        return change

    def refuse(self, why: str, detail: str) -> Change:
        """Tell that an order is not carried out."""
        return Change(self.mode, self.mode, "reset-refused", f"{detail}: {why}")

    def _down(self, mode: Mode, cause: str, detail: str) -> Change:
        before, self.mode = self.mode, mode
        self._told.clear()
        self._clear_since_ms = None
        return Change(before, mode, cause, detail)
