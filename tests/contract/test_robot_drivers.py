"""What every driver promises, held against the built-in ones: in process, and over a socket."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from producers.robots.drivers import ArmDriver, RoverDriver
from producers.robots.registry import make_driver
from producers.robots.serving import WorldServer
from producers.robots.simulated import SimulatedDriver
from producers.robots.specs import rover_spec
from producers.robots.wire import socket_path
from schemas.acting import Reading
from schemas.fusion import FusionSpec
from schemas.robot_file import RobotFile
from schemas.robots import Driver, DriverChoice, DriverError
from schemas.worlds import Rover, RoverPlacement, World

WORLD = World(
    name="w",
    rovers={"r1": RoverPlacement(start=(6, 6, 0))},
    beacons={"1": (0, 0), "2": (12, 0)},
)


@dataclass
class Case:
    """A driver, and how its time passes."""

    driver: Driver
    pass_ms: Callable[[float], None]


def rover_case(folder: Path) -> Iterator[Case]:
    driver = RoverDriver(WORLD)
    yield Case(driver, driver.step)


def arm_case(folder: Path) -> Iterator[Case]:
    driver = ArmDriver()
    yield Case(driver, driver.step)


def simulated_case(folder: Path) -> Iterator[Case]:
    server = WorldServer(WORLD, folder)

    def turns(period_ms: float) -> None:
        for _ in range(math.ceil(period_ms / server.simulation.step_ms)):
            server.turn()

    yield Case(SimulatedDriver(rover_spec(Rover()), socket_path(folder, "r1")), turns)
    server.close()


@pytest.fixture(params=[rover_case, arm_case, simulated_case])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    made = request.param(tmp_path)
    case = next(made)
    yield case
    case.driver.close()
    next(made, None)


def readings_over(case: Case, periods: int, period_ms: float = 20.0) -> list[Reading]:
    found = []
    for _ in range(periods):
        case.pass_ms(period_ms)
        found += case.driver.read()
    return found


def test_what_it_is_is_known_before_it_is_connected(case: Case) -> None:
    spec = case.driver.spec
    assert spec.channels and len(spec.rest) == len(spec.set_point)
    for field, rest in zip(spec.set_point, spec.rest, strict=True):
        assert field.low <= rest <= field.high
    with pytest.raises(DriverError, match="not connected"):
        case.driver.read()
    with pytest.raises(DriverError, match="not connected"):
        case.driver.apply(spec.rest)


def test_readings_are_as_the_channels_say(case: Case) -> None:
    case.driver.connect()
    readings = readings_over(case, 40)
    assert {r.channel for r in readings} == {c.name for c in case.driver.spec.channels}
    for reading in readings:
        assert len(reading.values) == len(case.driver.spec.channel(reading.channel).fields)
        assert all(math.isfinite(value) for value in reading.values)


def test_stamps_and_numbers_go_up_in_each_channel_and_are_not_of_the_future(case: Case) -> None:
    case.driver.connect()
    newest: dict[str, Reading] = {}
    for _ in range(30):
        case.pass_ms(20.0)
        for reading in case.driver.read():
            before = newest.get(reading.channel)
            if before is not None:
                assert reading.seq > before.seq and reading.stamp_ms > before.stamp_ms
            assert reading.stamp_ms <= case.driver.now_ms() + 20.0
            newest[reading.channel] = reading


@pytest.mark.slow
def test_channels_come_at_their_rates(case: Case) -> None:
    case.driver.connect()
    readings = readings_over(case, 50)
    for channel in case.driver.spec.channels:
        stamps = [r.stamp_ms for r in readings if r.channel == channel.name]
        numbers = [r.seq for r in readings if r.channel == channel.name]
        periods = (stamps[-1] - stamps[0]) / (numbers[-1] - numbers[0])
        assert periods == pytest.approx(1000 / channel.rate_hz, rel=0.01)


def test_a_reading_is_told_once(case: Case) -> None:
    case.driver.connect()
    case.pass_ms(40.0)
    assert case.driver.read()
    assert case.driver.read() == []


def test_apply_answers_what_is_really_done(case: Case) -> None:
    case.driver.connect()
    fields = case.driver.spec.set_point
    beyond = [field.high + 1 for field in fields]
    assert case.driver.apply(beyond) == [field.high for field in fields]
    below = [field.low - 1 for field in fields]
    assert case.driver.apply(below) == [field.low for field in fields]
    inside = [(field.low + field.high) / 2 for field in fields]
    assert case.driver.apply(inside) == inside


def test_what_is_no_set_point_is_refused(case: Case) -> None:
    case.driver.connect()
    size = len(case.driver.spec.set_point)
    for wrong in ([0.0] * (size + 1), [math.nan] * size):
        with pytest.raises(DriverError):
            case.driver.apply(wrong)


def test_the_clock_goes_on(case: Case) -> None:
    case.driver.connect()
    before = case.driver.now_ms()
    case.pass_ms(20.0)
    assert case.driver.now_ms() >= before + 15.0


def test_it_closes_twice_and_connects_again(case: Case) -> None:
    for _ in range(2):
        case.driver.connect()
        readings = readings_over(case, 5)
        first = {r.channel: r.seq for r in reversed(readings)}
        assert set(first.values()) <= {0, 1}
        case.driver.close()
        case.driver.close()
        case.pass_ms(20.0) if isinstance(case.driver, SimulatedDriver) else None


# --- the registry


def robot_file(name: str, **args: object) -> RobotFile:
    return RobotFile(
        robot_id="r1",
        driver=DriverChoice.model_validate({"name": name, "args": args}),
        fusion=FusionSpec(channels={}),
    )


@pytest.mark.parametrize("name", ["rover", "arm", "simulated"])
def test_drivers_are_found_by_name(name: str, tmp_path: Path) -> None:
    driver = make_driver(robot_file(name), tmp_path)
    assert driver.spec.name == ("arm" if name == "arm" else "rover")


def test_a_wrong_name_or_argument_is_named(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="hover: there are arm, rover, simulated"):
        make_driver(robot_file("hover"), tmp_path)
    with pytest.raises(DriverError, match=r"driver\.args\.wheels: Extra inputs"):
        make_driver(robot_file("simulated", wheels=6), tmp_path)
    with pytest.raises(DriverError, match="has no rover r1; there are: r2"):
        world = {"name": "w", "rovers": {"r2": {"start": [3, 3, 0]}}}
        make_driver(robot_file("rover", world=world), tmp_path)
