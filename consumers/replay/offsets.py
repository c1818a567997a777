"""Which offsets of a partition are selected: runs of neighbours, sixteen bytes each."""

from array import array
from collections.abc import Iterable, Sequence

from infra.copying import Raw


class Offsets:
    """Increasing offsets; `count` is how many they are, where each is a record's."""

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts, self._nexts = array("q"), array("q")
        for first, after in runs:
            if first < after:
                self._firsts.append(first)
                self._nexts.append(after)

    def add(self, offset: int) -> None:
        """Take one more, greater than all so far."""
        if self._nexts and self._nexts[-1] == offset:
            self._nexts[-1] = offset + 1
        else:
            self._firsts.append(offset)
            self._nexts.append(offset + 1)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    @property
    def first(self) -> int:
        """The first of them."""
        return self._firsts[0]

    @property
    def next(self) -> int:
        """One past the last."""
        return self._nexts[-1]

    @property
    def count(self) -> int:
        """How many they are."""
        return sum(self._nexts) - sum(self._firsts)

    def runs(self) -> list[tuple[int, int]]:
        """Half-open ranges of neighbours."""
        return list(zip(self._firsts, self._nexts, strict=True))

    def after(self, offset: int) -> "Offsets":
        """Those greater than this one."""
        return Offsets((max(first, offset + 1), after) for first, after in self.runs())


class Sieve:
    """Lets selected records through; ask it in the order of offsets."""

    def __init__(self, offsets: Offsets) -> None:
        self._runs = offsets.runs()
        self._at = 0

    def __call__(self, records: Sequence[Raw]) -> Sequence[Raw]:
        """Those of the records that are selected."""
        if not records:
            return records
        self._pass(records[0].offset)
        if self._at < len(self._runs):
            first, after = self._runs[self._at]
            if first <= records[0].offset and records[-1].offset < after:
                return records
        return [record for record in records if self._has(record.offset)]

    def _pass(self, offset: int) -> None:
        while self._at < len(self._runs) and self._runs[self._at][1] <= offset:
            self._at += 1

    def _has(self, offset: int) -> bool:
        self._pass(offset)
        return self._at < len(self._runs) and self._runs[self._at][0] <= offset
