"""The books of sample groups: each of one problem, once, and accounted for once."""

from collections import Counter
from dataclasses import dataclass

from consumers.audit.books import Books, Coverage
from consumers.audit.missions import MissionBook
from consumers.audit.positions import code, decode, partition_of, text
from consumers.audit.problems import ProblemBook, ProblemEntry
from infra.copying import REPLAY_OF
from schemas.learning import SampleGroup
from schemas.records import Partition, Record
from schemas.topics import PROBLEMS, SAMPLES

TOPIC = SAMPLES.name


@dataclass(slots=True)
class GroupEntry:
    """One sample group; `fate` is what uploads say of it, "" while there is none.

    A copy in a sandbox was sampled elsewhere, under no version of this log.
    """

    group_id: str
    policy: str
    version: int | None
    rollouts: int | None
    fate: str = ""


class SampleBook:
    """All sample groups of the log, by position."""

    def __init__(self, books: Books, missions: MissionBook, problems: ProblemBook) -> None:
        self._books, self._missions, self._problems = books, missions, problems
        self.entries: dict[int, GroupEntry] = {}
        self.coverage = Coverage(books, "samples", PROBLEMS.name)
        self.versions: dict[tuple[str, int], str] = {}
        """Where a version was first named as that of a sample."""
        self._by_id: dict[str, int] = {}

    def observe(self, record: Record, group: SampleGroup) -> None:
        """Take in one sample group."""
        position = code(record.partition.number, record.offset)
        rollouts = None if group.rollouts_ref else group.size
        replayed = REPLAY_OF in record.headers
        version = None if replayed else group.version
        self.entries[position] = GroupEntry(group.group_id, group.policy, version, rollouts)
        if version is not None:
            self.versions.setdefault((group.policy, version), record.at)
        objects = [ref for ref in (group.rollouts_ref, group.episodes_ref) if ref]
        if objects and not self._books.dead.has(TOPIC, position):
            self._books.refs.need(self._books.refs.named(objects), record.at)
        self._books.findings.counts["rollouts"] += rollouts or 0
        self._books.findings.counts["groups_replayed"] += replayed
        if self._is_first(record, group, position) and not replayed:
            # What a copy was made from lies in another log.
            self.coverage.add(group.policy, group.source, record.at)
            self._of_problem(record, group)

    def _is_first(self, record: Record, group: SampleGroup, position: int) -> bool:
        """Whether this use was not sampled before; a dead letter's copy was, and is no fault."""
        old = self._by_id.setdefault(group.group_id, position)
        if old == position:
            return True
        requeued = self._books.dead.has(TOPIC, old)
        where = f"{record.at}: {group.group_id} is at {text(TOPIC, old)} already"
        self._books.findings.judge("group-once", requeued, where)
        self._by_id[group.group_id] = position if requeued else old
        return False

    def _of_problem(self, record: Record, group: SampleGroup) -> None:
        judge = self._books.findings.judge
        judge("group-once", True, record.at)
        problem = self._problems.entries.get(group.problem_id)
        if problem is None:
            self._without_problem(record, group)
            return
        same = (problem.mission, problem.policy) == (group.mission_id, group.policy)
        where = f"{record.at}: {group.problem_id} of mission {group.mission_id}"
        judge("group-of-problem", same, where)
        outcome = "sampled" if group.outcome == "sampled" else "cancelled"
        self._problems.settle(problem, outcome, record.at)
        judge("group-source", _holds(group, problem), f"{record.at}: {group.source}")

    def _without_problem(self, record: Record, group: SampleGroup) -> None:
        judge = self._books.findings.judge
        mission = self._missions.entries.get(group.mission_id)
        where = f"{record.at}: {group.problem_id}"
        if mission and group.problem_id in mission.heldout_ids:
            judge("heldout-apart", False, f"{where} is held out")
        elif not self._may_be_deleted(group):
            judge("group-of-problem", False, f"{where} is no problem in the log")

    def _may_be_deleted(self, group: SampleGroup) -> bool:
        """Whether retention has taken what this group was made from."""
        parts = [(partition_of(name), stop) for name, (_, stop) in group.source.items()]
        return any(part and self._books.bounds.was_deleted(part, stop - 1) for part, stop in parts)

    def finish(self, uploads: Coverage) -> Counter[str]:
        """Judge what no upload lists; answers how many groups have which fate."""
        fates: Counter[str] = Counter()
        for position, entry in self.entries.items():
            fates[self._fate(position, entry, uploads)] += 1
        self._books.findings.counts["groups"] = len(self.entries)
        return fates

    def _fate(self, position: int, entry: GroupEntry, uploads: Coverage) -> str:
        dead = self._books.dead.has(TOPIC, position)
        judge = self._books.findings.judge
        # The trainer lists as dropped what it buries.
        once = not dead or entry.fate in ("", "dropped", "open")
        judge("group-settled-once", once, f"{text(TOPIC, position)}: dead and {entry.fate}")
        if entry.fate or dead:
            return entry.fate or "dead"
        verdict = uploads.verdict(entry.policy, position)
        where = f"{text(TOPIC, position)}: {entry.group_id}"
        judge("group-lost", verdict != "covered", f"{where} is covered but not listed")
        judge("uploads-source-gap", verdict != "gap", f"{where} is in no upload")
        return "waiting" if verdict == "ahead" else "lost"


def _holds(group: SampleGroup, problem: ProblemEntry) -> bool:
    """Whether the group's source holds the position of its problem."""
    number, offset = decode(problem.position)
    start, stop = group.source.get(str(Partition(PROBLEMS.name, number)), (0, 0))
    return start <= offset < stop
