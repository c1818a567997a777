"""The world's side of a robot's socket: one driver at a time, and never a wait for it."""

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

from producers.robots.simulation import SimulatedRobot
from producers.robots.unix import address, packet_socket
from producers.robots.wire import (
    PACKET_BYTES,
    READINGS_MAX,
    FromWorld,
    Hello,
    Readings,
    Refused,
    SetPoint,
    Welcome,
    from_driver,
    packed,
    socket_path,
)
from schemas.acting import Reading


class PortTaken(Exception):
    """Another world serves this robot already."""


class Port:
    """Serves one robot; set-points go in, readings out; where the driver is slow they are lost."""

    def __init__(self, robot: SimulatedRobot, robots_dir: Path) -> None:
        self._robot, self._path = robot, socket_path(robots_dir, robot.robot_id)
        self._driver: socket.socket | None = None
        self._first: dict[str, int] = {}
        self.lost, self.drivers = 0, 0
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        """Raises `PortTaken`; a file that a killed world has left is replaced."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with address(self._path) as short:
            _must_be_free(self._path, short)
            self._path.unlink(missing_ok=True)
            listener = packet_socket()
            listener.bind(short)
        self._path.chmod(0o600)
        listener.listen(4)
        return listener

    @property
    def connected(self) -> bool:
        """Whether a driver is there."""
        return self._driver is not None

    def receive(self, from_ms: float, until_ms: float) -> None:
        """Take in what the driver has said, then whoever knocks.

        What was said counts as heard when it was said, but within these times.
        """
        self._hear(from_ms, until_ms)
        while True:
            try:
                driver, _ = self._listener.accept()
            except BlockingIOError:
                return
            self._welcome(driver)
            self._hear(from_ms, until_ms)

    def _welcome(self, driver: socket.socket) -> None:
        driver.setblocking(False)
        if self._driver is not None:
            with contextlib.suppress(OSError):
                driver.send(packed(Refused(reason="another driver is connected to this robot")))
            driver.close()
            return
        self._driver, self.drivers = driver, self.drivers + 1
        # Readings count from 0 in each life of a driver, which sees none of before.
        self._first = self._robot.seqs()
        self._say(Welcome(spec=self._robot.spec))

    def _hear(self, from_ms: float, until_ms: float) -> None:
        while self._driver is not None:
            try:
                packet = self._driver.recv(PACKET_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # Said once, where the driver has gone without reading all: its last words follow.
                continue
            except OSError:
                packet = b""
            if not packet:
                self._part()
                return
            self._obey(packet, from_ms, until_ms)

    def _obey(self, packet: bytes, from_ms: float, until_ms: float) -> None:
        try:
            match from_driver(packet):
                case Hello() as hello:
                    gate = self._robot.gate
                    gate.timeout_ms = hello.gate_timeout_ms or gate.timeout_ms
                    gate.brake_mps2 = hello.brake_mps2 or gate.brake_mps2
                case SetPoint() as said:
                    self._robot.apply(said.values, min(max(said.at_ms, from_ms), until_ms))
        except ValueError as error:
            self._say(Refused(reason=f"not understood: {error}"))
            self._part()

    def send(self, readings: Sequence[Reading]) -> None:
        """Send these to the driver, if there is one."""
        fresh = [
            reading.model_copy(update={"seq": reading.seq - self._first[reading.channel]})
            for reading in readings
            if self._driver is not None and reading.seq >= self._first[reading.channel]
        ]
        for i in range(0, len(fresh), READINGS_MAX):
            part = fresh[i : i + READINGS_MAX]
            if self._driver is not None and not self._say(Readings(readings=part)):
                self.lost += len(part)

    def _say(self, message: FromWorld) -> bool:
        if self._driver is None:
            return False
        try:
            self._driver.send(packed(message))
        except BlockingIOError:
            return False
        except OSError:
            self._part()
            return False
        return True

    def _part(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def close(self) -> None:
        """Let the driver go and serve no more."""
        self._part()
        self._listener.close()
        self._path.unlink(missing_ok=True)


def _must_be_free(path: Path, short: str) -> None:
    with packet_socket() as probe:
        try:
            probe.connect(short)
        except (FileNotFoundError, ConnectionRefusedError):
            return
    raise PortTaken(f"{path}: another world serves this robot: stop that one first")
