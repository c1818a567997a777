"""One robot over its boots: each begins anew, and the frames of earlier ones are dropped."""

from collections.abc import Iterable

from schemas.acting import FusedState, SensorFrame
from schemas.base import Sources
from schemas.fusion import FusionSpec
from streams.acting.fusion.boot import Boot
from streams.acting.fusion.filter import Filter


class Robot:
    """Fuses one robot's frames, and says when a state is due."""

    def __init__(self, spec: FusionSpec) -> None:
        self._spec, self._filter = spec, Filter(spec)
        self._boot: Boot | None = None
        self._boot_id: str | None = None
        self._ended: set[str] = set()
        self._due_ms = 0.0

    def take(self, frame: SensorFrame) -> bool:
        """Take in a frame; whether a state is due for it."""
        if frame.boot_id in self._ended:
            return False
        if frame.boot_id != self._boot_id or self._boot is None:
            self._begin(frame.boot_id, None)
        assert self._boot is not None
        return self._boot.take(frame) and self._is_due(frame.stamp_ms)

    def _begin(self, boot_id: str, since: FusedState | None) -> None:
        if self._boot_id is not None and self._boot_id != boot_id:
            self._ended.add(self._boot_id)
        self._boot, self._boot_id = Boot(self._spec, self._filter, since), boot_id
        self._due_ms = 0.0

    def _is_due(self, stamp_ms: float) -> bool:
        """At most `rate_hz` states a second, on a grid that lateness does not shift."""
        if not self._spec.rate_hz:
            return True
        if stamp_ms < self._due_ms:
            return False
        period_ms = 1000 / self._spec.rate_hz
        self._due_ms = max(self._due_ms + period_ms, stamp_ms - stamp_ms % period_ms + period_ms)
        return True

    def state(self, source: Sources) -> FusedState:
        """The state after the frames so far; some must have come."""
        assert self._boot is not None
        return self._boot.state(source)

    def rebuild(self, frames: Iterable[SensorFrame], states: Iterable[FusedState]) -> None:
        """Be where the frames and states of the log's end left off.

        The newest boot goes on from a state that is a window older than its newest, so that what
        was late then finds its place again; without such a state it begins with the first frame.
        """
        frames = list(frames)
        if not frames:
            return
        boot_id = frames[-1].boot_id
        self._ended.update(frame.boot_id for frame in frames if frame.boot_id != boot_id)
        self._begin(boot_id, self._seed([s for s in states if s.boot_id == boot_id]))
        for frame in frames:
            self.take(frame)

    def _seed(self, states: list[FusedState]) -> FusedState | None:
        fitting = [s for s in states if s.names == list(self._filter.model.names)]
        if not fitting:
            return None
        latest_ms = max(s.stamp_ms for s in fitting) - self._spec.window_s * 1000
        old_enough = [s for s in fitting if s.stamp_ms <= latest_ms]
        return old_enough[-1] if old_enough else fitting[0]
