"""The ledger of fault runs: JSON Lines, a line a fault and a line a run's end."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, TypeAdapter, ValidationError

from consumers.reliability.schedule import Action


class LedgerError(Exception):
    """The ledger cannot be used; says which line and why."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FaultLine(_Line):
    """One fault as it was done; times in seconds since the run's faults began."""

    type: Literal["fault"] = "fault"
    run: int
    seed: int
    number: int
    due_s: float
    at_s: float | None = Field(None, description="None where it was not done")
    wall: str = Field(description="when it was done, UTC")
    action: Action
    kind: str
    target: str
    what: str
    recovered_ms: float | None = None
    during: list[str] = Field([], description="outages that fell into the recovery")
    why: str = Field("", description="why it was not done, or not seen to recover")


class Machine(_Line):
    """Where a run was."""

    cpus: int
    memory_gib: float
    platform: str
    python: str


class Books(_Line):
    """What `ralo audit` found."""

    checked: int
    lost: int
    duplicated: int
    order_violations: int
    bad_references: int
    breaches: list[str] = []
    unused_share: float
    counts: dict[str, int] = {}


class Proof(_Line):
    """What the proof of one policy's chain found."""

    policy: str
    versions: int
    equal: int = Field(description="versions that came out the same, to the last bit")
    gradients: int = Field(description="made again of their samples, and the same")
    objects: int = Field(0, description="stored ones whose hash was compared")
    differing: list[str] = []
    seconds: float = 0.0


class RunLine(_Line):
    """One run's end."""

    type: Literal["run"] = "run"
    run: int
    seed: int
    began: str
    minutes: float
    kinds: list[str] = Field([], description="what was broken; everything where none is named")
    pace: float = Field(1.0, description="how many times as often as usual")
    interrupted: bool = False
    seconds: float
    machine: Machine
    code: str
    samples: int
    versions: int
    missions: int
    books: Books
    proofs: list[Proof] = []
    breaches: list[str] = Field([], description="what is not as promised; empty is good")

    @property
    def ok(self) -> bool:
        """Whether all that is promised held."""
        return not self.breaches


Line = FaultLine | RunLine
_ADAPTER: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Discriminator("type")])


def append(path: Path, lines: Sequence[Line]) -> None:
    """Append lines; what is there stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{_text(line)}\n" for line in lines)


def _text(line: Line) -> str:
    """The line without what is by default: a ledger has thousands of them."""
    return json.dumps({"type": line.type, **line.model_dump(mode="json", exclude_defaults=True)})


def mend(path: Path) -> bool:
    """Cut off a last line that a kill has torn; whether there was one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) == len(data):
        return False
    with path.open("r+b") as file:
        file.truncate(len(whole))
    return True


def lines(path: Path) -> Iterator[Line]:
    """All whole lines; a torn last one is left out. Raises `LedgerError`."""
    try:
        text = path.read_text()
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if line.endswith("\n"):
            try:
                yield _ADAPTER.validate_json(line)
            except ValidationError as error:
                wrong = error.errors()[0]["msg"]
                raise LedgerError(f"{path}:{number} is no line of a ledger: {wrong}") from None


def next_run(path: Path) -> int:
    """The number of the run that is appended next."""
    return 1 + max((line.run for line in lines(path)), default=0) if path.exists() else 1
