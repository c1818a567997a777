"""`ralo simulate --load`: frames of many rovers at a set rate, to load what reads them."""

import threading
import time
import uuid
from typing import Any

SAY_EVERY_S = 1.0
LATE_MAX_S = 1.0
"""Later than this, the frames of the time between are given up and counted."""
FLUSH_S = 5.0


def publish_load(
    stop: threading.Event,
    robots: int,
    rate_hz: float,
    frame_hz: float,
    seconds: float | None,
    seed: int,
) -> dict[str, Any]:
    """Publish until told to stop; answers what was published and what found no room."""
    from infra.connect import connect_log
    from infra.settings import settings

    load = _Load(connect_log(settings()), robots, rate_hz, frame_hz, seed)
    began = said = time.monotonic()
    try:
        while not stop.is_set() and (seconds is None or time.monotonic() - began < seconds):
            load.turn()
            if time.monotonic() - said >= SAY_EVERY_S:
                said = time.monotonic()
                load.tell(said - began)
    finally:
        left = load.close()
    return load.summary(time.monotonic() - began, left)


class _Load:
    """The rovers, all in one loop with absolute deadlines: a turn is one period of their frames."""

    def __init__(self, log: Any, robots: int, rate_hz: float, frame_hz: float, seed: int) -> None:
        from producers.robots.load import CirclingRover

        boot_id = uuid.uuid4().hex[:12]
        self._writer, self._wanted_hz = log.live_writer(), robots * frame_hz
        self._rovers = [
            CirclingRover(f"load-{i}", boot_id, rate_hz, frame_hz, seed + i)
            for i in range(1, robots + 1)
        ]
        self._period_s = 1 / frame_hz
        self._due = time.monotonic()
        self.frames = self.readings = self.size_bytes = self.refused = self.late = 0

    def turn(self) -> None:
        """Wait for the next period, then publish a frame of each rover."""
        from infra.envelope import message

        self._wait()
        now_ms, wall_ms = time.monotonic() * 1000, time.time() * 1000
        for rover in self._rovers:
            for frame in rover.frames(now_ms, wall_ms):
                sent = message(frame)
                if not self._writer.send(sent):
                    self.refused += 1
                    continue
                self.frames += 1
                self.readings += len(frame.readings)
                self.size_bytes += len(sent.value)
        self._writer.serve()

    def _wait(self) -> None:
        self._due += self._period_s
        ahead = self._due - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        elif -ahead > LATE_MAX_S:
            self.late += round(-ahead / self._period_s)
            self._due = time.monotonic()

    def tell(self, elapsed_s: float) -> None:
        """A line of progress."""
        from infra.cli.simulate import say

        say(
            f"{elapsed_s:5.0f} s  {self.frames / elapsed_s:6.0f} of {self._wanted_hz:.0f} frames/s"
            f"  {self.readings / elapsed_s:8.0f} readings/s"
            f"  {self.size_bytes / elapsed_s / 1e6:6.2f} MB/s"
            f"  {self.refused + self._writer.lost} lost, {self.late} periods given up"
        )

    def close(self) -> int:
        """Deliver what is on its way; answers how many are not delivered."""
        left: int = self._writer.flush(FLUSH_S)
        self._writer.close()
        return left

    def summary(self, elapsed_s: float, left: int) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "robots": len(self._rovers),
            "seconds": round(elapsed_s, 3),
            "frames": self.frames,
            "frames_hz": round(self.frames / elapsed_s, 1),
            "frames_wanted_hz": self._wanted_hz,
            "readings": self.readings,
            "readings_hz": round(self.readings / elapsed_s, 1),
            "bytes": self.size_bytes,
            "lost": self.refused + self._writer.lost + left,
            "periods_given_up": self.late,
        }
