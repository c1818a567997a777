"""What is wrong with simulated sensors: the same at every run, and as much as was asked for."""

import itertools
import math
import statistics

import pytest

from producers.robots.channels import Channel, Channels
from producers.robots.noise import Draws, Errors, SensorError
from schemas.robots import ChannelKind, ChannelSpec
from schemas.worlds import Sensor

MANY = 4000


def channel(sensor: Sensor, kind: ChannelKind = "odometry", size: int = 2) -> Channel:
    fields = [f"v{i}" for i in range(size)]
    spec = ChannelSpec(name="c", kind=kind, fields=fields, rate_hz=sensor.rate_hz)
    return Channel(spec, sensor, 1, "r")


def test_a_reading_does_not_depend_on_what_else_was_measured() -> None:
    sensor = Sensor(rate_hz=10, std=[0.5], bias_std=[1.0])
    forward, backward = Errors(sensor, 2, 1, "r", "c"), Errors(sensor, 2, 1, "r", "c")
    numbers = range(50)
    first = {n: forward.measured(n, (0.0, 0.0)) for n in numbers}
    again = {n: backward.measured(n, (0.0, 0.0)) for n in reversed(numbers)}
    assert first == again


@pytest.mark.parametrize("key", [(2, "r", "c"), (1, "q", "c"), (1, "r", "d")])
def test_seed_robot_and_channel_each_change_the_noise(key: tuple[object, ...]) -> None:
    sensor = Sensor(rate_hz=10, std=[0.5])
    mine = Errors(sensor, 1, 1, "r", "c").measured(0, (0.0,))
    assert Errors(sensor, 1, *key).measured(0, (0.0,)) != mine


def test_draws_are_uniform_and_normal() -> None:
    draws = Draws(3, "x")
    uniform = [next(draws.uniforms(n)) for n in range(MANY)]
    assert min(uniform) > 0 and max(uniform) < 1
    assert statistics.mean(uniform) == pytest.approx(0.5, abs=0.02)
    assert statistics.pstdev(uniform) == pytest.approx(math.sqrt(1 / 12), rel=0.03)
    normal = list(itertools.islice(draws.normals(5), MANY))
    assert statistics.mean(normal) == pytest.approx(0.0, abs=0.05)
    assert statistics.pstdev(normal) == pytest.approx(1.0, rel=0.05)
    beyond = sum(abs(x) > 1.96 for x in normal) / MANY
    assert beyond == pytest.approx(0.05, abs=0.015)


def test_noise_and_bias_are_those_of_the_sensor() -> None:
    errors = Errors(Sensor(rate_hz=10, std=[0.2, 0], bias=[1.5, 0]), 2, 1, "r", "c")
    measured = [errors.measured(n, (10.0, 20.0)) for n in range(MANY)]
    assert statistics.mean(m[0] for m in measured) == pytest.approx(11.5, abs=0.02)
    assert statistics.pstdev(m[0] for m in measured) == pytest.approx(0.2, rel=0.05)
    assert {m[1] for m in measured} == {20.0}


def test_a_drawn_bias_stays_and_is_one_for_each_beacon() -> None:
    errors = Errors(Sensor(rate_hz=10, bias_std=[0, 0.3]), 2, 1, "r", "range")
    of_1 = {errors.measured(n, (1, 5.0), source=1)[1] for n in range(10)}
    of_2 = {errors.measured(n, (2, 5.0), source=2)[1] for n in range(10)}
    assert len(of_1) == len(of_2) == 1 and of_1 != of_2
    drawn = [
        Errors(Sensor(rate_hz=10, bias_std=[0.3]), 1, seed, "r", "c").measured(0, (0.0,))[0]
        for seed in range(500)
    ]
    assert statistics.pstdev(drawn) == pytest.approx(0.3, rel=0.1)


def test_the_share_of_readings_that_is_asked_for_is_lost_and_seq_shows_it() -> None:
    lossy = channel(Sensor(rate_hz=100, dropout=0.2))
    for n in range(MANY):
        lossy.measure(n * 10.0, (0.0, 0.0))
    readings = lossy.arrived(MANY * 10.0)
    assert 1 - len(readings) / MANY == pytest.approx(0.2, abs=0.02)
    assert [r.seq for r in readings] == sorted({r.seq for r in readings})
    assert readings[-1].seq > len(readings)


def test_a_late_channel_tells_when_it_measured_and_arrives_later() -> None:
    late = channel(Sensor(rate_hz=10, delay_ms=150))
    late.measure(100.0, (1.0, 2.0))
    assert late.arrived(249.0) == []
    (reading,) = late.arrived(250.0)
    assert reading.stamp_ms == 100.0
    assert late.arrived(1000.0) == []


def test_channels_measure_at_the_multiples_of_their_periods() -> None:
    sensors = {"fast": Sensor(rate_hz=200), "slow": Sensor(rate_hz=20)}
    made = Channels(
        [
            Channel(
                ChannelSpec(name=name, kind="other", fields=["v"], rate_hz=s.rate_hz), s, 1, "r"
            )
            for name, s in sensors.items()
        ],
        {"fast": lambda seq: (seq,), "slow": lambda seq: (seq,)},
    )
    for step in range(1, 401):
        made.measure(7.5 + step * 2.5)
    stamps: dict[str, list[float]] = {"fast": [], "slow": []}
    for reading in made.arrived(2000.0):
        stamps[reading.channel].append(reading.stamp_ms)
    assert stamps["fast"] == [10.0 + 5 * i for i in range(200)]
    assert stamps["slow"] == [50.0 * i for i in range(1, 21)]


def test_a_channel_keeps_the_newest_of_what_nobody_fetches() -> None:
    kept = channel(Sensor(rate_hz=1000))
    for n in range(5000):
        kept.measure(float(n), (0.0, 0.0))
    readings = kept.arrived(5000.0)
    assert len(readings) == 4096 and readings[-1].seq == 4999


def test_an_imu_keeps_its_orientation_a_rotation() -> None:
    imu = channel(Sensor(rate_hz=100, std=[0.1]), "imu", 10)
    imu.measure(0.0, [0.0] * 6 + [1.0, 0.0, 0.0, 0.0])
    (reading,) = imu.arrived(0.0)
    assert math.hypot(*reading.values[6:]) == pytest.approx(1.0, abs=1e-5)
    assert reading.values[7] != 0.0


def test_numbers_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(SensorError, match=r"r\.odometry\.std: 3 numbers for 2 values"):
        Errors(Sensor(rate_hz=10, std=[1, 2, 3]), 2, 1, "r", "odometry")
