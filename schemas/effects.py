"""What logic may ask of the world: it yields these and is sent the answers; a driver does the I/O.

A processor is a function from the log to the log. It knows no broker, store or clock, so the same
text runs on Kafka, in memory and under simulation, whose crash points are exactly these yields.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from schemas.base import Event
from schemas.records import Batch, Partition, Record
from schemas.tensors import ObjectRef
from schemas.topics import Topic


@dataclass(frozen=True, slots=True)
class Get:
    """Read an object, checked against its hash; answered by bytes, or the path when `to` is given.

    Raises `BadObject` into the generator when the bytes hash wrong; a missing object is waited for.
    """

    ref: ObjectRef
    to: Path | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """Store an object (always, even where the key exists); answered by its ObjectRef."""

    key: str
    data: bytes | Path


@dataclass(frozen=True, slots=True)
class Emit:
    """Append an event to its topic with the outputs of this batch; answered by None."""

    event: Event


@dataclass(frozen=True, slots=True)
class Bury:
    """Send a record of this batch to the dead letters, in the same transaction."""

    record: Record
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ListObjects:
    """List keys below a prefix; answered by a list of keys. For janitors, between steps."""

    prefix: str


@dataclass(frozen=True, slots=True)
class DeleteObjects:
    """Delete these keys; deleting what is not there is fine."""

    keys: Sequence[str]


Effect = Get | Put | Emit | Bury | ListObjects | DeleteObjects

Commit = Literal["commit", "hold"]
"""How a batch ends: its outputs and offsets are published, or it stays open for the next batch."""

Steps = Generator[Effect, Any, Commit]


class BadObject(Exception):
    """An object's bytes do not have the hash that the event names."""


class Unready(Exception):
    """Something this batch needs is not here yet: observe the state inputs and run it again."""


@dataclass(frozen=True, slots=True)
class StateInput:
    """A topic of which every instance reads all partitions.

    With `barrier`, a processor that was just assigned work first reads this topic up to its end,
    open transactions of a predecessor included: that is how it learns what was already published.
    With `since_head`, reading starts at the newest `weight-heads` record of the policy.
    """

    topic: Topic
    barrier: bool = False
    since_head: bool = False


@dataclass(frozen=True, slots=True)
class Intake:
    """How much work a batch takes: up to `max_batch` records, or what came in `max_wait_ms`."""

    max_batch: int = 1
    max_wait_ms: int = 0


class Processor(Protocol):
    """A restartable function of the log.

    `name` labels it; `group` is its consumer group. `work` is shared by the group and its offsets
    are committed with the outputs; `state` is read whole by every instance.
    """

    name: str
    group: str
    work: tuple[Topic, ...]
    state: tuple[StateInput, ...]
    policy: str | None
    """Only this policy's events are taken; others are skipped. None takes all."""

    def intake(self) -> Intake:
        """How much the next batch should take."""
        ...

    def waiting_for(self) -> str | None:
        """What must be observed before work can start, or None when ready."""
        ...

    def observe(self, record: Record) -> None:
        """Take in one state event; no effects."""
        ...

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Where to start reading instead of the committed offsets, once barriers are passed."""
        ...

    def process(self, batch: Batch) -> Steps:
        """Work on a batch of decoded records."""
        ...

    def tick(self) -> Steps | None:
        """Called when no work waits: outputs that state alone calls for, or None."""
        ...


Clock = Callable[[], float]


@dataclass
class Outputs:
    """What a batch wants published; filled by whoever drives the generator."""

    events: list[Event] = field(default_factory=list)
    buried: list[Bury] = field(default_factory=list)
