"""The second gate: a robot that hears nothing of its control loop brakes by itself."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Speed = Callable[[Sequence[float]], float]
"""How fast a set-point lets the fastest wheel turn, in m/s."""

COMING_MAX = 256
_EARLY_MS = 1e-6


@dataclass
class Gate:
    """Passes set-points on, and fades the last one out when it is older than `timeout_ms`.

    All its numbers shrink alike, so the robot stays on its curve, and its fastest wheel slows down
    by `brake_mps2` (after Autoware's vehicle command gate). Without `speed`, for torques, there is
    nothing to brake with: rest at once.
    """

    rest: Sequence[float]
    timeout_ms: float
    brake_mps2: float = 2.4
    speed: Speed | None = None
    braked: int = field(default=0, init=False)
    """How often it had to."""
    _coming: deque[tuple[float, tuple[float, ...]]] = field(
        default_factory=lambda: deque(maxlen=COMING_MAX), init=False
    )
    _last: tuple[float, ...] | None = field(default=None, init=False)
    _heard_ms: float = field(default=0.0, init=False)
    _braking: bool = field(default=False, init=False)

    def heard(self, set_point: Sequence[float], now_ms: float) -> None:
        """The control loop has spoken; a step of the physics that began before does not know it."""
        self._coming.append((now_ms, tuple(set_point)))

    def silent(self, now_ms: float) -> bool:
        """Whether the control loop has not spoken for too long, or never."""
        self._listen(now_ms)
        return self._last is None or now_ms - self._heard_ms > self.timeout_ms

    def passes(self, now_ms: float) -> Sequence[float]:
        """The set-point that the motors get now."""
        silent = self.silent(now_ms)
        if self._last is None:
            return self.rest
        if not silent:
            return self._last
        self.braked += not self._braking
        self._braking = True
        if self.speed is None:
            return self.rest
        braking_s = (now_ms - self._heard_ms - self.timeout_ms) / 1000
        left = self._left(self.speed(self._last), braking_s)
        return tuple(r + left * (v - r) for v, r in zip(self._last, self.rest, strict=True))

    def _listen(self, now_ms: float) -> None:
        while self._coming and self._coming[0][0] <= now_ms + _EARLY_MS:
            self._heard_ms, self._last = self._coming.popleft()
            self._braking = False

    def _left(self, speed_mps: float, braking_s: float) -> float:
        """The share of the speed that is left after so long."""
        if speed_mps <= 0:
            return 0.0
        return max(0.0, 1.0 - self.brake_mps2 * braking_s / speed_mps)
