"""The filter itself: gates, giving in, masks, floors, and whether it knows how sure it is."""

import math
from typing import Any

import numpy as np
import pytest
from fusion_world import PLANAR, frame, reading
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from infra.cli.rover_frames import RANGE_BIAS_M, ROVER, rover_frames
from schemas.acting import FusedState, Reading
from schemas.fusion import FusedChannel, FusionSpec
from streams.acting.fusion import FusionError, fuse
from streams.acting.fusion.filter import Filter
from streams.acting.fusion.model import Innovation
from streams.acting.fusion.quantile import chi2_quantile
from streams.acting.fusion.update import VARIANCE_FLOOR, correct, given_in, weigh


def covariance(state: FusedState) -> np.ndarray:
    size = len(state.names)
    full = np.zeros((size, size))
    full[np.triu_indices(size)] = state.covariance
    return full + np.triu(full, 1).T


def final(spec: FusionSpec, readings: list[Reading]) -> FusedState:
    """The state after readings that come one a frame."""
    frames = [frame(k, r.stamp_ms, [r]) for k, r in enumerate(readings)]
    return list(fuse(frames, spec))[-1]


@pytest.mark.parametrize("degrees", range(1, 9))
@pytest.mark.parametrize("chance", [0.01, 0.5, 0.95, 0.99, 0.9999, 1 - 1e-12])
def test_quantiles_are_those_of_scipy(chance: float, degrees: int) -> None:
    assert chi2_quantile(chance, degrees) == pytest.approx(chi2.ppf(chance, degrees), rel=1e-4)


@pytest.mark.slow
def test_the_filter_knows_how_sure_it_is() -> None:
    """NIS of each channel and NEES of the state are chi-squared where model and motion agree.

    The two-sided 99.9 % bounds of the mean of n values of m degrees are chi2(n m) / n (Bar-Shalom,
    Li & Kirubarajan, Estimation with Applications to Tracking and Navigation, 2001, 5.4).
    """
    frames = list(rover_frames(3000, rate_hz=50.0, seed=3))
    *_, last = fuse(frames, ROVER)
    for channel, degrees in {"imu": 1, "odometry": 2, "position": 2, "range": 1}.items():
        health = last.channels[channel]
        count = health.applied * degrees
        low, high = chi2.ppf([0.0005, 0.9995], count) / health.applied
        assert health.nis_mean is not None
        assert low < health.nis_mean < high, f"{channel}: {low:.3f} to {high:.3f} expected"


@pytest.mark.slow
def test_its_errors_are_as_large_over_many_runs_as_its_covariance_says() -> None:
    """NEES of position, heading, speed and yaw rate at the end of 40 runs of 3 s."""
    errors = []
    for seed in range(40):
        frames = list(rover_frames(150, rate_hz=50.0, seed=100 + seed))
        *_, state = fuse(frames, ROVER)
        truth = next(r.values for r in frames[-1].readings if r.channel == "truth")
        apart = np.array(truth) - state.mean[:5]
        apart[2] = math.remainder(apart[2], 2 * math.pi)
        errors.append(apart @ np.linalg.solve(covariance(state)[:5, :5], apart))
    low, high = chi2.ppf([0.0005, 0.9995], 5 * len(errors)) / len(errors)
    assert low < np.mean(errors) < high


@pytest.mark.slow
def test_it_finds_the_bias_of_each_beacon() -> None:
    *_, state = fuse(rover_frames(3000, rate_hz=50.0, seed=5), ROVER)
    spread = np.sqrt(np.diag(covariance(state)))
    for number, bias_m in RANGE_BIAS_M.items():
        at = state.names.index(f"range_bias_m@{number}")
        assert state.mean[at] == pytest.approx(bias_m, abs=4 * spread[at])
        assert spread[at] < 0.05


@pytest.mark.slow
def test_without_bias_states_biased_ranges_lead_astray() -> None:
    frames = list(rover_frames(2000, rate_hz=50.0, seed=6))
    truth = np.array(
        [next(r.values[:2] for r in f.readings if r.channel == "truth") for f in frames]
    )
    channels = {name: ROVER.channels[name] for name in ("imu", "odometry", "range")}
    channels["range"] = channels["range"].model_copy(update={"gate": None})

    def rmse_m(bias_std_m: float | None) -> float:
        process = {k: v for k, v in ROVER.process_std.items() if k != "range_bias_m"}
        changed = {"channels": channels, "beacon_bias_std_m": bias_std_m, "process_std": process}
        states = list(fuse(frames, ROVER.model_copy(update=changed)))
        apart = np.array([s.mean[:2] for s in states]) - truth
        return float(np.sqrt(np.mean(np.sum(apart[200:] ** 2, axis=1))))

    assert rmse_m(0.5) < 0.7 * rmse_m(None)


def test_ranges_do_not_make_it_sure_of_a_wrong_place() -> None:
    """From somewhere in a yard, without a position: the error stays within what it says."""
    corners = {"1": [0.0, 0.0], "2": [12.0, 0.0], "3": [12.0, 12.0], "4": [0.0, 12.0]}
    spec = FusionSpec(
        channels={"range": FusedChannel(kind="range", std=[0.15])},
        beacons=corners,
        initial_mean={"x_m": 6.0, "y_m": 6.0},
        initial_std={"x_m": 4.0, "y_m": 4.0, "v_mps": 0.01, "yaw_rate_radps": 0.01},
    )
    places = [(10.6, 1.5), (1.5, 1.5), (10.5, 10.5), (2.0, 9.0), (6.0, 1.0), (11.0, 6.0)]
    for place in places:
        ranges = [
            reading("range", k, 50.0 * k, float(n), math.dist(place, corners[str(n)]))
            for k, n in enumerate([1, 2, 3, 4] * 2)
        ]
        state = final(spec, ranges)
        error = np.array(state.mean[:2]) - place
        nees = float(error @ np.linalg.inv(covariance(state)[:2, :2]) @ error)
        assert nees < chi2.ppf(0.99, 2), place


def positions(count: int, x: float, first: int = 0) -> list[Reading]:
    return [reading("position", k, 1000.0 + 100 * k, x, 0.0) for k in range(first, first + count)]


def test_what_is_outside_the_gate_is_not_applied() -> None:
    spec = PLANAR.model_copy(update={"process_std": {"v_mps": 0.01}})
    calm = positions(20, 0.0)
    state, with_outlier = final(spec, calm), final(spec, [*calm, *positions(1, 50.0, first=20)])
    health = with_outlier.channels["position"]
    assert (health.applied, health.rejected, health.alarms) == (20, 1, 0)
    assert health.nis is not None and health.nis > chi2_quantile(0.99, 2)
    assert with_outlier.mean[0] == pytest.approx(state.mean[0], abs=0.01)


def test_after_so_many_rejected_in_a_row_it_gives_in() -> None:
    """Carried away by 50 m: it alarms once, and is where the fixes say soon after."""
    spec = PLANAR.model_copy(update={"process_std": {"v_mps": 0.01}})
    carried = [*positions(20, 0.0), *positions(4, 50.0, first=20)]
    state = final(spec, carried)
    health = state.channels["position"]
    assert (health.rejected, health.alarms) == (4, 1)
    assert state.mean[0] == pytest.approx(0.0, abs=0.2), "what it rejects does not move it"
    assert math.sqrt(covariance(state)[0, 0]) > 50
    state = final(spec, [*carried, *positions(3, 50.0, first=24)])
    assert state.mean[0] == pytest.approx(50.0, abs=0.5)
    assert state.channels["position"].alarms == 1


def test_a_wrong_heading_is_found_by_giving_in_to_positions() -> None:
    """It is sure to drive east and drives north: alarms one after the other, then it knows."""
    stiff = {"heading_rad": 1e-5, "yaw_rate_radps": 0.001}
    spec = PLANAR.model_copy(update={"initial_std": {"heading_rad": 0.001}, "process_std": stiff})
    north = []
    for k in range(400):
        north.append(reading("odometry", k, 100.0 * k, 1.0, 0.0))
        north.append(reading("position", k, 100.0 * k, 0.0, 0.1 * k))
    state = final(spec, north)
    assert 0 < state.channels["position"].alarms < 10
    assert state.mean[:3] == pytest.approx([0.0, 39.9, math.pi / 2], abs=0.2)


def test_one_that_fits_ends_the_row() -> None:
    spec = PLANAR.model_copy(update={"process_std": {"v_mps": 0.01}})
    mixed = positions(20, 0.0)
    for k in range(20, 40):
        mixed += positions(1, 0.0 if k % 4 == 3 else 50.0, first=k)
    health = final(spec, mixed).channels["position"]
    assert (health.rejected, health.alarms) == (15, 0)


finite = st.floats(-1e3, 1e3)


@st.composite
def innovations(draw: st.DrawFn) -> tuple[np.ndarray, Innovation]:
    """A covariance and an innovation, well or badly conditioned."""
    n, m = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    root = random.normal(size=(n, n)) * 10.0 ** random.uniform(-4, 4, size=n)
    jacobian = random.normal(size=(m, n))
    noise = np.diag(10.0 ** random.uniform(-6, 4, size=m))
    residual = random.normal(size=m) * 10.0 ** random.uniform(-2, 4)
    return root @ root.T + 1e-9 * np.eye(n), Innovation(residual, jacobian, noise)


@settings(max_examples=100, deadline=None)
@given(innovations())
def test_a_correction_leaves_a_covariance_that_is_one(case: tuple[np.ndarray, Innovation]) -> None:
    before, innovation = case
    _, after = correct(before, weigh(before, innovation))
    assert np.array_equal(after, after.T)
    assert np.linalg.eigvalsh(after)[0] >= -1e-9 * np.abs(after).max()
    assert np.diag(after).min() >= VARIANCE_FLOOR


def test_a_correction_is_that_of_the_textbook() -> None:
    """Two halves of what is known: the mean is in the middle, the variance half."""
    weighed = weigh(np.eye(1) * 4.0, Innovation(np.array([2.0]), np.eye(1), np.eye(1) * 4.0))
    by, after = correct(np.eye(1) * 4.0, weighed)
    assert weighed.nis == pytest.approx(0.5)
    assert (by[0], after[0, 0]) == (pytest.approx(1.0), pytest.approx(2.0))


@settings(max_examples=100, deadline=None)
@given(innovations())
def test_what_it_gave_in_to_is_believable(case: tuple[np.ndarray, Innovation]) -> None:
    before, innovation = case
    if len(innovation.residual) > len(before):  # more values than states: nothing explains them
        innovation = Innovation(*(part[:1] for part in innovation[:2]), innovation[2][:1, :1])
    grown = given_in(before, weigh(before, innovation))
    assert weigh(grown, innovation).nis < 1.0 + 1e-3
    assert np.linalg.eigvalsh(grown - before)[0] >= -1e-6 * np.abs(grown).max()


def test_variances_do_not_fall_below_the_floor() -> None:
    sure = PLANAR.model_copy(
        update={
            "channels": {"heading": FusedChannel(kind="heading", std=[1e-9])},
            "process_std": {"heading_rad": 0.0, "yaw_rate_radps": 0.0},
        }
    )
    state = final(sure, [reading("heading", k, 10.0 * k, 0.3) for k in range(5)])
    assert covariance(state)[2, 2] >= VARIANCE_FLOOR


@given(st.floats(-20, 20), st.floats(-3, 3))
@settings(max_examples=50, deadline=None)
def test_headings_are_taken_the_short_way(start: float, yaw_rate: float) -> None:
    spec = PLANAR.model_copy(update={"initial_mean": {"heading_rad": start}})
    turned = [reading("heading", k, 100.0 * k, start + 0.1 * k * yaw_rate) for k in range(40)]
    state = final(spec, turned)
    assert -math.pi <= state.mean[2] < math.pi
    apart = math.remainder(state.mean[2] - (start + 3.9 * yaw_rate), 2 * math.pi)
    assert abs(apart) < 0.1
    assert state.mean[4] == pytest.approx(yaw_rate, abs=0.3)


def test_a_mask_hides_values() -> None:
    masked = FusedChannel(kind="pose", std=[0.01], mask=[True, False, False])
    spec = PLANAR.model_copy(update={"channels": {"pose": masked}})
    state = final(spec, [reading("pose", 0, 0.0, 0.5, 0.5, 0.5)])
    assert state.mean[0] == pytest.approx(0.5, abs=0.01)
    assert state.mean[1:3] == [0.0, 0.0]


def test_an_imu_gives_yaw_rate_and_yaw() -> None:
    spec = PLANAR.model_copy(update={"channels": {"imu": FusedChannel(kind="imu", std=[0.001])}})
    plain = [0.0, 0.0, 0.7, 0.0, 0.0, 9.81]
    state = final(spec, [reading("imu", 0, 0.0, *plain)])
    assert state.mean[2] == 0.0
    assert state.mean[4] == pytest.approx(0.7, abs=0.01)
    oriented = [*plain, math.cos(0.2), 0.0, 0.0, math.sin(0.2)]
    state = final(spec, [reading("imu", 0, 0.0, *oriented)])
    assert state.mean[2] == pytest.approx(0.4, abs=0.01)


def test_joints_follow_angles_and_velocities() -> None:
    spec = FusionSpec(
        filter="joints",
        channels={"joints": FusedChannel(kind="joints", std=[0.05] * 2 + [0.5] * 2)},
    )
    random = np.random.default_rng(2)
    readings = []
    for k in range(200):
        t = k / 50
        true = [2 * t, math.sin(t), 2.0, math.cos(t)]
        noisy = true + random.normal(size=4) * [0.05, 0.05, 0.5, 0.5]
        readings.append(reading("joints", k, 1000 * t, *noisy))
    state = final(spec, readings)
    assert state.names == ["angle_1_rad", "angle_2_rad", "velocity_1_radps", "velocity_2_radps"]
    assert state.mean[:2] == pytest.approx(true[:2], abs=0.1), "angles are not wrapped"
    assert state.mean[2:] == pytest.approx(true[2:], abs=0.8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["position", "odometry"]), st.floats(), st.floats())))
def test_absurd_numbers_leave_the_state_a_number(values: list[tuple[str, float, float]]) -> None:
    usable = [v for v in values if math.isfinite(v[1]) and math.isfinite(v[2])]
    gated = {n: c.model_copy(update={"gate": 0.99}) for n, c in PLANAR.channels.items()}
    spec = PLANAR.model_copy(update={"channels": gated})
    with np.errstate(all="ignore"):
        state = (
            final(spec, [reading(c, k, 100.0 * k, a, b) for k, (c, a, b) in enumerate(usable)])
            if usable
            else None
        )
    assert state is None or all(map(math.isfinite, state.mean + state.covariance))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"channels": {"q": FusedChannel(kind="joints", std=[1])}}, "channels.q: .* no `joints`"),
        ({"channels": {"p": FusedChannel(kind="position")}}, "channels.p.std has 0 entries"),
        (
            {"channels": {"p": FusedChannel(kind="position", std=[1], mask=[True])}},
            "mask has 1 entries, a reading has 2 values",
        ),
        (
            {"channels": {"p": FusedChannel(kind="position", std=[1], mask=[False] * 2)}},
            "leaves no value",
        ),
        ({"channels": {"r": FusedChannel(kind="range", std=[1])}}, "needs fusion.beacons"),
        ({"channels": {"s": FusedChannel(kind="held")}}, "none is fused"),
        ({"process_std": {"speed": 1.0}}, "process_std knows no `speed`; it knows .*x_m"),
        ({"initial_mean": {"z_m": 1.0}}, "initial_mean knows no `z_m`"),
        ({"beacons": {"north": [0.0, 1.0]}}, "`north` is no beacon's number"),
        ({"beacons": {"1": [0.0]}}, "beacons.1 has 1 coordinates"),
    ],
)
def test_a_spec_that_cannot_work_says_why(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FusionError, match=says):
        Filter(PLANAR.model_copy(update=change))
