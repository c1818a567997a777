"""What a group keeps beside each committed offset: the published range, and attempts.

A record that kills the process is found by counting: before a batch whose predecessors died, the
attempt is committed as metadata of the unchanged offset; each further death halves the batch until
the record that was tried alone is known.
"""

import json
from dataclasses import dataclass, replace

from infra.log import Mark

UNKNOWN = -1
CAREFUL_AFTER = 3
"""Deaths in a row before batches are halved; a few may be an operator's kills."""
DEADLY_AFTER = 5
"""Deaths in a row, the last with the record alone, before it is taken for the cause."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The metadata of one committed offset.

    `mark` is the end of the last range that an output named as its source; `attempts` how often a
    process died below `until`; `alone` the offset that was being tried by itself; `mirror` where
    the partition that mirrors this one ended some time before (`infra.mirror`), or `UNKNOWN`.
    """

    mark: int = 0
    attempts: int = 0
    until: int = 0
    alone: int = -1
    mirror: int = UNKNOWN

    @classmethod
    def parse(cls, mark: Mark | None) -> "Progress":
        """From a committed mark; foreign or missing metadata counts as none."""
        if mark is None:
            return cls()
        try:
            fields = json.loads(mark.metadata)
            attempts = fields.get("a", 0), fields.get("u", 0), fields.get("t", -1)
            return cls(fields["m"], *attempts, fields.get("o", UNKNOWN))
        except (ValueError, KeyError, TypeError):
            return cls(mark=mark.offset)

    def at(self, offset: int) -> Mark:
        """The mark to commit with an offset."""
        fields = {"m": self.mark}
        if self.mirror != UNKNOWN:
            fields["o"] = self.mirror
        if self.attempts:
            fields |= {"a": self.attempts, "u": self.until, "t": self.alone}
        return Mark(offset, json.dumps(fields, separators=(",", ":")))

    def careful(self, position: int) -> bool:
        """Whether records from here on may be deadly."""
        return self.attempts >= CAREFUL_AFTER and position < self.until

    def deadly(self, offset: int) -> bool:
        """Whether this record, tried alone, has killed the process often enough."""
        return offset >= 0 and self.alone == offset and self.attempts >= DEADLY_AFTER

    def trying(self, until: int, alone: int) -> "Progress":
        """One more attempt, up to `until`; `alone` is the offset tried by itself, or -1."""
        return replace(self, attempts=self.attempts + 1, until=max(self.until, until), alone=alone)

    def done(self, mark: int, position: int) -> "Progress":
        """After success: past the dangerous stretch the count starts anew."""
        if position >= self.until:
            return Progress(mark, mirror=self.mirror)
        return replace(self, mark=mark, alone=-1)

    def limit(self, max_batch: int) -> int:
        """How many records to try together."""
        return max(1, max_batch >> max(0, self.attempts - CAREFUL_AFTER + 1))
