"""What a group's own outputs say was worked on, where the group's offsets do not know of it.

A transaction can be torn: a commit request of an older one arrives late, between the outputs and
the offsets of the next, and commits those outputs alone (there is no KIP-890 in any Python client).
A reader with high marks refuses what is made of the same records again; where the outputs are read
by a group, nobody keeps such marks. Those outputs lie in the partition with the number of the
partition that they were made of, so who takes that over looks there first.

Each commit's metadata says where that partition ended some time before it, so no clock is trusted
and little is read.
"""

from collections.abc import Callable, Mapping

from infra.intake import foreign
from infra.log import Log
from infra.patience import Patience
from infra.progress_marks import UNKNOWN
from schemas.base import Event
from schemas.records import Partition, Record
from schemas.topics import NewerSchema, Topic, Undecodable, decode

REFRESH_S = 5.0
ONE_TRANSACTION_MS = 10_000
"""By so much an output's clock may be behind that of what it was made of."""
_POLL_S = 0.005
_MAX_RECORDS = 500


class Mirror:
    """The outputs of one processor's group in one topic."""

    def __init__(
        self,
        topic: Topic,
        policy: str | None,
        log: Log,
        patience: Patience,
        clock: Callable[[], float],
    ) -> None:
        self._topic, self._policy, self._log = topic, policy, log
        self._patience, self._clock = patience, clock
        self._ends: dict[int, int] = {}
        self._asked_s = -REFRESH_S

    def passed(
        self, start: Mapping[Partition, int], since: Mapping[Partition, int]
    ) -> dict[Partition, int]:
        """Where to start instead, for partitions of which more was published than is committed.

        `start` is where they would be read from, `since` where their outputs ended before.
        """
        known = {p: at for p, at in since.items() if at != UNKNOWN}
        begin = known | self._by_time({p: at for p, at in start.items() if p not in known})
        if not begin:
            return {}
        mine = {Partition(self._topic.name, p.number): p for p in begin}
        found = dict(start)
        reader = self._log.state_reader({m: begin[p] for m, p in mine.items()})
        try:
            reader.snapshot([self._topic.name])
            vain = self._patience.wait(f"what was published to {self._topic.name} to be settled")
            while reader.behind([self._topic.name]):
                records = reader.poll(_MAX_RECORDS, _POLL_S)
                for record in records:
                    source = mine[record.partition]
                    found[source] = max(found[source], self._covers(record, source))
                if not records:
                    vain(None)
        finally:
            reader.close()
        return {p: at for p, at in found.items() if at > start[p]}

    def ends(self) -> dict[int, int]:
        """Where each partition ended at a moment that is past, by number; asked now and then."""
        if self._clock() - self._asked_s >= REFRESH_S:
            self._asked_s = self._clock()
            found = self._log.ends(self._topic.name)
            self._ends = {partition.number: end for partition, (_, end) in found.items()}
        return self._ends

    def _covers(self, record: Record, source: Partition) -> int:
        """The end of the range that an output of ours names as its source; 0 for others'."""
        if foreign(record, self._policy):
            return 0
        try:
            event: Event = decode(record.partition.topic, record.value)
        except (Undecodable, NewerSchema):
            return 0
        if self._policy is not None and getattr(event, "policy", None) != self._policy:
            return 0
        return int(getattr(event, "source", {}).get(str(source), (0, 0))[1])

    def _by_time(self, start: Mapping[Partition, int]) -> dict[Partition, int]:
        """Where a group has committed nothing: no output is older than the first of its records."""
        begin = {}
        for partition, offset in start.items():
            first = self._record_at(partition, offset)
            if first is not None:
                mirrored = Partition(self._topic.name, partition.number)
                since_ms = first.timestamp_ms - ONE_TRANSACTION_MS
                begin[partition] = self._log.offset_at(mirrored, since_ms)
        return begin

    def _record_at(self, partition: Partition, offset: int) -> Record | None:
        """The first committed record from there on, or None where there is none yet."""
        stable = self._log.stable_ends([partition])[partition]
        reader = self._log.state_reader({partition: offset})
        try:
            vain = self._patience.wait(f"{partition} to be read up to {stable}")
            while reader.positions()[partition] < stable:
                records = reader.poll(1, _POLL_S)
                if records:
                    return records[0]
                vain(None)
        finally:
            reader.close()
        return None
