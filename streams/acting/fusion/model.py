"""What a filter is made of: a belief, a motion model, and sensors that say what they expect."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.fusion import FusedChannel

Array = NDArray[np.float64]
Values = Sequence[float]

TURN = 2 * math.pi


class FusionError(ValueError):
    """The `fusion` part of a robot's file cannot work, or a recorded frame is none."""


class Belief(NamedTuple):
    """A normal distribution of the state at one time; `stamp_ms` is None before the first reading.

    `drive` is the newest reading that moves the model (an IMU's, of the spatial filter).
    """

    stamp_ms: float | None
    mean: Array
    covariance: Array
    drive: tuple[float, ...] = ()
    drive_ms: float = 0.0


class Innovation(NamedTuple):
    """What a reading says beyond what was expected: residual m, Jacobian m by n, noise m by m."""

    residual: Array
    jacobian: Array
    noise: Array


class Sensor(NamedTuple):
    """How a channel's readings enter a model.

    `observe` answers None where a reading has nothing to correct; `refuse` answers why a reading
    cannot be taken, or None; `drives` says that the model moves by its readings.
    """

    observe: Callable[[Belief, Values], Innovation | None]
    refuse: Callable[[Values], str | None]
    drives: bool = False


class Model(Protocol):
    """A motion model with its sensors; `names` are of the state's components, unit last."""

    names: tuple[str, ...]

    def start(self) -> Belief:
        """What is believed before the first reading."""
        ...

    def sensor(self, name: str, channel: FusedChannel) -> Sensor:
        """How this channel enters; raises `FusionError`."""
        ...

    def advance(self, belief: Belief, stamp_ms: float, drive: Values | None = None) -> Belief:
        """The belief at a later time; `drive` is the reading that moves the model and came then."""
        ...

    def move(self, mean: Array, by: Array) -> Array:
        """The mean corrected by an error; angles stay wrapped."""
        ...

    def outward(self, mean: Array) -> list[float]:
        """The mean as `names` lists it."""
        ...

    def inward(self, values: Values) -> Array:
        """The mean from what `outward` made of it."""
        ...


def spread(covariance: Array, jacobian: Array, noise: Array) -> Array:
    """The covariance after a step in which this noise came in.

    Half of it at the beginning and half at the end, the trapezoidal rule of the integral of F Q Fᵀ:
    so that what a step adds to a speed reaches the place, however long the step.
    """
    half = noise * 0.5
    after: Array = jacobian @ (covariance + half) @ jacobian.T
    after += half
    return after


def wrapped(angle_rad: float) -> float:
    """The same angle in [-π, π)."""
    return (angle_rad + math.pi) % TURN - math.pi


def length_check(*lengths: int) -> Callable[[Values], str | None]:
    """A `refuse` for readings with another number of values than these."""

    def refuse(values: Values) -> str | None:
        if len(values) in lengths:
            return None
        return f"{len(values)} values, expected {' or '.join(map(str, lengths))}"

    return refuse


def rows_used(name: str, channel: FusedChannel, count: int) -> list[int]:
    """Which of `count` values the mask leaves; raises `FusionError` where it leaves none."""
    mask = channel.mask if channel.mask is not None else [True] * count
    if len(mask) != count:
        raise FusionError(
            f"fusion.channels.{name}.mask has {len(mask)} entries, a reading has {count} values"
        )
    if not any(mask):
        raise FusionError(f"fusion.channels.{name}.mask leaves no value: make the channel `held`")
    return [row for row, used in enumerate(mask) if used]


def stds(name: str, channel: FusedChannel, count: int) -> list[float]:
    """The standard deviation of each of `count` values; raises `FusionError`."""
    std = channel.std * count if len(channel.std) == 1 else channel.std
    if len(std) != count:
        raise FusionError(
            f"fusion.channels.{name}.std has {len(std)} entries, a reading has {count} values: "
            "give one for each, or one for all"
        )
    if min(std) <= 0:
        raise FusionError(f"fusion.channels.{name}.std has an entry that is not above 0")
    return std


def imu_uses(name: str, channel: FusedChannel) -> tuple[set[int], list[float]]:
    """Which of an IMU's values to use, and their standard deviations; raises `FusionError`.

    Of an orientation, all or nothing: it is used where mask and std speak of ten values (or not at
    all, or of one), not where they speak of six.
    """
    mask, std = channel.mask or [True] * 10, channel.std
    if len(mask) not in (6, 10) or len(std) not in (1, 6, 10):
        raise FusionError(
            f"fusion.channels.{name}: an IMU has 6 values, or 10 with its orientation; mask has "
            f"{len(mask)} entries, std {len(std)}"
        )
    count = min(len(mask), 10 if len(std) == 1 else len(std))
    used = set(rows_used(name, channel.model_copy(update={"mask": mask[:count]}), count))
    return used, stds(name, channel, 10 if len(std) == 1 else len(std))


def by_name(
    where: str,
    given: Mapping[str, float],
    defaults: Mapping[str, float],
    groups: Mapping[str, Iterable[str]],
) -> dict[str, float]:
    """A number for each component: the defaults, overruled by group, overruled by name."""
    values = dict(defaults)
    for key in sorted(given, key=lambda key: key not in groups):
        if key not in groups and key not in defaults:
            known = ", ".join([*groups, *defaults])
            raise FusionError(f"fusion.{where} knows no `{key}`; it knows {known}")
        for name in groups.get(key, (key,)):
            values[name] = given[key]
    return values
