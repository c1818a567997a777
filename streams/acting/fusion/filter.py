"""One step of the filter: a reading weighed against what is believed, and taken in or not."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from schemas.fusion import FusionSpec
from streams.acting.fusion.joints import Joints
from streams.acting.fusion.model import Belief, FusionError, Innovation, Model, Sensor
from streams.acting.fusion.planar import Planar
from streams.acting.fusion.quantile import chi2_quantile
from streams.acting.fusion.spatial import Spatial
from streams.acting.fusion.update import Weighed, correct, given_in, weigh


class Event(NamedTuple):
    """One reading; events are ordered by time, channel and number, whatever order they came in."""

    stamp_ms: float
    channel: str
    seq: int
    values: tuple[float, ...]


class Tally(NamedTuple):
    """What became of a channel's readings so far."""

    applied: int = 0
    rejected: int = 0
    in_a_row: int = 0
    alarms: int = 0
    nis: float | None = None
    nis_sum: float = 0.0


class Snapshot(NamedTuple):
    """All that the filter knows after an event."""

    belief: Belief
    tallies: Mapping[str, Tally]


class Filter:
    """The motion model, sensors and gates of one `FusionSpec`; holds no state of a robot."""

    def __init__(self, spec: FusionSpec) -> None:
        self.model = model_of(spec)
        fused = {name: c for name, c in spec.channels.items() if c.kind != "held"}
        if not fused:
            raise FusionError("fusion.channels: none is fused, all are `held`")
        self.sensors: dict[str, Sensor] = {
            name: self.model.sensor(name, channel) for name, channel in fused.items()
        }
        self._gates = {name: channel.gate for name, channel in fused.items()}
        self._rejects_max = {name: channel.rejects_max for name, channel in fused.items()}

    def start(self) -> Snapshot:
        """Before the first event."""
        return Snapshot(self.model.start(), dict.fromkeys(self.sensors, Tally()))

    def step(self, before: Snapshot, event: Event) -> Snapshot:
        """After one more event, which is not earlier than those before."""
        sensor, tally = self.sensors[event.channel], before.tallies[event.channel]
        drive = event.values if sensor.drives else None
        belief = self.model.advance(before.belief, event.stamp_ms, drive)
        innovation = sensor.observe(belief, event.values)
        if innovation is None:
            tally = tally._replace(applied=tally.applied + 1)
        else:
            belief, tally = self._weigh(event.channel, belief, tally, innovation)
        return Snapshot(belief, {**before.tallies, event.channel: tally})

    def _weigh(
        self, channel: str, belief: Belief, tally: Tally, innovation: Innovation
    ) -> tuple[Belief, Tally]:
        weighed = weigh(belief.covariance, innovation)
        if weighed.nis < self._limit(channel, innovation):
            return self._apply(belief, weighed), _applied(tally, weighed.nis)
        tally = _rejected(tally, weighed.nis)
        if tally.in_a_row < self._rejects_max[channel] or tally.nis is None:
            return belief, tally
        grown = belief._replace(covariance=given_in(belief.covariance, weighed))
        return grown, tally._replace(in_a_row=0, alarms=tally.alarms + 1)

    def _limit(self, channel: str, innovation: Innovation) -> float:
        gate = self._gates[channel]
        return math.inf if gate is None else chi2_quantile(gate, len(innovation.residual))

    def _apply(self, belief: Belief, weighed: Weighed) -> Belief:
        by, covariance = correct(belief.covariance, weighed)
        mean = self.model.move(belief.mean, by)
        return Belief(belief.stamp_ms, mean, covariance, belief.drive, belief.drive_ms)


def _applied(tally: Tally, nis: float) -> Tally:
    return Tally(tally.applied + 1, tally.rejected, 0, tally.alarms, nis, tally.nis_sum + nis)


def _rejected(tally: Tally, nis: float) -> Tally:
    """`nis` is not finite where a reading is so absurd that numbers overflow."""
    shown = nis if math.isfinite(nis) else None
    rejected, in_a_row = tally.rejected + 1, tally.in_a_row + 1
    return Tally(tally.applied, rejected, in_a_row, tally.alarms, shown, tally.nis_sum)


def model_of(spec: FusionSpec) -> Model:
    """The motion model that a spec names; raises `FusionError` where the spec does not fit it."""
    match spec.filter:
        case "planar":
            return Planar(spec)
        case "spatial":
            return Spatial(spec)
        case "joints":
            return Joints(spec)
