"""The books of safety events: none lost, none twice, and every change of mode follows the last."""

from dataclasses import dataclass, field

from consumers.audit.books import Books
from consumers.audit.recent import Recent
from schemas.acting import MODES, Mode, SafetyEvent
from schemas.ids import digest
from schemas.records import Record


@dataclass(slots=True)
class _Robot:
    next_seq: int | None = None
    mode: Mode | None = None
    digests: Recent[int, str] = field(default_factory=Recent)


class SafetyBook:
    """Safety events by robot; their numbers and modes go on over all boots."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._robots: dict[str, _Robot] = {}

    def observe(self, record: Record, event: SafetyEvent) -> None:
        """Take in one event; a copy of one is dropped, as readers drop it."""
        robot = self._robots.setdefault(event.robot_id, _Robot())
        judge, counts = self._books.findings.judge, self._books.findings.counts
        where = f"{record.at}: safety event {event.seq} of {event.robot_id}"
        sha256 = digest(record.value or b"")
        if robot.next_seq is not None and event.seq < robot.next_seq:
            same = robot.digests.may_hold(event.seq, sha256)
            judge("safety-sequence", same, f"{where} is there with another content")
            counts["safety_events_copied"] += 1
            return
        robot.digests[event.seq] = sha256
        expected = self._first(record) if robot.next_seq is None else robot.next_seq
        follows = expected is None or event.seq == expected
        judge("safety-sequence", follows, f"{where}, expected {expected}")
        self._judge_mode(robot, event, where)
        robot.next_seq, robot.mode = event.seq + 1, event.after
        counts["safety_events"] += 1

    def _first(self, record: Record) -> int | None:
        """What a robot's first number must be: unknown where retention took older records."""
        return None if self._books.bounds.log(record.partition)[0] else 0

    def _judge_mode(self, robot: _Robot, event: SafetyEvent, where: str) -> None:
        judge = self._books.findings.judge
        if robot.mode is not None:
            follows = event.before == robot.mode
            judge("safety-mode", follows, f"{where}: {event.before} after {robot.mode}")
        before, after = MODES.index(event.before), MODES.index(event.after)
        moved = f"{where}: {event.before} to {event.after} by {event.cause}"
        ended = event.before == "TERMINATED"
        judge("safety-final", not ended or after == before, moved)
        if not ended:
            freed = before >= MODES.index("HOLD") and after < before
            judge("safety-reset", not freed or event.cause == "reset", moved)
