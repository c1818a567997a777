"""The selected records of several partitions in one order: that of their timestamps."""

import heapq
import queue
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing

from consumers.replay.offsets import Offsets, Sieve
from consumers.replay.promptness import come_first
from infra.copying import Raw
from infra.log import Log, LogUnavailable
from schemas.records import Partition
from schemas.topics import TOPICS

Run = tuple[Partition, Sequence[Raw]]
"""Records of one partition that follow each other in the order of all."""

BATCH = 1000
"""Records of a partition that are read at a time, where all goes as fast as it can."""
PACED_BATCH = 100
PACKS_AHEAD = 16
"""Read ahead of a paced replay, each of at most two batches: what waits in memory is bounded."""
_POLL_S = 0.02
_PATIENCE_S = 120.0

_RANK = {name: rank for rank, name in enumerate(TOPICS)}


class Cursor:
    """Where one partition is being read; begins to fetch when it is made."""

    def __init__(self, log: Log, partition: Partition, offsets: Offsets, batch: int) -> None:
        self._size = batch
        self.partition, self.rank = partition, (_RANK[partition.topic], partition.number)
        self._sieve, self._next = Sieve(offsets), offsets.next
        self._reader = log.raw_reader(partition, offsets.first)
        self._batch: Sequence[Raw] = ()
        self._at = 0

    @property
    def head(self) -> tuple[int, tuple[int, int]]:
        """The time and rank of the next record; `fill` said that there is one."""
        return self._batch[self._at].timestamp_ms, self.rank

    def fill(self) -> bool:
        """Read on until a record is at hand; False where all are read. Raises `LogError`."""
        since_s: float | None = None
        while self._at >= len(self._batch):
            left = self._next - self._reader.position
            if left <= 0:
                return False
            records = self._reader.poll(min(self._size, left), _POLL_S)
            since_s = None if records else since_s or time.monotonic()
            if since_s and time.monotonic() - since_s > _PATIENCE_S:
                raise LogUnavailable(self._stuck())
            self._batch, self._at = self._sieve(records), 0
        return True

    def take(self, until: tuple[int, tuple[int, int]] | None) -> Sequence[Raw]:
        """The records at hand up to that of another partition that comes next; None for all."""
        begin, batch = self._at, self._batch
        self._at = len(batch)
        if until is not None:
            end = begin + 1
            while end < len(batch) and (batch[end].timestamp_ms, self.rank) <= until:
                end += 1
            self._at = end
        return batch[begin : self._at]

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _stuck(self) -> str:
        where = f"{self.partition.topic}[{self.partition.number}]@{self._reader.position}"
        return (
            f"{where}: nothing came for {_PATIENCE_S:.0f} s before offset {self._next}; a "
            "transaction hangs open (the broker ends it after its timeout): try again"
        )


def merged(
    log: Log, offsets: Mapping[Partition, Offsets], coarse: bool = False
) -> Generator[Run, None, None]:
    """The selected records in the order of time, then of topics and partitions.

    A partition's own order is kept, also where its timestamps go backward. `coarse` takes what is
    at hand of a partition at once: what is sent together has no order across partitions in the
    log anyway. Raises `LogError`.
    """
    with ExitStack() as stack:
        # All begin to fetch before the first is waited for.
        size = BATCH if coarse else PACED_BATCH
        made = (Cursor(log, partition, them, size) for partition, them in offsets.items())
        cursors = [stack.enter_context(closing(cursor)) for cursor in made]
        heap = [(*cursor.head, cursor) for cursor in cursors if cursor.fill()]
        heapq.heapify(heap)
        while heap:
            cursor = heap[0][2]
            other = None if coarse or len(heap) == 1 else min(heap[1:3])[:2]
            yield cursor.partition, cursor.take(other)
            if cursor.fill():
                heapq.heapreplace(heap, (*cursor.head, cursor))
            else:
                heapq.heappop(heap)


class Ahead:
    """Reads runs in a thread of its own, a bounded number ahead, so that no send waits for one.

    Iterate it once; `close` stops the thread. What the reading raises, the iteration raises.
    """

    def __init__(self, runs: Generator[Run, None, None]) -> None:
        self._runs = runs
        self._packs: queue.Queue[list[Run] | Exception | None] = queue.Queue(PACKS_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="replay reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Run]:
        while (pack := self._packs.get()) is not None:
            if isinstance(pack, Exception):
                raise pack
            yield from pack

    def _read(self) -> None:
        come_first()
        pack: list[Run] = []
        count = 0
        try:
            with closing(self._runs):
                for run in self._runs:
                    pack.append(run)
                    count += len(run[1])
                    if count >= PACED_BATCH:
                        self._hand_over(pack)
                        pack, count = [], 0
                    if self._closed.is_set():
                        return
            self._hand_over(pack)
            self._hand_over(None)
        except Exception as error:
            self._hand_over(error)

    def _hand_over(self, pack: list[Run] | Exception | None) -> None:
        while not self._closed.is_set():
            try:
                self._packs.put(pack, timeout=0.1)
                return
            except queue.Full:
                continue

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        self._thread.join(10)
