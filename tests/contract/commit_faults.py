"""What can happen to a commit on its way; `BrokerProxy` does it to a real broker's."""

from typing import Any, Protocol


class CommitFaults(Protocol):
    """Harms the next commit; see `BrokerProxy` for the faults."""

    @property
    def armed(self) -> bool:
        """Whether no commit has come to harm since `arm`."""
        ...

    def arm(self, fault: str) -> None:
        """What happens to the next commit."""
        ...

    def deliver_late(self) -> None:
        """Let the requests arrive that were kept."""
        ...


_KNOBS = {
    "reply lost": "lose_next_commit_reply",
    "request late": "fail_next_commit",
    "request twice": "repeat_next_commit",
    "copy kept": "repeat_next_commit",
    "cut before": "fail_next_commit",
    "cut after": "lose_next_commit_reply",
}


class MemoryCommits:
    """The same on the memory log, whose client does not ask again over another connection."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._fault = ""

    @property
    def armed(self) -> bool:
        """Whether no commit has come to harm since `arm`."""
        return bool(getattr(self._log.faults, _KNOBS[self._fault]))

    def arm(self, fault: str) -> None:
        """What happens to the next commit."""
        self._fault = fault
        setattr(self._log.faults, _KNOBS[fault], 1)

    def deliver_late(self) -> None:
        """Let the requests arrive that were kept; what a broken connection lost stays lost."""
        if self._fault != "cut before":
            self._log.deliver_late()
