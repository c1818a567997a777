"""The books of commands: each executed once at most, in time, in its epoch, and accounted for."""

from collections import OrderedDict
from dataclasses import dataclass, field

from consumers.audit.acting_releases import ReleaseBook
from consumers.audit.books import Books
from consumers.audit.positions import code_of, decode
from consumers.audit.recent import Recent
from schemas.acting import Command, CommandOutcome, ControllerClaim, Feedback, PolicyRef
from schemas.base import Event
from schemas.ids import digest
from schemas.records import Partition, Record
from schemas.topics import COMMANDS, FEEDBACK, FUSED_STATES

GRACE_MS = 10_000
"""A command without an outcome is on its way so long, in the time of the log."""

Id = tuple[int, int]
"""A command's epoch and number."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """One command in the log that has no outcome yet."""

    at: str
    id: Id
    boot_id: str
    deadline_ms: float
    policy: PolicyRef
    logged_ms: int


@dataclass(slots=True)
class _Boot:
    """What one life of an actuator said so far."""

    next_seq: int | None = None
    applied: Id = (-1, -1)


@dataclass(slots=True)
class _Robot:
    claims: set[int] = field(default_factory=set)
    next_seq: dict[int, int] = field(default_factory=dict)
    """Of each epoch."""
    open: OrderedDict[int, _Sent] = field(default_factory=OrderedDict)
    """Commands without an outcome by offset, oldest first."""
    settled: Recent[int, Id] = field(default_factory=Recent)
    digests: Recent[Id, str] = field(default_factory=Recent)
    boots: dict[str, _Boot] = field(default_factory=dict)
    newest: _Boot | None = None
    epoch: int = -1
    """The newest of which a command was applied."""
    heard_ms: int | None = None
    passed: bool = False
    """Whether feedback said how far commands are settled."""


class CommandBook:
    """Claims, commands and feedback of the robots of one partition."""

    def __init__(self, books: Books, releases: ReleaseBook, number: int) -> None:
        self._books, self._releases, self._number = books, releases, number
        self._judge, self._counts = books.findings.judge, books.findings.counts
        self._first = books.bounds.log(Partition(COMMANDS.name, number))[0]
        self._trimmed = books.bounds.log(Partition(FEEDBACK.name, number))[0] > 0
        self._states = Partition(FUSED_STATES.name, number)
        self._robots: dict[str, _Robot] = {}

    def end_of(self, feedback: Feedback) -> int:
        """How far commands must have been read to judge this feedback."""
        named = (code_of(outcome.at, COMMANDS.name) for outcome in feedback.outcomes)
        after = [decode(position)[1] + 1 for position in named if position is not None]
        return max([feedback.commands_next, *after])

    # -- what controllers want --------------------------------------------------------------

    def command(self, record: Record, event: Event) -> None:
        """Take in one record of `commands`."""
        match event:
            case ControllerClaim():
                self._robot(event.robot_id).claims.add(record.offset)
                self._counts["controller_claims"] += 1
            case Command():
                self._command(record, event)

    def _command(self, record: Record, command: Command) -> None:
        robot, id_ = self._robot(command.robot_id), (command.controller_epoch, command.seq)
        where = f"{record.at}: command {command.command_id}"
        claimed = id_[0] in robot.claims or id_[0] < self._first
        self._judge("command-epoch", claimed, f"{where}: its epoch is no claim before it")
        self._judge_sequence(robot, record, id_, where)
        self._judge_source(command, where)
        self._releases.judge_policy(
            command.robot_id, command.policy, float(record.timestamp_ms), where
        )
        robot.open[record.offset] = _Sent(
            record.at,
            id_,
            command.boot_id,
            command.deadline_ms,
            command.policy,
            record.timestamp_ms,
        )
        self._counts["commands"] += 1

    def _judge_sequence(self, robot: _Robot, record: Record, id_: Id, where: str) -> None:
        epoch, seq = id_
        sha256 = digest(record.value or b"")
        expected = robot.next_seq.get(epoch, seq if epoch < self._first else 0)
        if seq < expected:
            same = robot.digests.may_hold(id_, sha256)
            self._judge("command-id", same, f"{where} is there with another content")
            self._counts["commands_copied"] += 1
            return
        self._judge("command-id", True, where)
        self._counts["commands_unsent"] += seq - expected
        robot.next_seq[epoch] = seq + 1
        robot.digests[id_] = sha256

    def _judge_source(self, command: Command, where: str) -> None:
        start, stop = command.source.get(str(self._states), (0, 0))
        named = list(command.source) == [str(self._states)] and start < stop
        inside = named and self._books.bounds.has(self._states, stop)
        self._judge("command-source-end", inside, f"{where}: {dict(command.source)}")

    # -- what became of it ------------------------------------------------------------------

    def feedback(self, record: Record, feedback: Feedback) -> None:
        """Take in one feedback, the commands that it names having been taken in."""
        robot = self._robot(feedback.robot_id)
        boot = robot.boots.get(feedback.boot_id)
        if boot is None:
            boot = robot.boots[feedback.boot_id] = robot.newest = _Boot()
        if boot.next_seq is not None and feedback.seq < boot.next_seq:
            self._counts["feedback_copied"] += 1
            return
        self._counts["feedback"] += 1
        if boot.next_seq is not None:
            self._counts["feedback_missing"] += feedback.seq - boot.next_seq
        boot.next_seq = feedback.seq + 1
        robot.heard_ms = max(robot.heard_ms or 0, record.timestamp_ms)
        if feedback.policy is not None:
            self._releases.judge_policy(
                feedback.robot_id, feedback.policy, float(record.timestamp_ms), record.at
            )
        for outcome in feedback.outcomes:
            self._outcome(robot, boot, feedback, record.at, outcome)
        self._judge_passed(robot, feedback.commands_next, record.at)

    def _outcome(
        self, robot: _Robot, boot: _Boot, feedback: Feedback, at: str, outcome: CommandOutcome
    ) -> None:
        id_ = outcome.controller_epoch, outcome.seq
        where = f"{at}: {outcome.outcome} {feedback.robot_id}.{id_[0]}.{id_[1]} at {outcome.at}"
        self._counts[f"commands_{outcome.outcome.replace('-', '_')}"] += 1
        sent = self._settle(robot, outcome, id_, where)
        if outcome.outcome != "applied":
            return
        in_time = outcome.at_ms <= outcome.deadline_ms and (
            sent is None or sent.boot_id == feedback.boot_id
        )
        self._judge(
            "command-in-time",
            in_time,
            f"{where}: at {outcome.at_ms:.1f} of {outcome.deadline_ms:.1f} ms, "
            f"boot {feedback.boot_id}",
        )
        self._judge_applied(robot, boot, id_, where)

    def _judge_applied(self, robot: _Robot, boot: _Boot, id_: Id, where: str) -> None:
        """A command is for one boot only, so it is enough to look at what this boot applied."""
        epoch = boot.applied[0]
        if boot is robot.newest:
            epoch = max(epoch, robot.epoch)
        self._judge("command-epoch-order", id_[0] >= epoch, f"{where} after epoch {epoch}")
        if id_[0] == boot.applied[0]:
            self._judge("command-once", id_ > boot.applied, f"{where} after {boot.applied[1]}")
        else:
            self._judge("command-once", True, where)
        boot.applied, robot.epoch = max(boot.applied, id_), max(robot.epoch, id_[0])

    def _settle(self, robot: _Robot, outcome: CommandOutcome, id_: Id, where: str) -> _Sent | None:
        """The command that an outcome names; judges that it is the one at that position."""
        position = code_of(outcome.at, COMMANDS.name)
        number, offset = decode(position) if position is not None else (-1, 0)
        if number == self._number and offset < self._first:
            self._counts["outcomes_of_expired"] += 1
            return None
        sent = robot.open.pop(offset, None) if number == self._number else None
        if sent is not None:
            same = (sent.id, sent.deadline_ms, sent.policy) == (
                id_,
                outcome.deadline_ms,
                outcome.policy,
            )
            robot.settled[offset] = id_
            self._judge_settled(sent, True)
        else:
            same = number == self._number and robot.settled.may_hold(offset, id_)
            self._counts["outcomes_again"] += same
        self._judge("outcome-of-command", same, f"{where}: not the command there")
        return sent

    def _judge_passed(self, robot: _Robot, commands_next: int, at: str) -> None:
        """What feedback says to be settled has an outcome."""
        expired = self._trimmed and not robot.passed
        robot.passed |= commands_next > 0
        while robot.open and next(iter(robot.open)) < commands_next:
            _, sent = robot.open.popitem(last=False)
            if not expired:  # Else its outcome may be in what retention took.
                self._judge_settled(sent, False, f"{at} is past it")

    def _judge_settled(self, sent: _Sent, holds: bool, why: str = "") -> None:
        where = f"{sent.at}: command {sent.id[0]}.{sent.id[1]} has no outcome; {why}"
        self._judge("command-settled", holds, where)

    def finish(self) -> None:
        """Judge what has no outcome: on its way, unless its robot has gone on without a word."""
        for robot in self._robots.values():
            for sent in robot.open.values():
                waits_ms = (robot.heard_ms or 0) - sent.logged_ms
                late = waits_ms > GRACE_MS
                self._judge_settled(sent, not late, f"feedback went on for {waits_ms} ms")
                self._counts["commands_open"] += not late

    def _robot(self, robot_id: str) -> _Robot:
        return self._robots.setdefault(robot_id, _Robot())
