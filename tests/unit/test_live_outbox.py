"""What a control path publishes while the broker is away: what lasts waits, the rest does not."""

from collections.abc import Iterable, Sequence

from infra.live_loop import LiveLoop
from infra.log import Message
from infra.memory.live import MemoryLiveWriter
from infra.memory.log import MemoryLog
from schemas.acting import Command, PolicyRef, Release
from schemas.base import Event
from schemas.live import LiveInput
from schemas.records import Record
from schemas.topics import PROVISIONED

AWAY_S = 60.0
"""So long the broker was away, as it seems to this log's writers."""


class _Outage(MemoryLiveWriter):
    """Gives up what it would have had to keep for longer than its patience."""

    patience_s = 0.0
    given_up = 0

    def send(self, message: Message) -> bool:
        if self.patience_s < AWAY_S:
            self.given_up += 1
            return True
        return super().send(message)

    @property
    def lost(self) -> int:
        return self.given_up


class _AwayLog(MemoryLog):
    def live_writer(self, patience_s: float = 10.0, compressed: bool = False) -> _Outage:
        writer = _Outage(self._view)
        writer.patience_s = patience_s
        return writer


class _Swapping:
    """Tells of a swap, and commands."""

    name = "swapping"
    robots: Sequence[str] = ("arm-1",)
    tick_ms: float | None = 1.0
    inputs: Sequence[LiveInput] = ()

    def replay(self, record: Record) -> None:
        raise AssertionError("it reads nothing")

    def take(self, record: Record) -> Iterable[Event]:
        raise AssertionError("it reads nothing")

    def tick(self, now_ms: float) -> Iterable[Event]:
        ref = PolicyRef(policy="arm", version=3, sha256="0" * 64)
        yield Release(
            release_id="r", robot_id="arm-1", policy="arm", version=3, stage="SWAPPED", wall_ms=0
        )
        yield Command(
            robot_id="arm-1",
            boot_id="b",
            controller_epoch=0,
            seq=0,
            stamp_ms=0,
            deadline_ms=1,
            frame_seq=0,
            set_point=[0, 0],
            policy=ref,
            source={},
        )


def test_a_release_outlives_an_outage_that_commands_do_not() -> None:
    log = _AwayLog()
    log.provision(list(PROVISIONED))
    loop = LiveLoop(_Swapping(), log)
    loop.start()
    loop.turn(wait_s=0.0)
    loop.close()
    kept = {t: sum(end for _, end in log.ends(t).values()) for t in ("releases", "commands")}
    assert kept == {"releases": 1, "commands": 0}
