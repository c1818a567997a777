"""Where an instance stands in each partition that it owns: bookkeeping, without any I/O."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from infra.intake import Taken
from infra.log import Mark
from infra.progress_marks import Progress
from schemas.effects import Bury
from schemas.records import Partition

logger = logging.getLogger("ralo.driver")

After = dict[Partition, tuple[Progress, int]]
"""What holds once a batch is published: the progress and the offset of each of its partitions."""


class Positions:
    """The committed offsets of the owned partitions and what is known beside them."""

    def __init__(self) -> None:
        self.committed: dict[Partition, int] = {}
        self._progress: dict[Partition, Progress] = {}
        self._fresh: set[Partition] = set()
        self._noted: dict[Partition, tuple[Progress, Progress]] = {}
        self._publishing: set[Partition] = set()
        self._passed: set[Partition] = set()

    @property
    def noted(self) -> bool:
        """Whether the log holds an attempt of this process, to be taken for a death if it ends."""
        return bool(self._noted)

    def tried(self, partitions: Collection[Partition]) -> bool:
        """Whether the log holds an attempt of this process in any of these."""
        return not self._noted.keys().isdisjoint(partitions)

    @property
    def owned(self) -> list[Partition]:
        """The partitions that were taken over and not left since."""
        return list(self._progress)

    def leave(self) -> None:
        """Own nothing until the next take-over."""
        self._progress = {}

    def take_over(
        self,
        marks: Mapping[Partition, Mark | None],
        wished: Mapping[Partition, int],
        first: Callable[[Partition], int],
    ) -> dict[Partition, int]:
        """Own these partitions from now on; answers where each is to be read from.

        All below a committed offset is settled, dead letters included; a wish may lie before it.
        """
        if marks:
            # An attempt in a partition that went to another member is that one's to judge; who
            # owns none may only have lost them while the broker was away.
            self._noted = {p: noted for p, noted in self._noted.items() if p in marks}
        self._progress = {p: self._survived(p, Progress.parse(mark)) for p, mark in marks.items()}
        start = starts(marks, wished, first)
        self.committed, self._fresh = dict(start), set(start)
        self._publishing.clear()
        self._passed.clear()
        return start

    def pass_over(self, passed: Mapping[Partition, int]) -> None:
        """Count what lies before these offsets as published; it is, though not committed."""
        for partition, offset in passed.items():
            logger.warning(
                "%s: published from %d up to %d by a transaction that was torn: not done again",
                partition,
                self.committed[partition],
                offset,
            )
            old = self._progress[partition]
            self._progress[partition] = replace(old, mark=max(old.mark, offset))
            self._passed.add(partition)

    def see_mirrors(self, ends: Mapping[int, int]) -> None:
        """Note where the mirrors' partitions, by number, ended before what is published next."""
        for partition, progress in self._progress.items():
            # Until a commit moves past what was published, a successor has to find it again.
            if partition not in self._passed:
                end = ends.get(partition.number, progress.mirror)
                self._progress[partition] = replace(progress, mirror=end)

    def _survived(self, partition: Partition, found: Progress) -> Progress:
        """An attempt noted by this very process, which is still alive, was no death."""
        before, noted = self._noted.get(partition, (found, None))
        if found == noted:
            return before
        self._noted.pop(partition, None)
        return found

    def careful(self) -> Partition | None:
        """A partition whose next records may be deadly."""
        for partition, progress in self._progress.items():
            if progress.careful(self.committed[partition]):
                return partition
        return None

    def limit(self, partition: Partition, max_batch: int) -> int:
        """How many of a dangerous partition's records to try together."""
        return self._progress[partition].limit(max_batch)

    def marks(self, taken: Taken) -> dict[Partition, int]:
        """The end of the last published range of each partition in a batch."""
        return {p: self._progress[p].mark for p in taken.first}

    def attempt(self, taken: Taken) -> dict[Partition, Mark]:
        """What to commit first, where a predecessor may have died of these very records.

        A record that has killed often enough is moved to the batch's dead letters.
        """
        marks = {}
        for partition in taken.first:
            progress = self._progress[partition]
            if partition not in self._fresh and not progress.attempts:
                continue
            self._fresh.discard(partition)
            offsets = [r.offset for r in taken.records if r.partition == partition]
            alone = offsets[0] if len(offsets) == 1 else -1
            if progress.deadly(alone):
                _bury_deadly(taken, partition, progress.attempts)
            elif offsets:
                trying = progress.trying(taken.after[partition], alone)
                self._noted[partition] = (progress, trying)
                # Not `first`: what lies before it may be held, or not committed yet.
                marks[partition] = trying.at(self.committed[partition])
        return marks

    def survived(
        self, owned: Collection[Partition], suspected: bool = False
    ) -> dict[Partition, Mark]:
        """What to commit to take back the attempts noted in these partitions: nobody died.

        With `suspected`, only where predecessors died.
        """
        return {
            partition: before.at(self.committed[partition])
            for partition, (before, _) in self._noted.items()
            if partition in self._progress and partition in owned
            # Where a commit's reply did not come, another would undo it.
            if partition not in self._publishing
            if before.attempts or not suspected
        }

    def taken_back(self, partitions: Collection[Partition]) -> None:
        """What `survived` said was committed."""
        for partition in partitions:
            self._noted.pop(partition, None)

    def after(self, taken: Taken, source: Mapping[str, tuple[int, int]]) -> After:
        """Where a batch leads that is published with this source."""
        after = {}
        for partition, position in taken.after.items():
            old = self._progress[partition]
            mark = source[str(partition)][1] if str(partition) in source else old.mark
            after[partition] = (old.done(mark, position), position)
        return after

    def standing(self) -> After:
        """Where outputs lead that no record caused: nowhere."""
        return {p: (self._progress[p], at) for p, at in self.committed.items()}

    def publishing(self, after: After) -> None:
        """A batch is being committed; unless `published` follows, a take-over tells if it was."""
        self._publishing.update(after)

    def published(self, after: After) -> None:
        """A batch was committed."""
        for partition, (progress, position) in after.items():
            self._progress[partition] = progress
            self.committed[partition] = position
            self._fresh.discard(partition)
            self._publishing.discard(partition)
            self._passed.discard(partition)
            self._noted.pop(partition, None)

    def moved(self, positions: Mapping[Partition, int]) -> None:
        """What `at` said was committed."""
        self.committed.update(positions)
        self._passed.difference_update(positions)
        self.taken_back(positions)

    def at(self, positions: Mapping[Partition, int]) -> dict[Partition, Mark]:
        """What to commit to move to these offsets without any output."""
        return {p: self._progress[p].at(offset) for p, offset in positions.items()}


def starts(
    marks: Mapping[Partition, Mark | None],
    wished: Mapping[Partition, int],
    first: Callable[[Partition], int],
) -> dict[Partition, int]:
    """Where partitions with these committed marks are to be read from; `first` where none is."""
    return {
        p: max(mark.offset, wished.get(p, 0)) if mark else wished.get(p, first(p))
        for p, mark in marks.items()
    }


def _bury_deadly(taken: Taken, partition: Partition, attempts: int) -> None:
    record = next(r for r in taken.records if r.partition == partition)
    detail = f"the process died {attempts} times in a row while working on it"
    taken.records.remove(record)
    taken.buried.append(Bury(record, "deadly", detail))
    logger.error("%s: %s; sent to the dead letters", record.at, detail)
