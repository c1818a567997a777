"""What safety watches on the robot itself: each watch is fed readings and says what alarms it.

None needs the broker, the fusion or a clock of its own: times are the robot's, as everywhere here.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from schemas.acting import Reading
from schemas.robots import ChannelKind, ChannelSpec, DriverSpec
from schemas.safety import Geofence, SafetySpec
from streams.acting.safety import Alarm

_GRAVITY_TAU_MS = 200.0
"""Time constant over which specific force is taken for the direction of gravity."""
PERIODS_MIN = 6
"""A slow channel may be silent so many of its periods: losing a few readings is no failure."""


class WatchError(ValueError):
    """The robot's file asks for a watch that its driver has no channel for."""


class Watch(Protocol):
    """Watches some channels of a robot."""

    def feed(self, kind: ChannelKind, reading: Reading) -> None:
        """Take in one reading."""
        ...

    def alarms(self, now_ms: float) -> Iterator[Alarm]:
        """What alarms it now."""
        ...


class Streak:
    """Says yes when the last `least` readings in a row all did: one outlier stops no robot."""

    def __init__(self, least: int) -> None:
        self._least, self._count = least, 0

    def saw(self, breach: bool) -> None:
        """Take in what one reading says."""
        self._count = self._count + 1 if breach else 0

    def __bool__(self) -> bool:
        return self._count >= self._least


class Staleness:
    """Sources by the age of their newest reading; one that never came ages from the first look."""

    def __init__(self, limits_ms: dict[str, float]) -> None:
        self._limits_ms = limits_ms
        self._newest_ms: dict[str, float] = {}
        self._began_ms: float | None = None

    def feed(self, kind: ChannelKind, reading: Reading) -> None:
        """Remember when this channel was last measured."""
        if reading.channel in self._limits_ms and reading.values:
            newest_ms = self._newest_ms.get(reading.channel, -math.inf)
            self._newest_ms[reading.channel] = max(newest_ms, reading.stamp_ms)

    def alarms(self, now_ms: float) -> Iterator[Alarm]:
        """HOLD for each channel that has been silent for too long."""
        if self._began_ms is None:
            self._began_ms = now_ms
        for channel, limit_ms in self._limits_ms.items():
            age_ms = now_ms - self._newest_ms.get(channel, self._began_ms)
            if age_ms > limit_ms:
                detail = f"{channel} is {age_ms:.0f} ms old, {limit_ms:.0f} ms is the limit"
                yield Alarm("HOLD", "stale-source", detail, channel)


class Obstacles:
    """The nearest distance of the scans; a negative one is a ray that hit nothing."""

    def __init__(self, spec: SafetySpec) -> None:
        self._slow_m, self._stop_m = spec.obstacle_slow_m or 0.0, spec.obstacle_stop_m or 0.0
        self._near, self._too_near = Streak(spec.readings_min), Streak(spec.readings_min)
        self._nearest_m = math.inf

    def feed(self, kind: ChannelKind, reading: Reading) -> None:
        """Take in a scan."""
        if kind == "scan" and reading.values:
            self._nearest_m = min((v for v in reading.values if v >= 0), default=math.inf)
            self._near.saw(self._nearest_m < self._slow_m)
            self._too_near.saw(self._nearest_m < self._stop_m)

    def alarms(self, now_ms: float) -> Iterator[Alarm]:
        """HOLD when too near, DEGRADED when near."""
        if self._too_near:
            detail = f"{self._nearest_m:.2f} m, stop below {self._stop_m:g} m"
            yield Alarm("HOLD", "obstacle", detail)
        elif self._near:
            detail = f"{self._nearest_m:.2f} m, slow below {self._slow_m:g} m"
            yield Alarm("DEGRADED", "obstacle", detail)


class Fence:
    """How far inside the fence the robot is for certain: by its last fix and the way since.

    The way is the integral of the odometry's speed, whatever its direction: so no heading is
    needed, and a fix that stays away shrinks what is certain.
    """

    def __init__(self, fence: Geofence, least: int) -> None:
        self._fence = fence
        self._outside = Streak(least)
        self._inside_m: float | None = None
        self._fix_ms = 0.0
        self._path: deque[tuple[float, float]] = deque()
        """Times and the way gone until then, from the fix on; a stale fix bounds it."""

    def feed(self, kind: ChannelKind, reading: Reading) -> None:
        """Take in a fix or a speed."""
        if kind in ("position", "pose") and reading.stamp_ms >= self._fix_ms:
            self._fix_ms = reading.stamp_ms
            self._inside_m = self._depth_m(reading.values)
            self._outside.saw(self._inside_m < 0)
            while len(self._path) > 1 and self._path[1][0] <= self._fix_ms:
                self._path.popleft()
        elif kind == "odometry":
            self._go(reading)

    def _depth_m(self, at: Sequence[float]) -> float:
        """From a point to the nearest edge; negative outside."""
        sides = zip(at[:2], self._fence.low, self._fence.high, strict=True)
        return min(min(v - low, high - v) for v, low, high in sides)

    def _go(self, reading: Reading) -> None:
        last_ms, gone_m = self._path[-1] if self._path else (reading.stamp_ms, 0.0)
        if reading.stamp_ms < last_ms:
            return
        speed_mps = math.hypot(*_linear(reading.values))
        gone_m += speed_mps * (reading.stamp_ms - last_ms) / 1000
        self._path.append((reading.stamp_ms, gone_m))

    def _gone_m(self) -> float:
        """The way since the fix was measured."""
        return self._path[-1][1] - self._path[0][1] if self._path else 0.0

    def alarms(self, now_ms: float) -> Iterator[Alarm]:
        """SAFE_STOP outside, HOLD where it may be, DEGRADED where it may be in the margin."""
        if self._inside_m is None:
            return
        certain_m = self._inside_m - self._gone_m()
        if self._outside:
            yield Alarm("SAFE_STOP", "geofence", f"{-self._inside_m:.2f} m outside")
        elif self._inside_m >= 0 > certain_m:
            detail = f"may be {-certain_m:.2f} m outside: no fix for {self._gone_m():.2f} m"
            yield Alarm("HOLD", "geofence", detail)
        elif certain_m < self._fence.margin_m:
            yield Alarm("DEGRADED", "geofence", f"{certain_m:.2f} m from the edge")


def _linear(values: Sequence[float]) -> Sequence[float]:
    """The linear part of an odometry reading: one number in the plane, three in space."""
    return values[:3] if len(values) >= 6 else values[:1]


class Tilt:
    """The angle between the body's z axis and the vertical, by orientation or by gravity."""

    def __init__(self, limit_rad: float, least: int) -> None:
        self._limit_rad, self._over = limit_rad, Streak(least)
        self._tilt_rad = 0.0
        self._force = (0.0, 0.0, 0.0)
        self._stamp_ms: float | None = None

    def feed(self, kind: ChannelKind, reading: Reading) -> None:
        """Take in what an IMU measured."""
        if kind != "imu" or len(reading.values) < 6:
            return
        by_orientation = len(reading.values) >= 10
        self._tilt_rad = self._oriented(reading) if by_orientation else self._by_gravity(reading)
        self._over.saw(self._tilt_rad > self._limit_rad)

    def _oriented(self, reading: Reading) -> float:
        _, x, y, _ = reading.values[6:10]
        return math.acos(max(-1.0, min(1.0, 1 - 2 * (x * x + y * y))))

    def _by_gravity(self, reading: Reading) -> float:
        force = reading.values[3:6]
        if self._stamp_ms is None:
            share = 1.0
        else:
            since_ms = max(0.0, reading.stamp_ms - self._stamp_ms)
            share = since_ms / (since_ms + _GRAVITY_TAU_MS)
        self._stamp_ms = reading.stamp_ms
        x, y, z = (a + share * (b - a) for a, b in zip(self._force, force, strict=True))
        self._force = (x, y, z)
        return math.atan2(math.hypot(x, y), z)

    def alarms(self, now_ms: float) -> Iterator[Alarm]:
        """SAFE_STOP when it leans too far."""
        if self._over:
            detail = f"{self._tilt_rad:.2f} rad, the limit is {self._limit_rad:g}"
            yield Alarm("SAFE_STOP", "tilt", detail)


Wanted = tuple[str, Watch, tuple[ChannelKind, ...]]


def watches(spec: SafetySpec, driver: DriverSpec) -> list[Watch]:
    """The watches that a robot's file asks for; raises `WatchError` where a channel is missing."""
    limits_s = stale_limits_s(spec, driver)
    staleness = Staleness({name: spec.scaled_ms(s) for name, s in limits_s.items()})
    return [staleness, *(watch for _, watch, _ in _wanted(spec))]


def stale_limits_s(spec: SafetySpec, driver: DriverSpec) -> dict[str, float]:
    """How long each watched channel may be silent, before `load`; raises `WatchError`."""
    for named in spec.stale_hold_s:
        _known(driver, named)
    needed = [c for name, _, kinds in _wanted(spec) for c in _sources(driver, name, kinds)]
    if spec.geofence is not None:
        needed += [channel for channel in driver.channels if channel.kind == "odometry"]
    limits_s = {c.name: max(spec.stale_default_s, PERIODS_MIN / c.rate_hz) for c in needed}
    return limits_s | spec.stale_hold_s


def _wanted(spec: SafetySpec) -> Iterator[Wanted]:
    if spec.obstacle_slow_m is not None or spec.obstacle_stop_m is not None:
        yield "obstacle", Obstacles(spec), ("scan",)
    if spec.geofence is not None:
        yield "geofence", Fence(spec.geofence, spec.readings_min), ("position", "pose")
    if spec.tilt_stop_rad is not None:
        yield "tilt", Tilt(spec.tilt_stop_rad, spec.readings_min), ("imu",)


def _known(driver: DriverSpec, name: str) -> None:
    if name not in (known := [channel.name for channel in driver.channels]):
        raise WatchError(
            f"safety.stale_hold_s: driver {driver.name} has no channel {name!r}; it has "
            + ", ".join(known)
        )


def _sources(driver: DriverSpec, name: str, kinds: Iterable[ChannelKind]) -> list[ChannelSpec]:
    found = [channel for channel in driver.channels if channel.kind in set(kinds)]
    if not found:
        raise WatchError(
            f"safety: the {name} watch needs a channel of kind {' or '.join(kinds)}, and driver "
            f"{driver.name} has none: a watch without a source would be a stop for ever"
        )
    return found
