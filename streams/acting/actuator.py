"""From commands to set-points: what one robot does in each period, and what it says of it.

Pure: times are given, in the robot's monotonic clock. A period is `sense`, `take` for each record
that came, `step`, the driver's `apply`, then `done`; `feedback` now and then.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.acting import (
    Command,
    CommandOutcome,
    ControllerClaim,
    Feedback,
    LoopHealth,
    OperatorOrder,
    Outcome,
    PolicyRef,
    Reading,
)
from schemas.partitioner import partition_for
from schemas.topics import COMMANDS
from streams.acting.admission import Admission
from streams.acting.limits import Limits
from streams.acting.monitor import SafetyMonitor
from streams.acting.safety import Change

OUTCOMES_MAX = 200
"""In one feedback event, which so stays below the limit of an event."""


@dataclass(frozen=True, slots=True)
class _Taken:
    offset: int
    command: Command


class Actuator:
    """One life of a robot's actuator."""

    def __init__(
        self, robot_id: str, boot_id: str, safety: SafetyMonitor, limits: Limits, next_offset: int
    ) -> None:
        self.robot_id, self.boot_id, self.safety = robot_id, boot_id, safety
        self.next_offset = next_offset
        """Records of `commands` before this one have been taken."""
        self.changes: list[Change] = []
        """What safety has to say; whoever runs this takes it away."""
        self._limits = limits
        self._admission = Admission(boot_id)
        self._partition = partition_for(robot_id.encode(), COMMANDS.partitions)
        self._pending: _Taken | None = None
        self._acting: _Taken | None = None
        self._taking_up: tuple[_Taken, float, list[str]] | None = None
        self._outcomes: deque[tuple[int, CommandOutcome]] = deque()
        self._feedback_seq = 0
        self.applied: list[float] = list(limits.last)
        self.begun = 0
        """How many commands were carried out."""

    # --- what comes in

    def sense(self, readings: Sequence[Reading], driver_error: str | None = None) -> None:
        """Take in what the driver read, or what it raised."""
        self.safety.sense(readings)
        self.safety.driver_says(driver_error)

    def stalled(self, since_ms: float) -> None:
        """No set-point was given for so long; of no matter to a robot that rests."""
        if self._acting is not None or not self._limits.at_rest:
            self.safety.stalled(since_ms)

    def take(
        self,
        offset: int,
        event: Command | ControllerClaim | OperatorOrder,
        now_ms: float,
        past: bool = False,
    ) -> None:
        """Take in the record at this offset; what was taken before is passed over."""
        if offset < self.next_offset:
            return
        self.next_offset = offset + 1
        match event:
            case Command():
                self._take_command(_Taken(offset, event), now_ms)
            case ControllerClaim():
                if self._admission.claim(offset):
                    self._replace_epoch(now_ms)
            case OperatorOrder():
                self.order(event, now_ms, past)

    def skip_to(self, offset: int) -> None:
        """There is nothing for this robot before this offset."""
        self.next_offset = max(self.next_offset, offset)

    def order(self, order: OperatorOrder, now_ms: float, past: bool = False) -> None:
        """Carry out a person's order, by whichever way it came."""
        change = self.safety.order(order, now_ms, past)
        if change is not None:
            self.changes.append(change)

    def _take_command(self, taken: _Taken, now_ms: float) -> None:
        command, before = taken.command, self._admission.epoch
        refusal = self._admission.judge(taken.offset, command, now_ms)
        if self._admission.epoch > before:
            self._replace_epoch(now_ms)
        if refusal is not None:
            self._report(taken, refusal, now_ms)
            return
        fresh = self.safety.is_fresh(command.stamp_ms)
        if fresh:
            self.safety.commanded(now_ms)
        if not (fresh and self.safety.moves and self._limits.fits(command.set_point)):
            self._report(taken, "unsafe", now_ms)
            return
        self._drop_pending("superseded", now_ms)
        self._pending = taken

    def _replace_epoch(self, now_ms: float) -> None:
        self._drop_pending("old-epoch", now_ms)
        self._acting = None

    def _drop_pending(self, outcome: Outcome, now_ms: float) -> None:
        if self._pending is not None:
            self._report(self._pending, outcome, now_ms)
            self._pending = None

    # --- what goes out

    def step(self, now_ms: float, dt_s: float) -> list[float]:
        """The set-point of this period; `done` must be told what became of it."""
        self.changes.extend(self.safety.step(now_ms))
        if not self.safety.moves:
            self._drop_pending("unsafe", now_ms)
            self._acting = None
            return self._limits.brake(dt_s)
        self._begin(now_ms)
        if self._acting is None:
            return self._limits.brake(dt_s)
        degraded = self.safety.mode == "DEGRADED"
        wanted = self._acting.command.set_point
        values, named = self._limits.towards(wanted, dt_s, degraded)
        if self._taking_up is not None:
            self._taking_up[2].extend(named)
        return values

    def _begin(self, now_ms: float) -> None:
        if self._pending is not None and now_ms >= self._pending.command.deadline_ms:
            self._drop_pending("expired", now_ms)
        if self._pending is not None:
            self._taking_up = (self._pending, now_ms, [])
            self._acting, self._pending = self._pending, None
        if self._acting is not None and now_ms >= self._acting.command.deadline_ms:
            self._acting = None

    def done(self, applied: Sequence[float] | None, now_ms: float) -> None:
        """What the driver says it does now; None where it failed, and may have done it or not.

        A command whose driver failed is reported as `unsafe` and not tried again.
        """
        if self._taking_up is not None:
            (taken, at_ms, named), self._taking_up = self._taking_up, None
            outcome: Outcome = "unsafe" if applied is None else "applied"
            self.begun += applied is not None
            self._report(taken, outcome, at_ms, list(applied or ()), named)
        if applied is None:
            self._acting = None
        else:
            self.applied = list(applied)

    def _report(
        self,
        taken: _Taken,
        outcome: Outcome,
        at_ms: float,
        applied: Sequence[float] = (),
        limits: Sequence[str] = (),
    ) -> None:
        command = taken.command
        said = CommandOutcome(
            controller_epoch=command.controller_epoch,
            seq=command.seq,
            outcome=outcome,
            at=f"{COMMANDS.name}[{self._partition}]@{taken.offset}",
            at_ms=at_ms,
            deadline_ms=command.deadline_ms,
            policy=command.policy,
            applied=list(applied),
            limits=list(limits),
        )
        self._outcomes.append((taken.offset, said))

    @property
    def policy(self) -> PolicyRef | None:
        """Of the command that is carried out now."""
        return self._acting.command.policy if self._acting else None

    def feedback(self, now_ms: float, wall_ms: float, loop: LoopHealth | None = None) -> Feedback:
        """What is to be said now; the outcomes in it are said with it, and not again."""
        count = min(len(self._outcomes), OUTCOMES_MAX)
        said = [self._outcomes.popleft()[1] for _ in range(count)]
        self._feedback_seq += 1
        return Feedback(
            robot_id=self.robot_id,
            boot_id=self.boot_id,
            seq=self._feedback_seq - 1,
            stamp_ms=now_ms,
            wall_ms=wall_ms,
            mode=self.safety.mode,
            applied=self.applied,
            policy=self.policy,
            outcomes=said,
            loop=loop,
            commands_next=self._settled_until(),
            controller_epoch=self._admission.epoch if self._admission.epoch >= 0 else None,
        )

    def _settled_until(self) -> int:
        """The first offset of `commands` whose outcome has not been said."""
        unsaid = [offset for offset, _ in self._outcomes]
        open_ = [taken.offset for taken in (self._pending,) if taken is not None]
        begun = [self._taking_up[0].offset] if self._taking_up else []
        return min([self.next_offset, *unsaid, *open_, *begun])
