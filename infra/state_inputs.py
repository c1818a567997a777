"""State inputs: topics of which every instance reads all, from the start or the newest head."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from infra.intake import foreign
from infra.log import Log
from infra.patience import GaveUp, Patience
from schemas.effects import Processor
from schemas.partitioner import partition_for
from schemas.records import Partition
from schemas.topics import WEIGHT_HEADS, NewerSchema, Undecodable, decode

logger = logging.getLogger("ralo.driver")

POLL_S = 0.005
ONE_TRANSACTION_MS = 10_000
"""A head and its version are written in one transaction: the version is at most this much older."""


class StateInputs:
    """Feeds a processor's `observe` with the state events of its policy."""

    def __init__(self, processor: Processor, log: Log, patience: Patience) -> None:
        self._processor, self._log, self._patience = processor, log, patience
        self._reader = log.state_reader(self._start())

    def observe(self, timeout_s: float = 0.0) -> None:
        """Take in what has come; raises `GaveUp` for an event of a newer schema."""
        policy = self._processor.policy
        for record in self._reader.poll(500, timeout_s):
            if foreign(record, policy):
                continue
            try:
                event = decode(record.partition.topic, record.value)
            except Undecodable as error:
                # Whoever owns the topic as work sends the dead letter.
                logger.warning("%s: not decodable as state: %s", record.at, error)
                continue
            except NewerSchema as error:
                raise GaveUp(f"{record.at}: {error}: start a newer version of ralo") from error
            if policy is None or getattr(event, "policy", policy) == policy:
                self._processor.observe(replace(record, event=event))

    def catch_up(self, topics: Sequence[str]) -> None:
        """Observe up to the ends as of now; open transactions settle or time out first."""
        what = f"the state topics {', '.join(topics)} to be read to their ends"
        self._patience.until_available(what, lambda: self._reader.snapshot(topics))
        vain = self._patience.wait(what)
        while self._reader.behind(topics):
            self.observe(POLL_S)
            vain(None)

    def positions(self) -> dict[Partition, int]:
        """The next offset to be read of each partition."""
        return self._reader.positions()

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _start(self) -> dict[Partition, int]:
        start: dict[Partition, int] = {}
        for source in self._processor.state:
            ends = self._log.ends(source.topic.name)
            if source.since_head and self._processor.policy is not None:
                start |= self._since_head(ends, self._processor.policy)
            else:
                start |= {partition: first for partition, (first, _) in ends.items()}
        return start

    def _since_head(
        self, ends: dict[Partition, tuple[int, int]], policy: str
    ) -> dict[Partition, int]:
        """From just before the policy's newest head; other policies' partitions from their ends."""
        start = {partition: end for partition, (_, end) in ends.items()}
        mine = next(p for p in ends if p.number == partition_for(policy.encode(), len(ends)))
        newest_ms = self._newest_head_ms(policy)
        if newest_ms is None:
            start[mine] = ends[mine][0]
        else:
            start[mine] = self._log.offset_at(mine, newest_ms - ONE_TRANSACTION_MS)
        return start

    def _newest_head_ms(self, policy: str) -> int | None:
        topic = WEIGHT_HEADS.name
        ends = self._log.ends(topic)
        reader = self._log.state_reader({p: first for p, (first, _) in ends.items()})
        reader.snapshot([topic])
        newest: int | None = None
        while reader.behind([topic]):
            for record in reader.poll(500, POLL_S):
                if record.key == policy.encode():
                    newest = record.timestamp_ms
        reader.close()
        return newest
