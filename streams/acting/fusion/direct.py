"""Sensors that measure components of the state themselves."""

from collections.abc import Collection, Sequence

import numpy as np

from schemas.fusion import FusedChannel
from streams.acting.fusion.model import (
    Array,
    Belief,
    Innovation,
    Sensor,
    Values,
    length_check,
    rows_used,
    stds,
    wrapped,
)


class Direct:
    """Reads some values of a reading as components of the state, angles by the short way."""

    def __init__(
        self,
        pairs: Sequence[tuple[int, int]],
        stds: Sequence[float],
        angles: Collection[int],
        size: int,
    ) -> None:
        self._triples = [(value, component, component in angles) for value, component in pairs]
        self._jacobian = np.zeros((len(pairs), size))
        for row, (_, component) in enumerate(pairs):
            self._jacobian[row, component] = 1.0
        self._noise = np.diag(np.square([stds[value] for value, _ in pairs]))

    def __call__(self, belief: Belief, values: Values) -> Innovation:
        """The innovation of a reading."""
        mean = belief.mean
        residual: Array = np.array(
            [
                wrapped(values[v] - mean[c]) if angle else values[v] - mean[c]
                for v, c, angle in self._triples
            ]
        )
        return Innovation(residual, self._jacobian, self._noise)


def direct_sensor(
    name: str,
    channel: FusedChannel,
    components: Sequence[int],
    size: int,
    angles: Collection[int] = (),
) -> Sensor:
    """A sensor whose values are these components, as the mask leaves them; raises `FusionError`."""
    count = len(components)
    pairs = [(row, components[row]) for row in rows_used(name, channel, count)]
    observe = Direct(pairs, stds(name, channel, count), angles, size)
    return Sensor(observe, length_check(count))
