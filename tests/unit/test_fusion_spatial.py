"""The spatial filter against numbers made otherwise: by derivatives, filterpy, gtsam, scipy."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gtsam
import numpy as np
import pytest
from filterpy.kalman import ExtendedKalmanFilter
from fusion_world import frame, reading
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from schemas.acting import FusedState, Reading
from schemas.fusion import FusedChannel, FusionSpec
from streams.acting.fusion import FusionError, fuse, rotation
from streams.acting.fusion.filter import Filter
from streams.acting.fusion.model import Belief
from streams.acting.fusion.spatial import Spatial

GRAVITY = np.array([0.0, 0.0, -9.80665])
BEACONS = {"1": [20.0, 0.0, 3.0], "2": [0.0, 20.0, 5.0]}
GYRO_BIAS, ACCEL_BIAS = np.array([0.02, -0.01, 0.015]), np.array([0.1, 0.05, -0.08])
RANGE_BIAS_M = {1: 0.5, 2: -0.3}
DT_S = 0.01

SPEC = FusionSpec(
    filter="spatial",
    channels={
        "imu": FusedChannel(kind="imu", std=[0.05]),
        "position": FusedChannel(kind="position", std=[0.2, 0.2, 0.3]),
        "velocity": FusedChannel(
            kind="odometry", std=[0.1] * 3 + [0.02] * 3, mask=[True, True, False] + [True] * 3
        ),
        "pose": FusedChannel(kind="pose", std=[0.3] * 3 + [0.05, 0.06, 0.07]),
        "heading": FusedChannel(kind="heading", std=[0.05]),
        "range": FusedChannel(kind="range", std=[0.15]),
    },
    process_std={
        "velocity_mps": 0.05,
        "orientation_rad": 0.01,
        "gyro_bias_radps": 0.001,
        "accel_bias_mps2": 0.01,
        "range_bias_m": 0.01,
    },
    initial_std={
        "position_m": 0.3,
        "velocity_mps": 0.3,
        "orientation_rad": 0.05,
        "gyro_bias_radps": 0.03,
        "accel_bias_mps2": 0.2,
    },
    beacons=BEACONS,
    beacon_bias_std_m=0.5,
)


def place(t: float) -> np.ndarray:
    return np.array([5 * math.sin(0.7 * t), 4 * math.cos(0.5 * t), math.sin(0.9 * t)])


def attitude(t: float) -> Rotation:
    euler = [0.3 * math.sin(0.8 * t), 0.2 * math.cos(t), 0.6 * t]
    return Rotation.from_euler("ZYX", euler[::-1])


def velocity(t: float, step: float = 1e-4) -> np.ndarray:
    return (place(t + step) - place(t - step)) / (2 * step)


def inertial(t: float, step: float = 1e-4) -> np.ndarray:
    """What a perfect IMU measures there: turn rate and specific force, in the body's axes."""
    turned = (attitude(t - step).inv() * attitude(t + step)).as_rotvec() / (2 * step)
    pull = (place(t + step) - 2 * place(t) + place(t - step)) / step**2 - GRAVITY
    return np.concatenate((turned, attitude(t).inv().apply(pull)))


def measured(k: int, random: np.random.Generator) -> Iterator[tuple[str, list[float]]]:
    """The readings of step k, noise and biases included."""
    t = k * DT_S
    turn = attitude(t)
    biased = inertial(t) + np.concatenate((GYRO_BIAS, ACCEL_BIAS))
    yield "imu", (biased + random.normal(size=6) * 0.01).tolist()
    if k % 10 == 0:
        yield "position", (place(t) + random.normal(size=3) * [0.2, 0.2, 0.3]).tolist()
    if k % 10 == 3:
        body = np.concatenate((turn.inv().apply(velocity(t)), inertial(t)[:3]))
        yield "velocity", (body + random.normal(size=6) * ([0.1] * 3 + [0.02] * 3)).tolist()
    if k % 10 == 5:
        noisy = turn * Rotation.from_rotvec(random.normal(size=3) * [0.05, 0.06, 0.07])
        somewhere = (place(t) + random.normal(size=3) * 0.3).tolist()
        yield "pose", somewhere + noisy.as_quat(scalar_first=True).tolist()
    if k % 10 == 6:
        yield "heading", [turn.as_euler("ZYX")[0] + 0.05 * random.normal()]
    if k % 10 == 8:
        number = 1 + k // 10 % 2
        distance = np.linalg.norm(place(t) - BEACONS[str(number)]) + RANGE_BIAS_M[number]
        yield "range", [float(number), float(distance + 0.15 * random.normal())]


def flight(steps: int, seed: int = 0) -> list[Reading]:
    random = np.random.default_rng(seed)
    seqs = dict.fromkeys(SPEC.channels, 0)
    readings = []
    for k in range(steps):
        for channel, values in measured(k, random):
            readings.append(reading(channel, seqs[channel], 1000 * DT_S * k, *values))
            seqs[channel] += 1
    return sorted(readings, key=lambda r: (r.stamp_ms, r.channel))


def started(spec: FusionSpec, seed: int = 0) -> FusionSpec:
    """Begins near the truth, as far off as it says it may be."""
    random = np.random.default_rng(seed + 1000)
    off = Rotation.from_rotvec(random.normal(size=3) * 0.05)
    yaw, pitch, roll = (attitude(0.0) * off).as_euler("ZYX")
    x, v = place(0.0) + 0.3 * random.normal(size=3), velocity(0.0) + 0.3 * random.normal(size=3)
    names = ("x_m", "y_m", "z_m", "vx_mps", "vy_mps", "vz_mps", "roll_rad", "pitch_rad", "yaw_rad")
    mean = dict(zip(names, [*x, *v, roll, pitch, yaw], strict=True))
    return spec.model_copy(update={"initial_mean": mean})


def fused(readings: Sequence[Reading], spec: FusionSpec) -> list[FusedState]:
    return list(fuse((frame(k, r.stamp_ms, [r]) for k, r in enumerate(readings)), spec))


def errors(state: FusedState) -> np.ndarray:
    """Truth less estimate: of all components, the orientation's about the body's axes."""
    t = state.stamp_ms / 1000
    believed = Rotation.from_euler("ZYX", state.mean[8:5:-1])
    turned = (believed.inv() * attitude(t)).as_rotvec()
    truth = np.concatenate((place(t), velocity(t), np.zeros(3), GYRO_BIAS, ACCEL_BIAS))
    apart = np.concatenate((truth, list(RANGE_BIAS_M.values()))) - state.mean
    apart[6:9] = turned
    return apart


def covariance(state: FusedState) -> np.ndarray:
    size = len(state.names)
    full = np.zeros((size, size))
    full[np.triu_indices(size)] = state.covariance
    return full + np.triu(full, 1).T


# The independent filter: filterpy, a rotation vector for the orientation, numeric derivatives.

Function = Callable[[np.ndarray], np.ndarray]


def derivative(of: Function, at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    steps = np.eye(len(at)) * step
    return np.stack([(of(at + by) - of(at - by)) / (2 * step) for by in steps], axis=1)


def moved(x: np.ndarray, noise: np.ndarray, imu: np.ndarray, dt_s: float) -> np.ndarray:
    """Position, velocity, rotation vector, gyro bias, accel bias, range biases after a step."""
    turn = Rotation.from_rotvec(x[6:9])
    rate, force = imu[:3] - x[9:12], imu[3:] - x[12:15]
    pull = (turn * Rotation.from_rotvec(rate * dt_s / 2)).apply(force) + GRAVITY
    after = x.copy()
    after[:3] += x[3:6] * dt_s + pull * dt_s**2 / 2
    after[3:6] += pull * dt_s
    after[6:9] = (
        turn * Rotation.from_rotvec(rate * dt_s) * Rotation.from_rotvec(noise[6:9])
    ).as_rotvec()
    rest = noise.copy()
    rest[6:9] = 0
    return after + rest


def residual(channel: str, values: np.ndarray, x: np.ndarray, imu: np.ndarray) -> np.ndarray:
    turn = Rotation.from_rotvec(x[6:9])
    if channel == "position":
        return values - x[:3]
    if channel == "velocity":
        expected = np.concatenate((turn.inv().apply(x[3:6]), imu[:3] - x[9:12]))
        return (values - expected)[[0, 1, 3, 4, 5]]
    if channel == "pose":
        rotated = turn.inv() * Rotation.from_quat(values[3:], scalar_first=True)
        return np.concatenate((values[:3] - x[:3], rotated.as_rotvec()))
    if channel == "heading":
        ahead = turn.apply([1.0, 0.0, 0.0])
        return np.array([math.remainder(values[0] - math.atan2(ahead[1], ahead[0]), math.tau)])
    number = int(values[0])
    distance = np.linalg.norm(x[:3] - BEACONS[str(number)]) + x[14 + number]
    return np.array([values[1] - distance])


NOISE = {
    "position": [0.2, 0.2, 0.3],
    "velocity": [0.1, 0.1, 0.02, 0.02, 0.02],
    "pose": [0.3, 0.3, 0.3, 0.05, 0.06, 0.07],
    "heading": [0.05],
    "range": [0.15],
}


class Independent(ExtendedKalmanFilter):  # type: ignore[misc]
    """filterpy's filter of the same motion; knows nothing of ours but the numbers of `SPEC`."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(dim_x=17, dim_z=1)
        m = spec.initial_mean
        turn = Rotation.from_euler("ZYX", [m["yaw_rad"], m["pitch_rad"], m["roll_rad"]])
        self.x = np.array([*list(m.values())[:6], *turn.as_rotvec(), *[0.0] * 8])
        self.P = np.diag(np.square([0.3] * 6 + [0.05] * 3 + [0.03] * 3 + [0.2] * 3 + [0.5] * 2))
        about = derivative(lambda d: (turn * Rotation.from_rotvec(d)).as_rotvec(), np.zeros(3))
        self.P[6:9, 6:9] = about @ self.P[6:9, 6:9] @ about.T
        walk = [0.0] * 3 + [0.05] * 3 + [0.01] * 3 + [0.001] * 3 + [0.01] * 3 + [0.01] * 2
        self._walk = np.diag(np.square(walk))

    def step(self, imu: np.ndarray, dt_s: float) -> None:
        zeros = np.zeros(17)
        self.F = derivative(lambda x: moved(x, zeros, imu, dt_s), self.x)
        self.P += self._noise(self.x) * dt_s / 2
        self._next = moved(self.x, zeros, imu, dt_s)
        self.Q = self._noise(self._next) * dt_s / 2
        self.predict()

    def _noise(self, x: np.ndarray) -> np.ndarray:
        by_noise = derivative(lambda w: moved(x, w, np.zeros(6), 0.0), np.zeros(17))
        return np.asarray(by_noise @ self._walk @ by_noise.T)

    def predict_x(self, u: Any = 0) -> None:
        self.x = self._next

    def see(self, channel: str, values: np.ndarray, imu: np.ndarray) -> None:
        apart = residual(channel, values, self.x, imu)
        jacobian = -derivative(lambda x: residual(channel, values, x, imu), self.x)
        noise = np.diag(np.square(NOISE[channel]))
        self.dim_z = len(apart)
        self.update(apart, lambda _: jacobian, lambda _: np.zeros(len(apart)), R=noise)


@pytest.mark.slow
def test_it_agrees_with_an_independent_filter() -> None:
    """A second of all channels: means within 5 % of a deviation, covariances within 3 %.

    They differ in how they parametrise the orientation, so by second-order terms.
    """
    spec = started(SPEC)
    other, imu, last_ms = Independent(spec), np.zeros(6), 0.0
    readings = flight(120)
    for r in readings:
        values = np.array(r.values)
        acting = (imu + values) / 2 if r.channel == "imu" else imu
        if r.stamp_ms > last_ms:
            other.step(acting, (r.stamp_ms - last_ms) / 1000)
        last_ms = r.stamp_ms
        if r.channel == "imu":
            imu = values
        else:
            other.see(r.channel, values, imu)
    state = fused(readings, spec)[-1]
    deviations = np.sqrt(np.diag(covariance(state)))
    apart = np.array(state.mean) - other.x
    believed = Rotation.from_euler("ZYX", state.mean[8:5:-1])
    apart[6:9] = (believed.inv() * Rotation.from_rotvec(other.x[6:9])).as_rotvec()
    assert np.abs(apart / deviations).max() < 0.05
    about = derivative(lambda d: (believed * Rotation.from_rotvec(d)).as_rotvec(), np.zeros(3))
    back = np.eye(17)
    back[6:9, 6:9] = np.linalg.inv(about)
    theirs = back @ other.P @ back.T
    scale = np.outer(deviations, deviations)
    assert np.abs((covariance(state) - theirs) / scale).max() < 0.03


def test_its_motion_is_gtsams_preintegration() -> None:
    """Three seconds by IMU alone from a known start, its biases known, beside gtsam's own."""
    spec = started(SPEC.model_copy(update={"channels": {"imu": SPEC.channels["imu"]}}))
    biases = ("gyro_bias_{}_radps", GYRO_BIAS), ("accel_bias_{}_mps2", ACCEL_BIAS)
    known = {name.format(a): b for name, bias in biases for a, b in zip("xyz", bias, strict=True)}
    spec = spec.model_copy(update={"initial_mean": spec.initial_mean | known})
    readings = [r for r in flight(300) if r.channel == "imu"]
    state = fused(readings, spec)[-1]
    m = spec.initial_mean
    turn = gtsam.Rot3.Ypr(m["yaw_rad"], m["pitch_rad"], m["roll_rad"])
    start = gtsam.NavState(turn, *np.array(list(m.values())[:6]).reshape(2, 3))
    bias = gtsam.imuBias.ConstantBias(ACCEL_BIAS, GYRO_BIAS)
    params = gtsam.PreintegrationParams.MakeSharedU(-GRAVITY[2])
    whole = gtsam.PreintegratedImuMeasurements(params, bias)
    for before, after in itertools.pairwise(readings):
        acting = (np.array(before.values) + after.values) / 2
        for _ in range(20):  # gtsam turns after each step, we in its midst
            whole.integrateMeasurement(acting[3:], acting[:3], DT_S / 20)
    end = whole.predict(start, bias)
    assert state.mean[:3] == pytest.approx(end.position(), abs=5e-3)
    assert state.mean[3:6] == pytest.approx(end.velocity(), abs=5e-3)
    yaw, pitch, roll = end.attitude().ypr()
    assert state.mean[6:9] == pytest.approx([roll, pitch, yaw], abs=1e-3)


@pytest.mark.slow
def test_it_knows_how_sure_it_is() -> None:
    """NEES of place, velocity and orientation at the end of 10 flights of 1.5 s, all different."""
    nees = []
    for seed in range(10):
        state = fused(flight(150, seed), started(SPEC, seed))[-1]
        apart = errors(state)
        if seed == 0:
            assert np.linalg.norm(apart[:3]) < 0.3
        # The biases are the same in each flight, not drawn from what is believed at first.
        unbiased = [*range(9)]
        block = covariance(state)[np.ix_(unbiased, unbiased)]
        nees.append(apart[unbiased] @ np.linalg.solve(block, apart[unbiased]))
    low, high = chi2.ppf([0.0005, 0.9995], 9 * len(nees)) / len(nees)
    assert low < np.mean(nees) < high


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_its_jacobian_is_the_derivative_of_its_motion(seed: int) -> None:
    random = np.random.default_rng(seed)
    model = Spatial(SPEC)
    mean = model.inward(random.normal(size=17).tolist())
    drive, later = (tuple(random.normal(size=6) * 3) for _ in range(2))

    def after(error: np.ndarray) -> np.ndarray:
        belief = Belief(0.0, model.move(mean, error), np.zeros((17, 17)), drive, 0.0)
        return model.advance(belief, 10.0, later).mean

    reached = after(np.zeros(17))

    def error_after(error: np.ndarray) -> np.ndarray:
        there = after(error)
        turned = rotation.product(rotation.inverse(reached[6:10]), there[6:10])
        return np.concatenate(
            (there[:6] - reached[:6], rotation.rotation_vector(turned), there[10:] - reached[10:])
        )

    numeric = derivative(error_after, np.zeros(17))
    spread = Belief(0.0, mean, np.eye(17), drive, 0.0)
    quiet = {"orientation_rad", "velocity_mps", "gyro_bias_radps", "accel_bias_mps2"}
    silent = SPEC.model_copy(update={"process_std": dict.fromkeys(quiet | {"range_bias_m"}, 0.0)})
    covariance_after = Spatial(silent).advance(spread, 10.0, later).covariance
    assert covariance_after == pytest.approx(numeric @ numeric.T, abs=2e-5)


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(-3, 3)] * 3), st.tuples(*[st.floats(-3, 3)] * 3))
def test_rotations_are_those_of_scipy(
    one: tuple[float, float, float], other: tuple[float, float, float]
) -> None:
    p, q = rotation.turn(*one), rotation.turn(*other)
    ours, theirs = (
        rotation.matrix(rotation.product(p, q)),
        (Rotation.from_rotvec(one) * Rotation.from_rotvec(other)),
    )
    assert ours == pytest.approx(theirs.as_matrix(), abs=1e-12)
    assert np.linalg.norm(rotation.rotation_vector(rotation.product(p, q))) == pytest.approx(
        theirs.magnitude(), abs=1e-7
    )
    assert rotation.matrix(rotation.from_euler(*rotation.to_euler(p))) == pytest.approx(
        Rotation.from_rotvec(one).as_matrix(), abs=1e-6
    )
    assert rotation.yaw_of(p) == pytest.approx(rotation.to_euler(p)[2])


def test_without_its_imu_it_keeps_its_velocity_and_grows_unsure() -> None:
    readings = flight(200)
    spec = started(SPEC)
    frames = [frame(k, r.stamp_ms, [r]) for k, r in enumerate(readings)]
    silent = [frame(len(frames) + k, 2000.0 + 100 * k) for k in range(1, 11)]
    states = list(fuse([*frames, *silent], spec))
    at, later = states[len(frames)], states[-1]
    assert later.channels["imu"].stale
    assert later.mean[3:9] == pytest.approx(at.mean[3:9], abs=0.2), "no turn, no acceleration"
    ahead = np.array(at.mean[:3]) + np.array(later.mean[3:6]) * 0.9
    assert later.mean[:3] == pytest.approx(ahead, abs=0.1)
    assert np.sqrt(covariance(later)[0, 0]) > np.sqrt(covariance(at)[0, 0]) + 0.5


def test_an_imu_that_knows_its_orientation_corrects_it() -> None:
    tilted = Rotation.from_euler("ZYX", [0.3, 0.05, -0.05])
    values = [0.0, 0.0, 0.0, *tilted.inv().apply(-GRAVITY), *tilted.as_quat(scalar_first=True)]
    still = [reading("imu", k, 10.0 * k, *map(float, values)) for k in range(50)]
    state = fused(still, SPEC)[-1]
    assert state.mean[6:9] == pytest.approx([-0.05, 0.05, 0.3], abs=0.03)
    masked = SPEC.channels["imu"].model_copy(update={"mask": [True] * 6 + [False] * 4})
    spec = SPEC.model_copy(update={"channels": {**SPEC.channels, "imu": masked}})
    assert fused(still, spec)[-1].mean[8] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(
    ("channel", "says"),
    [
        (FusedChannel(kind="imu", std=[1], mask=[True] * 5 + [False]), "only an orientation"),
        (FusedChannel(kind="imu", std=[1, 1]), "an IMU has 6 values, or 10"),
        (FusedChannel(kind="joints", std=[1]), "takes no `joints`"),
        (FusedChannel(kind="pose", std=[1] * 7), "std has 7 entries, a reading has 6"),
    ],
)
def test_a_channel_that_does_not_fit_says_why(channel: FusedChannel, says: str) -> None:
    with pytest.raises(FusionError, match=says):
        Filter(SPEC.model_copy(update={"channels": {"c": channel}}))
