"""Sends letters again or drops them, each once, whatever is killed and whoever else is at it.

What became of a letter is an event on `dead-letters`, in one transaction with the record that was
sent again. All operators of a namespace share one transactional id, and each transaction has a
producer of its own: its beginning settles what any producer before it left open, and fences that
producer. What is resolved is read only then, so nothing can be resolved between reading and
committing; and no late request of an earlier transaction can end a later one (clients of Python
have no KIP-890).
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from consumers.deadletters.book import Book, Letter
from infra.envelope import message
from infra.faults import Point
from infra.log import Aborted, Doubtful, Fenced, Log, LogUnavailable, Message
from schemas.learning import DeadLetterResolution

TRANSACTIONAL_ID = "dlq"
BATCH = 500
BATCH_BYTES = 4 << 20
"""A transaction takes no more than this, unless its one letter is larger."""
PATIENCE_S = 60.0
_AGAIN_S = 0.5


class Overtaken(Exception):
    """Another operator has taken over; what was committed so far stays."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of one letter: what is said of it, and what is sent again, if anything."""

    letter: Letter
    action: Literal["requeued", "dropped"]
    note: str = ""
    send: Message | None = None
    policy: str | None = None
    mission_id: str | None = None
    value_sha256: str | None = None
    patch_sha256: str | None = None

    @property
    def size_bytes(self) -> int:
        """About what it takes in a transaction."""
        return 512 + (len(self.send.value) if self.send else 0)

    def resolution(self, run: str) -> DeadLetterResolution:
        """The event that says so."""
        return DeadLetterResolution(
            letter=self.letter.at,
            origin=self.letter.origin,
            action=self.action,
            run=run,
            policy=self.policy,
            mission_id=self.mission_id,
            value_sha256=self.value_sha256,
            patch_sha256=self.patch_sha256,
            note=self.note,
        )


@dataclass
class Outcome:
    """What a run has done so far."""

    run: str
    done: int = 0
    """Letters that this run resolved."""
    before: int = 0
    """Letters that were resolved by others meanwhile."""
    transactions: int = 0


@dataclass
class Resolver:
    """Carries out decisions, in transactions of `batch` letters."""

    log: Log
    book: Book
    point: Point = lambda name: None
    batch: int = BATCH
    patience_s: float = PATIENCE_S
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    report: Callable[[int], None] = lambda done: None
    """Told how many letters are settled."""
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def __post_init__(self) -> None:
        self.outcome = Outcome(self.run_id)

    def run(self, decisions: Iterable[Decision]) -> Outcome:
        """Carry them out in order; `outcome` tells how far it got, also when this raises.

        Raises `Overtaken`, and `LogError` after `patience_s` without success.
        """
        for batch in _batches(decisions, self.batch):
            self._settle(batch)
            self.report(self.outcome.done + self.outcome.before)
        return self.outcome

    def _settle(self, batch: Sequence[Decision]) -> None:
        """Try until each letter of the batch is resolved, by this run or by another."""
        until = self.clock() + self.patience_s
        while True:
            try:
                self._publish(batch)
                return
            except Fenced as error:
                raise Overtaken(
                    "another `ralo dlq` has taken over, or this one stood still for too long; "
                    f"{self.outcome.done:,} letters were done, and none is done twice: run it "
                    f"again for the rest ({error})"
                ) from error
            except (Aborted, Doubtful, LogUnavailable):
                if self.clock() > until:
                    raise
                self.sleep(_AGAIN_S)

    def _publish(self, batch: Sequence[Decision]) -> None:
        with contextlib.closing(self.log.writer(TRANSACTIONAL_ID)) as writer:
            self.book.catch_up()
            left, mine, others = self._split(batch)
            if left:
                writer.publish(list(self._messages(left)), {}, "", None, self.point)
                self.outcome.transactions += 1
            self.outcome.done += len(left) + mine
            self.outcome.before += others

    def _split(self, batch: Sequence[Decision]) -> tuple[list[Decision], int, int]:
        """What is left to do, one a record; how many are done by this run, how many by others."""
        left: dict[str, Decision] = {}
        mine = others = 0
        for decision in batch:
            resolved = self.book.resolved(decision.letter)
            if resolved is not None and (resolved.run, resolved.letter) == (
                self.run_id,
                decision.letter.at,
            ):
                mine += 1
            elif resolved is not None or decision.letter.origin in left:
                others += 1
            else:
                left[_once(decision)] = decision
        return list(left.values()), mine, others

    def _messages(self, batch: Sequence[Decision]) -> Iterator[Message]:
        for decision in batch:
            if decision.send is not None:
                yield decision.send
            yield message(decision.resolution(self.run_id))


def settle(log: Log) -> None:
    """Settle what a run that was killed has left open; a run at work is fenced by it."""
    log.writer(TRANSACTIONAL_ID).close()


def _once(decision: Decision) -> str:
    """What must not be done twice: of a record buried several times, each letter may be dropped."""
    return decision.letter.origin if decision.send is not None else decision.letter.at


def _batches(decisions: Iterable[Decision], count: int) -> Iterator[list[Decision]]:
    batch: list[Decision] = []
    size_bytes = 0
    for decision in decisions:
        if batch and (len(batch) == count or size_bytes + decision.size_bytes > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(decision)
        size_bytes += decision.size_bytes
    if batch:
        yield batch
