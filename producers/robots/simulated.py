"""The driver `simulated`: a robot of a world process on this machine, by its socket.

The clock is the machine's CLOCK_MONOTONIC, which the world shares. Nothing here waits.
"""

import contextlib
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from producers.robots.specs import arm_spec, clipped, rover_spec
from producers.robots.unix import address, packet_socket
from producers.robots.wire import (
    PACKET_BYTES,
    Hello,
    Readings,
    Refused,
    SetPoint,
    Welcome,
    from_world,
    packed,
    socket_path,
)
from schemas.acting import Reading
from schemas.base import Strict
from schemas.robot_file import RobotFile
from schemas.robots import DriverError, DriverSpec
from schemas.worlds import Arm, Rover


class SimulatedArgs(Strict):
    """`driver.args` of a simulated robot: what it is, as its world has it too."""

    kind: Literal["rover", "arm"] = "rover"
    rover: Rover = Rover()
    arm: Arm = Arm()
    socket: Path | None = None


class SimulatedDriver:
    """One robot of a world that `ralo simulate` serves."""

    def __init__(self, spec: DriverSpec, path: Path, hello: Hello | None = None) -> None:
        self.spec, self._path, self._hello = spec, path, hello or Hello()
        self._socket: socket.socket | None = None

    @classmethod
    def of(cls, robot: RobotFile, robots_dir: Path) -> "SimulatedDriver":
        """As a robot's file says; raises pydantic.ValidationError."""
        args, safety = SimulatedArgs.model_validate(robot.driver.args), robot.safety
        spec = rover_spec(args.rover) if args.kind == "rover" else arm_spec(args.arm)
        hello = Hello(
            gate_timeout_ms=safety.scaled_ms(safety.gate_timeout_ms / 1000),
            brake_mps2=safety.brake_mps2,
        )
        return cls(spec, args.socket or socket_path(robots_dir, robot.robot_id), hello)

    def connect(self) -> None:
        """Open the socket, again where it was open; raises `DriverError`."""
        self.close()
        opened = packet_socket()
        try:
            with address(self._path) as short:
                opened.connect(short)
            opened.send(packed(self._hello))
        except OSError as error:
            opened.close()
            raise self._gone(error.strerror or str(error)) from error
        self._socket = opened

    def now_ms(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic() * 1000

    def read(self) -> list[Reading]:
        """What the world has sent since the last call."""
        opened, readings = self._open(), list[Reading]()
        while True:
            try:
                packet = opened.recv(PACKET_BYTES)
            except BlockingIOError:
                return readings
            except ConnectionResetError:
                # Said once, where the world has gone without reading all: its last words follow.
                continue
            except OSError as error:
                raise self._lost(error.strerror or str(error)) from error
            if not packet:
                raise self._lost("the world has closed the connection")
            readings.extend(self._understood(packet))

    def apply(self, set_point: Sequence[float]) -> list[float]:
        """Do this from now on, within the limits."""
        try:
            done = clipped(self.spec, list(set_point))
            self._open().send(packed(SetPoint(values=done, at_ms=self.now_ms())))
        except BlockingIOError as error:
            raise DriverError(f"{self._path}: the world takes no set-points: it stalls") from error
        except OSError as error:
            raise self._lost(error.strerror or str(error)) from error
        except ValueError as error:
            raise DriverError(str(error)) from error
        return done

    def close(self) -> None:
        """Bring the robot to rest and let go of it."""
        opened, self._socket = self._socket, None
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.send(packed(SetPoint(values=self.spec.rest, at_ms=self.now_ms())))
            opened.close()

    def _understood(self, packet: bytes) -> list[Reading]:
        try:
            message = from_world(packet)
        except ValueError as error:
            raise self._lost(f"the world says what is no message: {error}") from error
        match message:
            case Readings():
                return message.readings
            case Refused():
                raise self._lost(message.reason)
            case Welcome():
                self._compare(message.spec)
        return []

    def _compare(self, theirs: DriverSpec) -> None:
        ours, world = self.spec.model_dump(), theirs.model_dump()
        if differing := [name for name in ours if ours[name] != world[name]]:
            raise self._lost(
                f"the robot's file and the world differ in {', '.join(differing)}: "
                "give driver.args the same rover (or arm) as the world has"
            )

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise self._gone("not connected")
        return self._socket

    def _lost(self, why: str) -> DriverError:
        """The error to raise; the connection is of no use any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        return self._gone(why)

    def _gone(self, why: str) -> DriverError:
        return DriverError(
            f"{self._path}: {why}; start the world that has this robot: ralo simulate WORLD.yaml"
        )
