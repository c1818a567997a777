"""How far fused positions are from the truth."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from schemas.acting import FusedState, SensorFrame
from streams.acting.fusion.model import Array


class Track(NamedTuple):
    """Positions over time: stamps n in milliseconds, places n by 2 or 3 in metres."""

    stamps_ms: Array
    places_m: Array


class Score(NamedTuple):
    """Root mean square and largest distance from the truth, over so many points."""

    rmse_m: float
    largest_m: float
    points: int


def track_of_states(states: Iterable[FusedState], dimensions: int = 2) -> Track:
    """Where a filter says the robot was: the first components are x, y (and z)."""
    return _track((state.stamp_ms, state.mean[:dimensions]) for state in states)


def track_of_channel(
    frames: Iterable[SensorFrame], channel: str = "truth", dimensions: int = 2
) -> Track:
    """Where a channel says the robot was: its first values are x, y (and z); sorted, once each."""
    return _track(
        (reading.stamp_ms, reading.values[:dimensions])
        for frame in frames
        for reading in frame.readings
        if reading.channel == channel
    )


def _track(points: Iterable[tuple[float, Sequence[float]]]) -> Track:
    newest = dict(points)
    stamps = sorted(newest)
    return Track(np.array(stamps), np.array([newest[stamp] for stamp in stamps], float))


def score(track: Track, truth: Track) -> Score:
    """The distance at each stamp of the truth that the track spans, by linear interpolation.

    Raises ValueError where they have no time in common.
    """
    if len(track.stamps_ms) == 0 or len(truth.stamps_ms) == 0:
        raise ValueError("no positions to score, or no truth to score them against")
    first, last = track.stamps_ms[0], track.stamps_ms[-1]
    spanned = (truth.stamps_ms >= first) & (truth.stamps_ms <= last)
    if not spanned.any():
        raise ValueError(f"no truth between {first:g} and {last:g} ms, where the positions are")
    at = truth.stamps_ms[spanned]
    places = np.stack([np.interp(at, track.stamps_ms, axis) for axis in track.places_m.T], axis=1)
    distances = np.linalg.norm(places - truth.places_m[spanned], axis=1)
    return Score(float(np.sqrt(np.mean(distances**2))), float(distances.max()), int(spanned.sum()))
