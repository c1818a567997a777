"""The records of the owned partitions, in batches, while the group is kept alive between them."""

from collections.abc import Callable

from infra.intake import Taken
from infra.log import WorkReader
from infra.positions import Positions
from schemas.effects import Intake
from schemas.records import Partition, Record

IDLE_POLL_S = 0.005
SERVE_EVERY_S = 0.5
"""How often a long piece of work lets the group speak."""
SKIPPED_MAX = 2000
"""After so many records of other policies, the loop does its other duties first."""


class Feed:
    """One membership's records; those read while others were wanted are kept for later."""

    def __init__(
        self, reader: WorkReader, positions: Positions, clock: Callable[[], float]
    ) -> None:
        self._reader, self._positions, self._clock = reader, positions, clock
        self._ahead: list[Record] = []
        self._paused = False
        self._served = clock()

    def restart(self) -> None:
        """Forget what was read: the reader was started elsewhere."""
        self._ahead.clear()
        self._paused = False

    def waiting(self) -> set[Partition]:
        """The partitions of which records were read that are not yet taken."""
        return {record.partition for record in self._ahead}

    def idle(self) -> None:
        """Serve the group without taking records."""
        self._pause()
        self._ahead += self._reader.poll(1, IDLE_POLL_S)

    def serve(self) -> None:
        """Let the group speak during long work."""
        if self._clock() - self._served > SERVE_EVERY_S:
            self._served = self._clock()
            self._pause()
            self._ahead += self._reader.poll(1, 0.0)

    def _pause(self) -> None:
        if not self._paused:
            self._reader.pause(self._positions.owned)
            self._paused = True

    def resume(self) -> None:
        """Let records come again."""
        self._served = self._clock()
        if self._paused:
            self._reader.resume(self._positions.owned)
            self._paused = False

    def take(
        self, intake: Intake, add: Callable[[Taken, Record], None], observe: Callable[[], None]
    ) -> Taken:
        """The next batch; a dangerous partition's comes alone, and halved."""
        careful = self._positions.careful()
        limit, wait_s = intake.max_batch, intake.max_wait_ms / 1000
        if careful is not None:
            limit, wait_s = self._positions.limit(careful, limit), 0.0
        taken = Taken()
        until: float | None = None
        while len(taken.records) + len(taken.buried) < limit:
            records = self._poll(limit - len(taken.records) - len(taken.buried), careful)
            for record in records:
                add(taken, record)
            observe()
            if until is None and taken.records:
                until = self._clock() + wait_s
            if not records and (until is None or self._clock() >= until):
                break
            if taken.skipped > SKIPPED_MAX and not taken.records:
                break
        return taken

    def _poll(self, limit: int, only: Partition | None) -> list[Record]:
        """Records kept from earlier first; those of other partitions are kept back if `only`."""
        ready = [r for r in self._ahead if only in (None, r.partition)][:limit]
        if ready:
            chosen = {(r.partition, r.offset) for r in ready}
            self._ahead = [r for r in self._ahead if (r.partition, r.offset) not in chosen]
            return ready
        records = self._reader.poll(limit, IDLE_POLL_S)
        if only is None:
            return records
        self._ahead += [r for r in records if r.partition != only]
        return [r for r in records if r.partition == only]
