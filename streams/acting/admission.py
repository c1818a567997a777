"""Which commands may be carried out: decided in log order, once for each record.

A command is void in another boot than its own, under an older epoch than the newest claim, when its
number is not above all seen of its epoch, and from its deadline on. So none is executed twice, late
or for a controller that was replaced, whatever is delivered again.
"""

from collections import OrderedDict

from schemas.acting import Command, Outcome

_NUMBERS_REMEMBERED = 4096


class Admission:
    """What is known of the epochs and numbers of one robot's commands in this boot."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id
        self.epoch = -1
        self._newest = -1
        self._seen: OrderedDict[int, None] = OrderedDict()

    def claim(self, epoch: int) -> bool:
        """A controller claims the robot at this offset; whether that is news."""
        if epoch <= self.epoch:
            return False
        self.epoch, self._newest = epoch, -1
        self._seen.clear()
        return True

    def judge(self, offset: int, command: Command, now_ms: float) -> Outcome | None:
        """Why this command is not to be carried out; None where it may be."""
        if command.boot_id != self._boot_id:
            return "lost"
        # No claim can stand behind an epoch that is not before its command.
        if command.controller_epoch < self.epoch or command.controller_epoch >= offset:
            return "old-epoch"
        self.claim(command.controller_epoch)
        if command.seq in self._seen:
            return "duplicate"
        if command.seq <= self._newest:
            return "superseded"
        self._remember(command.seq)
        return "expired" if now_ms >= command.deadline_ms else None

    def _remember(self, seq: int) -> None:
        self._newest = seq
        self._seen[seq] = None
        if len(self._seen) > _NUMBERS_REMEMBERED:
            self._seen.popitem(last=False)
