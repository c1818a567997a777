"""The world process: steps its physics in real time and serves each robot's socket.

Soft real time: periods have absolute deadlines, and those that were missed are counted. The world
makes up for being late, up to `LATE_MAX_MS`; beyond that it stands still, and the loss is counted.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from producers.robots.ports import Port
from producers.robots.simulation import Simulation
from schemas.acting import Reading
from schemas.worlds import World

LATE_MAX_MS = 100.0
GRID_MS = 20.0
"""A world begins, and goes on after a loss, at a multiple of this in its clock: so the arm's steps
are always where frames expect them."""

Tap = Callable[[str, Sequence[Reading]], None]
"""Is told what arrived of a robot."""


@dataclass
class Pace:
    """How the world keeps its periods."""

    periods: int = 0
    missed: int = 0
    """Periods that were over before the world came to them; it made up for them."""
    worst_ms: float = 0.0
    lost_ms: float = 0.0
    """Time for which it stood still, having been too late."""

    def came(self, periods: int, late_ms: float) -> None:
        """So many periods are over now, the first of them since so long."""
        self.periods += periods
        self.missed += periods - 1
        self.worst_ms = max(self.worst_ms, late_ms)


def no_tap(robot_id: str, readings: Sequence[Reading]) -> None:
    """Tell nobody."""


class WorldServer:
    """A world that is served; `turn` is one period. Raises `PortTaken`."""

    def __init__(
        self, world: World, robots_dir: Path, seed: int | None = None, tap: Tap = no_tap
    ) -> None:
        self.pace, self._tap = Pace(), tap
        self.simulation = Simulation(world, 0.0, seed)
        self.ports: dict[str, Port] = {}
        try:
            for robot_id, robot in self.simulation.robots.items():
                self.ports[robot_id] = Port(robot, robots_dir)
        except Exception:
            self.close()
            raise
        self._now_ms = _next_on_grid(time.monotonic() * 1000)
        self.simulation.skip(self._now_ms)

    @property
    def now_ms(self) -> float:
        """The time up to which the world has gone, in CLOCK_MONOTONIC."""
        return self._now_ms

    def turn(self) -> None:
        """Wait until the next period is over, then: hear, step, tell; at once for all that are."""
        period_ms = self.simulation.step_ms
        wait_ms = self._now_ms + period_ms - time.monotonic() * 1000
        if wait_ms > 0:
            time.sleep(wait_ms / 1000)
        late_ms = max(0.0, time.monotonic() * 1000 - self._now_ms - period_ms)
        if late_ms > LATE_MAX_MS:
            self._stand_still(late_ms)
            self.pace.came(1, late_ms)
            self._pass(1)
        else:
            periods = 1 + int(late_ms / period_ms)
            self.pace.came(periods, late_ms)
            self._pass(periods)

    def _stand_still(self, late_ms: float) -> None:
        lost_ms = late_ms // GRID_MS * GRID_MS
        self.pace.lost_ms += lost_ms
        self.simulation.skip(lost_ms)
        self._now_ms += lost_ms

    def _pass(self, periods: int) -> None:
        until_ms = self._now_ms + periods * self.simulation.step_ms
        for port in self.ports.values():
            port.receive(self._now_ms, until_ms)
        self._now_ms = until_ms
        self.simulation.advance(self._now_ms)
        for robot_id, port in self.ports.items():
            readings = self.simulation.robots[robot_id].arrived(self._now_ms)
            if readings:
                port.send(readings)
                self._tap(robot_id, readings)

    def close(self) -> None:
        """Serve no more."""
        for port in self.ports.values():
            port.close()


def _next_on_grid(now_ms: float) -> float:
    return math.ceil(now_ms / GRID_MS) * GRID_MS
