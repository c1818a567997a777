"""One life of a robot's actuator: its frames become states, in its own monotonic clock."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from schemas.acting import ChannelHealth, FusedState, Reading, SensorFrame
from schemas.base import Sources
from schemas.fusion import FusionSpec
from streams.acting.fusion.filter import Event, Filter, Snapshot, Tally
from streams.acting.fusion.history import History
from streams.acting.fusion.model import Belief

AHEAD_MS = 10.0
"""A reading is not measured after its frame is closed, give or take the rounding of clocks."""

LARGEST = 1e9
"""No robot measures more in any unit; squares of squares of it are still numbers."""


class Boot:
    """Takes the frames of one boot, in any order inside the window; answers the state."""

    def __init__(self, spec: FusionSpec, filter: Filter, since: FusedState | None = None) -> None:
        """`since` is a state of this boot that was published before, to go on from."""
        self._spec, self._filter = spec, filter
        self._held = {name for name, c in spec.channels.items() if c.kind == "held"}
        self._names = list(filter.model.names)
        self._upper = np.triu_indices(len(self._names))
        self._history = History(filter.step, restored(filter, since) if since else filter.start())
        self._since = since
        self._newest: SensorFrame | None = None
        self._frame_seq = since.frame_seq if since else 0
        self._cutoff_ms = self._floor_ms = since.stamp_ms if since else -np.inf
        self._frames: dict[int, float] = {}
        self._heard_ms: dict[str, float] = {}
        self._holding: dict[str, tuple[float, int, list[float]]] = {}
        self._late, self._too_old, self._refused, self._passed = _counters(since)

    def take(self, frame: SensorFrame) -> bool:
        """Take in a frame; False where it, or all after it in the window, was taken before."""
        if frame.seq in self._frames or self._is_before_restart(frame):
            return False
        self._frame_seq = max(self._frame_seq, frame.seq)
        if self._newest is None or _age(frame) > _age(self._newest):
            self._newest = frame
            self._cutoff_ms = max(self._floor_ms, frame.stamp_ms - self._spec.window_s * 1000)
        self._frames[frame.seq] = frame.stamp_ms
        fresh = self._sift(frame)
        newest = self._history.newest_event
        self._late.update(event.channel for event in fresh if newest and event < newest)
        self._history.add(fresh)
        self._forget()
        return True

    def _is_before_restart(self, frame: SensorFrame) -> bool:
        return self._since is not None and frame.seq <= self._since.frame_seq

    def _sift(self, frame: SensorFrame) -> list[Event]:
        """The readings to be applied, once each; counts the others, keeps what is only held."""
        fresh: dict[tuple[str, int], Event] = {}
        for reading in frame.readings:
            if reading.channel in self._held:
                self._hold(reading)
            elif reading.channel in self._filter.sensors and not self._refuses(frame, reading):
                event = Event(reading.stamp_ms, reading.channel, reading.seq, tuple(reading.values))
                if event.stamp_ms < self._cutoff_ms:
                    self._too_old[event.channel] += 1
                elif not self._history.knows(event):
                    fresh[event.channel, event.seq] = event
                    self._hear(event.channel, event.stamp_ms)
        return list(fresh.values())

    def _refuses(self, frame: SensorFrame, reading: Reading) -> bool:
        refused = why_refused(self._filter, frame, reading) is not None
        self._refused[reading.channel] += refused
        return refused

    def _hold(self, reading: Reading) -> None:
        new = (reading.stamp_ms, reading.seq, reading.values)
        old = self._holding.get(reading.channel)
        if old is None or new[:2] > old[:2]:
            self._holding[reading.channel] = new
            self._passed[reading.channel] += 1
            self._hear(reading.channel, reading.stamp_ms)

    def _hear(self, channel: str, stamp_ms: float) -> None:
        self._heard_ms[channel] = max(stamp_ms, self._heard_ms.get(channel, -np.inf))

    def _forget(self) -> None:
        self._history.forget(self._cutoff_ms)
        while self._frames and self._frames[oldest := next(iter(self._frames))] < self._cutoff_ms:
            del self._frames[oldest]

    @property
    def belief(self) -> Belief:
        """What is believed after the newest event, at its time."""
        return self._history.newest.belief

    def state(self, source: Sources) -> FusedState:
        """The state after all frames so far, at the time of the newest; some must have come."""
        frame, (belief, tallies) = self._newest, self._history.newest
        assert frame is not None
        stamp_ms = max(frame.stamp_ms, belief.stamp_ms or frame.stamp_ms)
        belief = self._filter.model.advance(belief, stamp_ms)
        return FusedState(
            robot_id=frame.robot_id,
            boot_id=frame.boot_id,
            stamp_ms=stamp_ms,
            wall_ms=frame.wall_ms,
            frame_seq=self._frame_seq,
            filter=self._spec.filter,
            names=self._names,
            mean=self._filter.model.outward(belief.mean),
            covariance=belief.covariance[self._upper].tolist(),
            held={name: values for name, (_, _, values) in sorted(self._holding.items())},
            channels={name: self._health(name, stamp_ms, tallies) for name in self._spec.channels},
            source=source,
        )

    def _health(self, name: str, now_ms: float, tallies: Mapping[str, Tally]) -> ChannelHealth:
        tally = tallies.get(name) or Tally(applied=self._passed[name])
        channel = self._spec.channels[name]
        patience_ms = (channel.timeout_s or self._spec.sensor_timeout_s) * 1000
        return ChannelHealth(
            applied=tally.applied,
            rejected=tally.rejected + self._refused[name],
            late=self._late[name],
            too_old=self._too_old[name],
            nis=tally.nis,
            nis_mean=None if tally.nis is None else tally.nis_sum / max(tally.applied, 1),
            alarms=tally.alarms,
            stale=now_ms - self._heard_ms.get(name, -np.inf) > patience_ms,
        )


def _age(frame: SensorFrame) -> tuple[float, int]:
    return frame.stamp_ms, frame.seq


def why_refused(filter: Filter, frame: SensorFrame, reading: Reading) -> str | None:
    """Why a reading of a fused channel makes no sense, whatever the state; None where it does."""
    if reading.stamp_ms > frame.stamp_ms + AHEAD_MS:
        return f"measured {reading.stamp_ms - frame.stamp_ms:g} ms after its frame was closed"
    if (why := filter.sensors[reading.channel].refuse(reading.values)) is not None:
        return why
    if max(map(abs, reading.values)) > LARGEST:
        return f"a value beyond {LARGEST:g}"
    return None


def restored(filter: Filter, state: FusedState) -> Snapshot:
    """What the filter knew when it published a state."""
    size = filter.start().belief.covariance.shape[0]
    covariance = np.zeros((size, size))
    covariance[np.triu_indices(size)] = state.covariance
    covariance += np.triu(covariance, 1).T
    mean = filter.model.inward(state.mean)
    tallies = {name: _tally(state.channels.get(name)) for name in filter.sensors}
    return Snapshot(Belief(state.stamp_ms, mean, covariance), tallies)


def _tally(health: ChannelHealth | None) -> Tally:
    if health is None:
        return Tally()
    nis_sum = (health.nis_mean or 0.0) * health.applied
    return Tally(health.applied, health.rejected, 0, health.alarms, health.nis, nis_sum)


def _counters(since: FusedState | None) -> Iterable[Counter[str]]:
    """Late, too old, refused (restored as rejected), held."""
    health = since.channels if since else {}
    yield Counter({name: channel.late for name, channel in health.items()})
    yield Counter({name: channel.too_old for name, channel in health.items()})
    yield Counter()
    yield Counter({name: channel.applied for name, channel in health.items()})
