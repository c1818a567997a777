"""What became of dead letters, held against the records that were sent again."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from consumers.audit.positions import Bounds
from consumers.audit.report import Findings
from consumers.deadletters.book import REQUEUE_OF
from infra.copying import REPLAY_OF
from schemas.ids import digest
from schemas.learning import DeadLetterResolution
from schemas.records import Partition, Record, parse_at
from schemas.topics import DEAD_LETTERS


@dataclass(slots=True)
class _Fate:
    """What is said of one letter, and what was sent again of it."""

    said: list[tuple[str, DeadLetterResolution]] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    """Where each lies, and its SHA-256."""


class Resolutions:
    """Which letters were requeued or dropped; learnt before any other topic is read."""

    def __init__(
        self, findings: Findings, bounds: Bounds, began: Mapping[Partition, int] | None
    ) -> None:
        self._findings, self._bounds, self._began = findings, bounds, began
        self._fates: defaultdict[str, _Fate] = defaultdict(_Fate)
        self._requeued: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, record: Record, event: DeadLetterResolution) -> None:
        """Take in what became of a letter."""
        self._findings.counts[f"letters_{event.action}"] += 1
        self._fates[event.letter].said.append((record.at, event))
        if event.action == "requeued":
            self._requeued[event.origin].append(event.letter)

    def copy(self, record: Record) -> None:
        """Note a record that was sent again; in a sandbox that of another log says nothing."""
        letter = record.headers.get(REQUEUE_OF)
        if letter is not None and REPLAY_OF not in record.headers:
            fate = self._fates[letter.decode(errors="replace")]
            fate.copies.append((record.at, digest(record.value or b"")))

    def finish(self, letters: dict[str, str]) -> None:
        """Judge all; `letters` says of each letter by place what record it is of."""
        for letter, fate in self._fates.items():
            if fate.said:
                self._judge_said(letter, fate, letters.get(letter))
            self._judge_copies(letter, fate)

    def _judge_said(self, letter: str, fate: _Fate, origin: str | None) -> None:
        at, event = fate.said[0]
        known = origin == event.origin or (origin is None and self._was_deleted(letter))
        once = len(fate.said) == 1 and known and len(self._requeued[event.origin]) <= 1
        others = ", ".join(other for other, _ in fate.said[1:])
        where = f"{at}: {letter}, of {event.origin}"
        where = f"{where}, also {others}" if others else where
        self._findings.judge("letter-settled-once", once, where)

    def _judge_copies(self, letter: str, fate: _Fate) -> None:
        judge = self._findings.judge
        said = [(at, event) for at, event in fate.said if event.action == "requeued"]
        for at, sha256 in fate.copies:
            right = bool(said) and said[0][1].value_sha256 in (None, sha256)
            once = len(fate.copies) == 1
            judge("letter-requeued-once", right and once, f"{at}: sent again of {letter}")
        if said:
            there = bool(fate.copies) or self._may_be_unread(*said[0])
            judge("letter-lost", there, f"{said[0][0]}: {letter} was sent again nowhere")

    def _may_be_unread(self, at: str, event: DeadLetterResolution) -> bool:
        """Deleted by retention, or sent again after this audit began."""
        partition, offset = parse_at(at)
        if self._began is not None and offset >= self._began.get(partition, 0):
            return True
        return self._bounds.is_trimmed(parse_at(event.origin)[0].topic)

    def _was_deleted(self, letter: str) -> bool:
        try:
            partition, offset = parse_at(letter)
        except ValueError:
            return False
        return partition.topic == DEAD_LETTERS.name and self._bounds.was_deleted(partition, offset)
