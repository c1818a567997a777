"""The books of missions: what was asked for, what is held out, how each ended."""

from dataclasses import dataclass, field

from pydantic import ValidationError

from consumers.audit.books import Books
from consumers.audit.objects import Named, ObjectChecker
from schemas.base import Event
from schemas.ids import canonical_text
from schemas.learning import Problem
from schemas.missions import Mission, MissionReport, MissionResult
from schemas.records import Record
from schemas.tensors import ObjectRef


@dataclass(slots=True)
class MissionEntry:
    """One mission: its policy, its bound on staleness, its held-out questions and ids."""

    policy: str
    staleness_max: int
    heldout: set[str] = field(default_factory=set)
    heldout_ids: set[str] = field(default_factory=set)
    result: str | None = None


class MissionBook:
    """All missions of the log, by id."""

    def __init__(self, books: Books, objects: ObjectChecker) -> None:
        self._books, self._objects = books, objects
        self.entries: dict[str, MissionEntry] = {}
        self._refs: list[tuple[list[Named], str]] = []

    def observe(self, record: Record, event: Event) -> None:
        """Take in one event of `missions`; of missions with one id the first counts."""
        match event:
            case Mission() as mission if mission.mission_id not in self.entries:
                entry = MissionEntry(mission.policy, mission.training.staleness_max)
                self.entries[mission.mission_id] = entry
                self._books.findings.counts["missions"] += 1
            case MissionReport() as report:
                self._report(report, record.at)

    def _report(self, report: MissionReport, at: str) -> None:
        base = [*report.base_files.values(), *report.base_shards.values()]
        heldout = [report.heldout] if report.heldout else []
        self._refs.append((self._books.refs.named([*base, *heldout]), at))
        entry = self.entries.get(report.mission_id)
        if self.is_known(report.mission_id, report.policy, at) and entry and report.heldout:
            self._hold_out(entry, report.heldout)

    def _hold_out(self, entry: MissionEntry, ref: ObjectRef) -> None:
        for line in (self._objects.read(ref) or b"").splitlines():
            try:
                problem = Problem.model_validate_json(line)
            except ValidationError:
                continue  # The hash of the object is judged with all others.
            entry.heldout.add(canonical_text(problem.question))
            entry.heldout_ids.add(problem.problem_id)

    def is_known(self, mission_id: str, policy: str, at: str) -> bool:
        """Judge whether the mission is in the log and has this policy."""
        entry = self.entries.get(mission_id)
        known = entry is not None and entry.policy == policy
        where = f"{at}: mission {mission_id} of policy {policy}"
        return self._books.findings.judge("mission-known", known, where)

    def result(self, record: Record, result: MissionResult) -> None:
        """Take in a mission's result."""
        if not self.is_known(result.mission_id, result.policy, record.at):
            return
        entry = self.entries[result.mission_id]
        where = f"{record.at}: mission {result.mission_id} again"
        self._books.findings.judge("mission-result-once", entry.result is None, where)
        entry.result = entry.result or result.outcome

    def name_objects(self) -> None:
        """Say which objects of missions must be in the store."""
        for named, at in self._refs:
            self._books.refs.may_expire(named, at)
