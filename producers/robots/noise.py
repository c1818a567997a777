"""What is wrong with a simulated sensor: seeded noise, bias and dropouts, the same at every run.

Random numbers are counter-based: BLAKE2b of (seed, robot, channel) and of the reading's number. So
no reading depends on what else was measured, on other robots, or on the order of calls.
"""

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence

from schemas.worlds import Sensor

_BLOCK = struct.Struct("<8Q")


class SensorError(ValueError):
    """A sensor's numbers do not fit its values; says which."""


class Draws:
    """Random numbers of one channel of one robot, by the number of what they are for."""

    def __init__(self, *key: object) -> None:
        self._start = hashlib.blake2b("/".join(map(str, key)).encode() + b"/")

    def uniforms(self, number: int) -> Iterator[float]:
        """As many uniform numbers in (0, 1) as one likes, for this number."""
        for block in range(1 << 16):
            hashed = self._start.copy()
            hashed.update(number.to_bytes(8, "little") + block.to_bytes(2, "little"))
            for word in _BLOCK.unpack(hashed.digest()):
                yield ((word >> 11) + 0.5) * 2.0**-53

    def normals(self, number: int) -> Iterator[float]:
        """The same, normally distributed (Box and Muller, 1958, equation 1)."""
        draw = self.uniforms(number)
        for u in draw:
            radius, angle = math.sqrt(-2 * math.log(u)), 2 * math.pi * next(draw)
            yield radius * math.cos(angle)
            yield radius * math.sin(angle)


class Errors:
    """What a sensor makes of true values; raises `SensorError`."""

    def __init__(self, sensor: Sensor, size: int, *key: object) -> None:
        self._std = _each(sensor.std, size, key, "std")
        self._bias = _each(sensor.bias, size, key, "bias")
        self._bias_std = _each(sensor.bias_std, size, key, "bias_std")
        self._dropout = sensor.dropout
        self._noise, self._drops = Draws(*key, "noise"), Draws(*key, "dropout")
        self._biases, self._drawn = Draws(*key, "bias"), dict[int, list[float]]()

    def dropped(self, seq: int) -> bool:
        """Whether this reading never arrives."""
        return self._dropout > 0 and next(self._drops.uniforms(seq)) < self._dropout

    def measured(self, seq: int, values: Sequence[float], source: int = 0) -> list[float]:
        """The values of this reading with noise and bias; each `source` has biases of its own."""
        noise, biases = self._noise.normals(seq), self._bias_of(source)
        return [
            value + bias + (std * next(noise) if std else 0.0)
            for value, bias, std in zip(values, biases, self._std, strict=True)
        ]

    def _bias_of(self, source: int) -> list[float]:
        if source not in self._drawn:
            draw = self._biases.normals(source)
            pairs = zip(self._bias, self._bias_std, strict=True)
            self._drawn[source] = [bias + std * next(draw) for bias, std in pairs]
        return self._drawn[source]


def _each(numbers: Sequence[float], size: int, key: Sequence[object], what: str) -> list[float]:
    spread = list(numbers) * size if len(numbers) == 1 else list(numbers) or [0.0] * size
    if len(spread) != size:
        where = ".".join(map(str, key[1:]))
        raise SensorError(f"{where}.{what}: {len(numbers)} numbers for {size} values")
    return spread
