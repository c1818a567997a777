"""The orchestrator's table as the rest of it sees it: rows of JSON, one a mission."""

from collections.abc import Mapping
from typing import Any

from schemas.missions import MissionControl, MissionResult
from schemas.records import Record
from streams.missions.state import MissionState, due, is_told, mission_of, observe

Row = dict[str, Any]
"""A `MissionState` as JSON, without what is None."""


class Desk:
    """Reads rows and says what they should become; whoever holds the table writes them.

    A row is true by itself: it says up to where in each partition it was told all that concerns
    it. So it does not matter which rows a crash, or a second writer for a moment, left older than
    others: reading starts where the row that lags most needs it (of those without a result, or
    without what it was made of), and every row refuses what it knows.
    """

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._rows = rows
        self._read: dict[str, int] = {}

    def begin(self) -> dict[str, int]:
        """Take up the rows as they are; the offset to read on from, per partition that has one."""
        rows = self._rows.values()
        needed = [row["marks"] for row in rows if not is_done_with(row)]
        marks = [row["marks"] for row in rows]
        starts: dict[str, int] = {}
        for partition in {partition for seen in marks for partition in seen}:
            if needed:
                starts[partition] = 1 + min(seen.get(partition, -1) for seen in needed)
            else:
                starts[partition] = 1 + max(seen.get(partition, -1) for seen in marks)
        self._read = {partition: start - 1 for partition, start in starts.items()}
        return starts

    def take(self, record: Record) -> tuple[str, Row] | None:
        """The row that a decoded record changes, as it is after; None where it changes none."""
        mission_id = mission_of(record.event) if record.event else None
        change = None if mission_id is None else self._change(mission_id, record)
        self._read[str(record.partition)] = record.offset
        return change

    def _change(self, mission_id: str, record: Record) -> tuple[str, Row] | None:
        row = self._rows.get(mission_id)
        state = MissionState.model_validate(row) if row else MissionState(mission_id=mission_id)
        after = observe(state, record, self._samples_of(getattr(record.event, "policy", "")))
        if after is state:
            return None
        # It was told of everything read so far, the partitions that say nothing of it included.
        marks = {p: max(offset, after.marks.get(p, -1)) for p, offset in self._read.items()}
        after = after.model_copy(update={"marks": {**after.marks, **marks}})
        return mission_id, after.model_dump(mode="json", exclude_none=True)

    def _samples_of(self, policy: str) -> int:
        # All versions of a policy lie in one partition, so what earlier missions learnt from is
        # in their rows before the first version of the next mission is read.
        rows = (row for row in self._rows.values() if row["policy"] == policy)
        return max((row["samples_total"] for row in rows), default=0)

    def due(self, now_ms: int) -> list[MissionControl | MissionResult]:
        """Everything that must be published now."""
        states = [MissionState.model_validate(row) for row in self._rows.values() if is_open(row)]
        return [event for state in states if (event := due(state, now_ms))]

    def views(self) -> list[Row]:
        """All missions that were submitted, oldest first."""
        submitted = [row for row in self._rows.values() if "submitted_ms" in row]
        order = sorted(submitted, key=lambda row: (row["submitted_ms"], row["mission_id"]))
        return [view_of(row) for row in order]

    def view(self, mission_id: str) -> Row | None:
        """One mission, or None where nothing is known of it."""
        row = self._rows.get(mission_id)
        return view_of(row) if row else None


def is_done_with(row: Row) -> bool:
    """Whether nothing that lies on the log must be read for this row."""
    return "result" in row and is_told(MissionState.model_validate(row))


def is_open(row: Row) -> bool:
    """Whether a mission was submitted and has no result yet."""
    return "submitted_ms" in row and "result" not in row


def view_of(row: Row) -> Row:
    """A row as people read it: with its phase, without the bookkeeping of offsets."""
    state = MissionState.model_validate(row)
    shown = state.model_dump(mode="json", exclude_none=True, exclude={"marks", "samples_total"})
    return {"mission_id": state.mission_id, "phase": state.phase, **shown}
