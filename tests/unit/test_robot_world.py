"""A world process and its drivers, over real sockets."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from producers.robots import serving
from producers.robots.ports import PortTaken
from producers.robots.serving import WorldServer
from producers.robots.simulated import SimulatedDriver
from producers.robots.specs import arm_spec, rover_spec
from producers.robots.unix import address, packet_socket
from producers.robots.wire import Hello, socket_path
from schemas.acting import Reading
from schemas.robots import DriverError
from schemas.worlds import Arm, Rover, RoverPlacement, World

WORLD = World(
    name="small",
    rovers={"r1": RoverPlacement(start=(3, 3, 0)), "r2": RoverPlacement(start=(6, 6, 1))},
    beacons={"1": (0, 0)},
)
LONG_MS = 60_000.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WorldServer]:
    made = WorldServer(WORLD, tmp_path)
    yield made
    made.close()


def driver(folder: Path, robot_id: str = "r1", gate_ms: float = LONG_MS) -> SimulatedDriver:
    path = socket_path(folder, robot_id)
    return SimulatedDriver(rover_spec(Rover()), path, Hello(gate_timeout_ms=gate_ms))


def turns(server: WorldServer, count: int) -> None:
    for _ in range(count):
        server.turn()


def of(readings: list[Reading], channel: str) -> list[Reading]:
    return [reading for reading in readings if reading.channel == channel]


def test_a_driver_reads_and_moves_its_own_robot(server: WorldServer, tmp_path: Path) -> None:
    mine = driver(tmp_path)
    mine.connect()
    assert mine.apply([9.0, 0.0]) == [1.0, 0.0]
    turns(server, 60)
    truth = of(mine.read(), "truth")
    assert truth[-1].values[3] > 0.3
    assert abs(truth[-1].stamp_ms - mine.now_ms()) < 1000
    assert server.simulation.robots["r2"].gate.silent(server.now_ms)
    mine.close()


def test_each_life_of_a_driver_counts_its_readings_from_0(
    server: WorldServer, tmp_path: Path
) -> None:
    turns(server, 20)
    for _ in range(2):
        mine = driver(tmp_path)
        mine.connect()
        turns(server, 20)
        seqs = [reading.seq for reading in of(mine.read(), "imu")]
        assert seqs == list(range(len(seqs))) and len(seqs) >= 8
        mine.close()
        turns(server, 1)


def test_closing_brings_the_robot_to_rest(server: WorldServer, tmp_path: Path) -> None:
    mine = driver(tmp_path)
    mine.connect()
    mine.apply([1.0, 1.0])
    turns(server, 2)
    gate = server.simulation.robots["r1"].gate
    assert tuple(gate.passes(server.now_ms)) == (1.0, 1.0)
    mine.close()
    mine.close()
    turns(server, 2)
    assert tuple(gate.passes(server.now_ms)) == (0.0, 0.0)
    assert not server.ports["r1"].connected


def test_a_driver_that_dies_leaves_the_gate_to_brake_and_another_may_come(
    server: WorldServer, tmp_path: Path
) -> None:
    first = driver(tmp_path, gate_ms=50.0)
    first.connect()
    first.apply([1.0, 0.0])
    turns(server, 4)
    assert first._socket is not None
    first._socket.close()
    robot = server.simulation.robots["r1"]
    turns(server, 60)
    assert robot.gate.braked == 1
    again = driver(tmp_path)
    again.connect()
    turns(server, 10)
    assert of(again.read(), "imu")
    assert server.ports["r1"].drivers == 2
    again.close()


def test_a_second_driver_is_told_that_the_robot_is_taken(
    server: WorldServer, tmp_path: Path
) -> None:
    first, second = driver(tmp_path), driver(tmp_path)
    first.connect()
    second.connect()
    turns(server, 2)
    with pytest.raises(DriverError, match="another driver is connected"):
        second.read()
    first.read()
    first.close()


def test_a_driver_of_another_robot_is_told_what_differs(
    server: WorldServer, tmp_path: Path
) -> None:
    wrong = SimulatedDriver(arm_spec(Arm()), socket_path(tmp_path, "r1"))
    wrong.connect()
    turns(server, 2)
    with pytest.raises(DriverError, match=r"differ in name, channels, set_point"):
        wrong.read()
    with pytest.raises(DriverError, match="not connected"):
        wrong.apply([0.0, 0.0])


def test_what_is_no_message_ends_the_connection_and_nothing_else(
    server: WorldServer, tmp_path: Path
) -> None:
    stranger = packet_socket()
    with address(socket_path(tmp_path, "r1")) as short:
        stranger.connect(short)
    stranger.send(b"\xff no json")
    turns(server, 2)
    assert not server.ports["r1"].connected
    stranger.close()
    mine = driver(tmp_path)
    mine.connect()
    mine.apply([0.5, 0.0])
    turns(server, 2)
    assert server.ports["r1"].connected
    mine.close()


def test_set_points_that_are_none_are_refused_before_they_are_sent(
    server: WorldServer, tmp_path: Path
) -> None:
    mine = driver(tmp_path)
    mine.connect()
    for wrong in ([1.0], [float("nan"), 0.0], [float("inf"), 0.0]):
        with pytest.raises(DriverError, match="rover"):
            mine.apply(wrong)
    assert mine.apply([0.1, 0.1]) == [0.1, 0.1]
    mine.close()


@pytest.mark.slow
def test_a_driver_that_does_not_read_loses_readings_and_stops_nobody(
    server: WorldServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = driver(tmp_path)
    mine.connect()
    monkeypatch.setattr(serving.time, "sleep", lambda _: None)
    monkeypatch.setattr(serving.time, "monotonic", lambda: server.now_ms / 1000)
    turns(server, 4000)
    assert server.ports["r1"].lost > 0
    monkeypatch.undo()
    seqs = [reading.seq for reading in of(mine.read(), "imu")]
    assert seqs == sorted(seqs)
    mine.close()


def test_without_a_world_the_error_names_the_socket_and_what_to_start(tmp_path: Path) -> None:
    alone = driver(tmp_path / "nowhere")
    for missing in (alone, driver(tmp_path)):
        with pytest.raises(DriverError, match=r"r1\.sock: No such file.*ralo simulate WORLD\.yaml"):
            missing.connect()
    with pytest.raises(DriverError, match="not connected"):
        alone.read()


def test_two_worlds_do_not_serve_one_robot(server: WorldServer, tmp_path: Path) -> None:
    with pytest.raises(PortTaken, match=r"r1\.sock: another world serves this robot"):
        WorldServer(WORLD, tmp_path)
    turns(server, 1)
    assert socket_path(tmp_path, "r1").exists()


def test_a_folder_of_any_depth_will_do(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    made = WorldServer(WORLD, deep)
    mine = driver(deep)
    mine.connect()
    turns(made, 8)
    assert mine.read()
    mine.close()
    made.close()
    assert list(deep.iterdir()) == []


def test_a_world_that_comes_too_late_stands_still_and_counts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(serving.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(serving.time, "sleep", lambda _: None)
    made = WorldServer(WORLD, tmp_path)
    now_s += 0.050
    turns(made, 1)
    assert (made.pace.periods, made.pace.missed, made.pace.lost_ms) == (20, 19, 0.0)
    assert made.now_ms == 100_050.0 and made.simulation.steps == 20
    now_s = 100.5
    turns(made, 1)
    assert made.simulation.steps == 21
    assert made.pace.lost_ms == 440.0 and made.now_ms == 100_492.5
    assert made.pace.worst_ms == pytest.approx(447.5)
    turns(made, 1)
    assert made.now_ms == 100_500.0 and made.pace.lost_ms == 440.0
    made.close()


def test_a_world_that_was_late_does_not_brake_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(serving.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(serving.time, "sleep", lambda _: None)
    made, mine = WorldServer(WORLD, tmp_path), driver(tmp_path, gate_ms=50.0)
    mine.connect()
    gate = made.simulation.robots["r1"].gate
    for _ in range(100):
        mine.apply([0.5, 0.0])
        now_s += 0.010
        if round(now_s * 100) % 8 == 0:
            turns(made, 1)
    assert gate.braked == 0, "the loop spoke each 10 ms; the world came every 80 ms"
    now_s += 0.055
    turns(made, 1)
    assert gate.braked == 1, "now the loop was silent itself"
    mine.close()
    made.close()


def _start_world(folder: Path) -> subprocess.Popen[bytes]:
    world = folder / "w.yaml"
    world.write_text("name: w\nrovers: {r1: {start: [3, 3, 0]}}\n")
    return subprocess.Popen(
        [sys.executable, "-m", "infra.cli", "simulate", str(world)],
        env={**os.environ, "RALO_STATE_DIR": str(folder), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )


def _until_connected(mine: SimulatedDriver, limit_s: float = 30.0) -> None:
    pause, until = threading.Event(), time.monotonic() + limit_s
    while True:
        try:
            return mine.connect()
        except DriverError:
            if time.monotonic() > until:
                raise
            pause.wait(0.02)


def _until_read(mine: SimulatedDriver, limit_s: float = 10.0) -> list[Reading]:
    pause, until = threading.Event(), time.monotonic() + limit_s
    while time.monotonic() < until:
        if readings := mine.read():
            return readings
        pause.wait(0.005)
    raise AssertionError("no readings")


@pytest.mark.slow
def test_a_driver_comes_back_to_a_world_that_was_killed(tmp_path: Path) -> None:
    mine, world = driver(tmp_path / "robots"), _start_world(tmp_path)
    try:
        _until_connected(mine)
        assert _until_read(mine)[0].seq == 0
        world.send_signal(signal.SIGKILL)
        world.wait()
        with pytest.raises(DriverError, match=r"r1\.sock: .*; start the world"):
            _until_read(mine)
            mine.read()
        with pytest.raises(DriverError, match="Connection refused"):
            mine.connect()
        world = _start_world(tmp_path)
        _until_connected(mine)
        assert mine.apply([0.5, 0.0]) == [0.5, 0.0]
        assert _until_read(mine)[0].seq == 0
        world.send_signal(signal.SIGINT)
        assert world.wait(10) == 0
        assert not list((tmp_path / "robots").iterdir())
    finally:
        mine.close()
        world.kill()
        world.wait()
