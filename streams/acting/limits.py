"""What a set-point becomes before the hardware gets it: range, rate, mode, and the way to rest."""

from collections.abc import Iterator, Sequence

from schemas.robots import DriverSpec, SetPointField

_MPS = "_mps"


class Limits:
    """The limits of one driver; remembers what it let through last, from which rates count."""

    def __init__(self, driver: DriverSpec, degraded_factor: float, brake_mps2: float) -> None:
        self._fields, self._rest = driver.set_point, list(driver.rest)
        self._degraded, self._brake_mps2 = degraded_factor, brake_mps2
        self.last = list(driver.rest)

    @property
    def at_rest(self) -> bool:
        """Whether the last set-point was the one that stops the robot."""
        return self.last == self._rest

    def fits(self, set_point: Sequence[float]) -> bool:
        """Whether it has as many numbers as the driver takes."""
        return len(set_point) == len(self._fields)

    def towards(
        self, set_point: Sequence[float], dt_s: float, degraded: bool
    ) -> tuple[list[float], list[str]]:
        """The nearest that is allowed now, and the limits that changed it: `v_mps:range`, …"""
        named: list[str] = []
        values = []
        parts = zip(self._fields, set_point, self._rest, self.last, strict=True)
        for field, wanted, rest, last in parts:
            value = wanted
            for name, low, high in self._bounds(field, rest, last, dt_s, degraded):
                if not low <= value <= high:
                    value = min(max(value, low), high)
                    named.append(f"{field.name}:{name}")
            values.append(value)
        self.last = values
        return list(values), named

    def _bounds(
        self, field: SetPointField, rest: float, last: float, dt_s: float, degraded: bool
    ) -> Iterator[tuple[str, float, float]]:
        yield "range", field.low, field.high
        if degraded:
            low, high = field.low - rest, field.high - rest
            yield "degraded", rest + self._degraded * low, rest + self._degraded * high
        if field.rate_max is not None:
            step = field.rate_max * dt_s
            yield "rate", last - step, last + step

    def brake(self, dt_s: float) -> list[float]:
        """One period on the way to rest.

        A speed in m/s falls by `brake_mps2`, whatever its own rate, and the others fall with it, so
        that the robot stays on its curve; where it does not drive, by their own rates, or at once.
        """
        share = self._share_left(dt_s)
        parts = zip(self._fields, self._rest, self.last, strict=True)
        if share is None:
            self.last = [self._nearer(field, rest, last, dt_s) for field, rest, last in parts]
        else:
            self.last = [rest + share * (last - rest) for _, rest, last in parts]
        return list(self.last)

    def _share_left(self, dt_s: float) -> float | None:
        """What is left of the speed after a period; None where the robot does not drive."""
        parts = zip(self._fields, self._rest, self.last, strict=True)
        speeds = [abs(last - rest) for field, rest, last in parts if field.name.endswith(_MPS)]
        fastest = max(speeds, default=0.0)
        return max(0.0, 1 - self._brake_mps2 * dt_s / fastest) if fastest > 0 else None

    def _nearer(self, field: SetPointField, rest: float, last: float, dt_s: float) -> float:
        if field.rate_max is None:
            return rest
        step = field.rate_max * dt_s
        return min(max(rest, last - step), last + step)
