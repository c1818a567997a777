"""Ranges to known beacons, each with a bias of its own where the filter estimates one.

Ultra-wideband ranges carry a bias that depends on the antenna and the way to it, metres at times:
without a state for it a filter is worse than odometry alone.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from schemas.fusion import FusedChannel, FusionSpec
from streams.acting.fusion.model import Array, Belief, FusionError, Innovation, Sensor, Values, stds

NEAREST_M = 1e-6
"""At the beacon itself a range has no direction."""


class Beacons:
    """Where the beacons are (`dimensions` coordinates each) and which have a bias state."""

    def __init__(self, spec: FusionSpec, dimensions: int) -> None:
        self._places = {
            _number(key): _place(key, place, dimensions) for key, place in spec.beacons.items()
        }
        self.bias_std_m = spec.beacon_bias_std_m
        biased = sorted(self._places) if spec.beacon_bias_std_m is not None else []
        self._bias_at = {number: k for k, number in enumerate(biased)}
        self.names = tuple(f"range_bias_m@{number}" for number in biased)

    def sensor(
        self, name: str, channel: FusedChannel, size: int, biases: Mapping[str, int]
    ) -> Sensor:
        """A sensor of ranges: values are a beacon's number and the distance to it.

        `size` is of the error state, in which the position comes first; `biases` says where in
        the mean each bias begins ("mean") and where in the error ("error").
        """
        if channel.mask is not None:
            raise FusionError(f"fusion.channels.{name}.mask: a range has one value, no mask")
        if not self._places:
            raise FusionError(f"fusion.channels.{name} needs fusion.beacons: where each beacon is")
        noise = np.array([[stds(name, channel, len(channel.std) or 1)[-1] ** 2]])

        def observe(belief: Belief, values: Values) -> Innovation:
            number = int(values[0])
            place, mean = self._places[number], belief.mean
            apart = [float(mean[k]) - coordinate for k, coordinate in enumerate(place)]
            distance_m = max(math.hypot(*apart), NEAREST_M)
            jacobian = np.zeros((1, size))
            jacobian[0, : len(place)] = [part / distance_m for part in apart]
            bend, spread = _curvature(belief.covariance, jacobian[0, : len(place)], distance_m)
            expected_m = distance_m + bend
            if (bias := self._bias_at.get(number)) is not None:
                jacobian[0, biases["error"] + bias] = 1.0
                expected_m += float(mean[biases["mean"] + bias])
            return Innovation(np.array([values[1] - expected_m]), jacobian, noise + spread)

        return Sensor(observe, self._refuse)

    def _refuse(self, values: Values) -> str | None:
        if len(values) != 2:
            return f"{len(values)} values, expected 2: the beacon's number and the distance"
        if values[0] in self._places:
            return None
        return f"beacon {values[0]:g} is not among fusion.beacons ({', '.join(self._listed())})"

    def _listed(self) -> list[str]:
        return [str(number) for number in sorted(self._places)]


def _curvature(covariance: Array, ahead: Array, distance_m: float) -> tuple[float, float]:
    """What the first order leaves out: how much longer the distance is at a mean, and its variance.

    The second-order filter (Jazwinski, Stochastic Processes and Filtering Theory, 1970, section
    9.3): tr(HP)/2 and tr(HPHP)/2, where H = (I - uuᵀ)/d is the distance's curvature. Both vanish
    as the position becomes sure; without them a few ranges make a filter sure of a wrong place.
    """
    place = covariance[: len(ahead), : len(ahead)]
    along = place @ ahead
    variance = float(ahead @ along)
    bent = float(place.trace()) - variance
    squared = float(np.vdot(place, place)) - 2 * float(along @ along) + variance * variance
    return bent / (2 * distance_m), squared / (2 * distance_m * distance_m)


def _number(key: str) -> int:
    try:
        return int(key)
    except ValueError:
        raise FusionError(f"fusion.beacons: `{key}` is no beacon's number") from None


def _place(key: str, place: Sequence[float], dimensions: int) -> tuple[float, ...]:
    if not 2 <= len(place) <= 3:
        raise FusionError(
            f"fusion.beacons.{key} has {len(place)} coordinates: give x, y or x, y, z"
        )
    return (*place, 0.0)[:dimensions]
