"""An actuator is back at once: it imports nothing heavy, and acts within a second of its start."""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from producers.robots.unix import address

HEAVY = {
    "torch",
    "transformers",
    "faust",
    "aiokafka",
    "confluent_kafka",
    "minio",
    "mujoco",
    "gymnasium",
    "numpy",
    "datasets",
}
ROBOT = """
robot_id: r1
driver: {name: simulated}
fusion: {channels: {odometry: {kind: odometry, std: [0.05, 0.05]}}}
"""
NOT_A_USERS = ("RALO_", "PYTHONDONTWRITEBYTECODE")
START_S = 1.0
"""Of work: what the start waits for other tests' processes is not its own."""


@contextmanager
def actuator(folder: Path, world: socket.socket, *options: str) -> Iterator[Path]:
    """Start one and wait for its first set-point; where it says what it says. Killed at the end."""
    said = folder / "said"
    environ = {key: value for key, value in os.environ.items() if not key.startswith(NOT_A_USERS)}
    command = [sys.executable, *options, "-m", "infra.cli", "run", "actuator"]
    with said.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--robot", str(folder / "r1.yaml")],
            env={
                **environ,
                "RALO_STATE_DIR": str(folder),
                "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
            },
            stderr=output,
        )
    try:
        connection, _ = world.accept()
        with connection:
            while b"set-point" not in connection.recv(65536):
                pass
            yield said
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[socket.socket]:
    """Listens where the simulated robot's world would."""
    (tmp_path / "r1.yaml").write_text(ROBOT)
    (tmp_path / "robots").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        with address(tmp_path / "robots" / "r1.sock") as short:
            listening.bind(short)
        listening.listen()
        listening.settimeout(30)
        yield listening


def test_it_imports_nothing_heavy(tmp_path: Path, world: socket.socket) -> None:
    with actuator(tmp_path, world, "-X", "importtime") as said:
        lines = [line for line in said.read_text().splitlines() if line.startswith("import time:")]
    found = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}
    assert {"infra", "streams", "producers", "schemas"} <= found
    assert not found & HEAVY


def test_it_acts_within_a_second(tmp_path: Path, world: socket.socket) -> None:
    with actuator(tmp_path, world):
        pass  # Python compiles what it imports once, for all later starts.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began_s = time.perf_counter()
    with actuator(tmp_path, world):
        took_s = time.perf_counter() - began_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    work_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"first set-point after {took_s:.2f} s, {work_s:.2f} s of them work")
    assert work_s < START_S
