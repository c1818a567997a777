"""Paths of robots in time, and how far one is from another: positions against the truth."""

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

GAP_MAX_MS = 500.0
"""Between two points that are further apart in time, nothing is known."""


def _empty() -> "array[float]":
    return array("d")


@dataclass
class Track:
    """Points in the order of their times: milliseconds, metres, radians."""

    at_ms: "array[float]" = field(default_factory=_empty)
    x_m: "array[float]" = field(default_factory=_empty)
    y_m: "array[float]" = field(default_factory=_empty)
    heading_rad: "array[float]" = field(default_factory=_empty)

    def __len__(self) -> int:
        return len(self.at_ms)

    def add(self, at_ms: float, x_m: float, y_m: float, heading_rad: float = 0.0) -> None:
        """Add a point; one that is no later than the last is left out."""
        if self.at_ms and at_ms <= self.at_ms[-1]:
            return
        for column, value in zip(
            (self.at_ms, self.x_m, self.y_m, self.heading_rad),
            (at_ms, x_m, y_m, heading_rad),
            strict=True,
        ):
            column.append(value)

    def within(self, start_ms: float, stop_ms: float) -> "Track":
        """The points of this time, both ends included."""
        low = bisect_right(self.at_ms, start_ms - 1e-9)
        high = bisect_right(self.at_ms, stop_ms)
        columns = (self.at_ms, self.x_m, self.y_m, self.heading_rad)
        return Track(*(column[low:high] for column in columns))

    def at(self, at_ms: float) -> tuple[float, float] | None:
        """Where it was, on the line between its neighbours in time; None where that is unknown."""
        high = bisect_right(self.at_ms, at_ms)
        if high == 0 or (high == len(self) and at_ms > self.at_ms[-1]):
            return None
        low, high = high - 1, min(high, len(self) - 1)
        span_ms = self.at_ms[high] - self.at_ms[low]
        if span_ms > GAP_MAX_MS:
            return None
        share = (at_ms - self.at_ms[low]) / span_ms if span_ms else 0.0
        x, y = self.x_m, self.y_m
        return x[low] + share * (x[high] - x[low]), y[low] + share * (y[high] - y[low])

    def length_m(self) -> float:
        """The way from the first point to the last."""
        places = list(zip(self.x_m, self.y_m, strict=True))
        return sum(math.dist(a, b) for a, b in pairwise(places))


@dataclass
class Errors:
    """Squared distances, summed up over several tracks."""

    squares: float = 0.0
    count: int = 0

    def add(self, track: Track, truth: Track) -> None:
        """Hold each point of a track against the truth at its time."""
        for at_ms, x_m, y_m in zip(track.at_ms, track.x_m, track.y_m, strict=True):
            true = truth.at(at_ms)
            if true is not None:
                self.squares += (x_m - true[0]) ** 2 + (y_m - true[1]) ** 2
                self.count += 1

    @property
    def rmse_m(self) -> float | None:
        """Root mean square of the distances; None where nothing could be compared."""
        return math.sqrt(self.squares / self.count) if self.count else None


def dead_reckoned(speeds: Track, truth: Track) -> Track:
    """The way by odometry alone, from the first true pose at or after which there is odometry.

    In `speeds`, x_m is the forward speed in m/s and y_m the yaw rate in rad/s. Between two readings
    both are taken as their mean, so each piece is an arc. Where readings are missing for longer
    than `GAP_MAX_MS`, it starts again from the truth.
    """
    track = Track()
    for piece in _pieces(speeds):
        part = _reckoned(piece, truth)
        columns = (part.at_ms, part.x_m, part.y_m, part.heading_rad)
        for point in zip(*columns, strict=True):
            track.add(*point)
    return track


def _pieces(track: Track) -> Iterator[Track]:
    """The parts of a track between its gaps."""
    begin = 0
    for i in range(1, len(track) + 1):
        if i == len(track) or track.at_ms[i] - track.at_ms[i - 1] > GAP_MAX_MS:
            yield track.within(track.at_ms[begin], track.at_ms[i - 1])
            begin = i


def _reckoned(speeds: Track, truth: Track) -> Track:
    track = Track()
    begin = next(
        (i for i, at in enumerate(speeds.at_ms) if len(truth) and at >= truth.at_ms[0]), None
    )
    if begin is None:
        return track
    place = truth.at(speeds.at_ms[begin])
    if place is None:
        return track
    nearest = bisect_right(truth.at_ms, speeds.at_ms[begin]) - 1
    (x_m, y_m), heading = place, truth.heading_rad[nearest]
    track.add(speeds.at_ms[begin], x_m, y_m, heading)
    for i in range(begin + 1, len(speeds)):
        dt_s = (speeds.at_ms[i] - speeds.at_ms[i - 1]) / 1000
        way_m = dt_s * (speeds.x_m[i] + speeds.x_m[i - 1]) / 2
        turn = dt_s * (speeds.y_m[i] + speeds.y_m[i - 1]) / 2
        # The chord of an arc lies half of its turn off the first heading.
        chord = way_m * (math.sin(turn / 2) / (turn / 2) if abs(turn) > 1e-9 else 1.0)
        x_m += chord * math.cos(heading + turn / 2)
        y_m += chord * math.sin(heading + turn / 2)
        heading += turn
        track.add(speeds.at_ms[i], x_m, y_m, heading)
    return track
