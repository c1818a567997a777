"""What a robot's driver and its world say to each other: one JSON value a packet.

The socket is a Unix one of the kind SOCK_SEQPACKET, so packets are whole and in order. The driver
says hello, then set-points; the world says what the robot is, or why not, then readings.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, TypeAdapter

from schemas.acting import Reading
from schemas.base import Model
from schemas.robots import DriverSpec

PACKET_BYTES = 128 * 1024
READINGS_MAX = 64
"""In one packet: of the largest scans they stay below `PACKET_BYTES`."""


class Hello(Model):
    """The first packet of a driver; the robot's own file decides over its gate."""

    kind: Literal["hello"] = "hello"
    gate_timeout_ms: float | None = None
    brake_mps2: float | None = None


class SetPoint(Model):
    """What the robot is to do from then on, in CLOCK_MONOTONIC: both have it."""

    kind: Literal["set-point"] = "set-point"
    values: list[float]
    at_ms: float


class Welcome(Model):
    """The first packet of a world."""

    kind: Literal["welcome"] = "welcome"
    spec: DriverSpec


class Refused(Model):
    """The only packet of a world to a driver that it cannot serve."""

    kind: Literal["refused"] = "refused"
    reason: str


class Readings(Model):
    """What has arrived from the sensors."""

    kind: Literal["readings"] = "readings"
    readings: list[Reading]


FromDriver = Hello | SetPoint
FromWorld = Welcome | Refused | Readings
_FROM_DRIVER: TypeAdapter[FromDriver] = TypeAdapter(Annotated[FromDriver, Discriminator("kind")])
_FROM_WORLD: TypeAdapter[FromWorld] = TypeAdapter(Annotated[FromWorld, Discriminator("kind")])


def socket_path(robots_dir: Path, robot_id: str) -> Path:
    """Where a world serves this robot."""
    return robots_dir / f"{robot_id}.sock"


def from_driver(packet: bytes) -> FromDriver:
    """What a driver said; raises ValueError."""
    return _FROM_DRIVER.validate_json(packet)


def from_world(packet: bytes) -> FromWorld:
    """What a world said; raises ValueError."""
    return _FROM_WORLD.validate_json(packet)


def packed(message: FromDriver | FromWorld) -> bytes:
    """One packet."""
    return message.model_dump_json().encode()
