"""The books of problems: each once, numbered, apart from the held-out ones, and settled once."""

from collections import defaultdict
from dataclasses import dataclass

from consumers.audit.books import Books, Coverage
from consumers.audit.missions import MissionBook
from consumers.audit.positions import code, text
from consumers.audit.ranges import Ranges
from consumers.audit.report import MissionBooks
from schemas.ids import canonical_text
from schemas.learning import Problem
from schemas.records import Record
from schemas.topics import PROBLEMS, SAMPLES

TOPIC = PROBLEMS.name


@dataclass(slots=True)
class ProblemEntry:
    """One problem; `outcome` is what its sample groups say, "" while there is none."""

    mission: str
    policy: str
    position: int
    outcome: str = ""


class ProblemBook:
    """All problems of the log, by id."""

    def __init__(self, books: Books, missions: MissionBook) -> None:
        self._books, self._missions = books, missions
        self.entries: dict[str, ProblemEntry] = {}
        self._indices: defaultdict[str, Ranges] = defaultdict(Ranges)
        self._dead: list[tuple[str, int]] = []

    def observe(self, record: Record, problem: Problem) -> None:
        """Take in one problem."""
        position = code(record.partition.number, record.offset)
        self._missions.is_known(problem.mission_id, problem.policy, record.at)
        self._hold_apart(record, problem)
        old = self.entries.get(problem.problem_id)
        if old is None:
            entry = ProblemEntry(problem.mission_id, problem.policy, position)
            self.entries[problem.problem_id] = entry
        elif self._is_dead(old.position):
            # An operator requeued it.
            old.position = position
            self._books.findings.counts["problems_requeued"] += 1
        self._number(record, problem, position, old)

    def _number(
        self, record: Record, problem: Problem, position: int, old: ProblemEntry | None
    ) -> None:
        """Judge that neither id nor index came before; a dead letter and its copy are one."""
        if self._is_dead(position):
            self._dead.append((problem.mission_id, problem.index))
            return
        fresh = self._indices[problem.mission_id].add(problem.index, problem.index + 1)
        once = fresh and (old is None or old.position == position)
        where = f"{record.at}: {problem.problem_id}, index {problem.index}, was there before"
        self._books.findings.judge("problem-once", once, where)

    def _hold_apart(self, record: Record, problem: Problem) -> None:
        mission = self._missions.entries.get(problem.mission_id)
        if mission and mission.heldout:
            apart = canonical_text(problem.question) not in mission.heldout
            where = f"{record.at}: {problem.problem_id} is held out"
            self._books.findings.judge("heldout-apart", apart, where)

    def _is_dead(self, position: int) -> bool:
        return self._books.dead.has(TOPIC, position)

    def settle(self, entry: ProblemEntry, outcome: str, at: str) -> None:
        """A sample group says what became of the problem."""
        once = entry.outcome in ("", outcome) and not self._is_dead(entry.position)
        place = text(TOPIC, entry.position)
        where = f"{at}: {outcome}, but {place} is {entry.outcome or 'a dead letter'}"
        self._books.findings.judge("problem-settled-once", once, where)
        entry.outcome = entry.outcome or outcome

    def finish(self, coverage: Coverage) -> dict[str, MissionBooks]:
        """Judge what is unsettled, and the numbering; answers the balance of each mission."""
        balances = {
            id_: MissionBooks(policy=m.policy, result=m.result)
            for id_, m in self._missions.entries.items()
        }
        for entry in self.entries.values():
            balance = balances.setdefault(entry.mission, MissionBooks(policy=entry.policy))
            balance.problems += 1
            fate = self._fate(entry, coverage)
            setattr(balance, fate, getattr(balance, fate) + 1)
            self._books.findings.counts[f"problems_{fate}"] += 1
        self._books.findings.counts["problems"] = len(self.entries)
        self._judge_numbers()
        return balances

    def _fate(self, entry: ProblemEntry, coverage: Coverage) -> str:
        if entry.outcome:
            return entry.outcome
        if self._is_dead(entry.position):
            return "dead"
        verdict = coverage.verdict(entry.policy, entry.position)
        place = text(TOPIC, entry.position)
        judge = self._books.findings.judge
        judge("problem-lost", verdict != "covered", f"{place}: nothing came of it")
        judge("samples-source-gap", verdict != "gap", f"{place}: in no {SAMPLES.name}")
        return "in_flight" if verdict == "ahead" else "lost"

    def _judge_numbers(self) -> None:
        for mission, index in self._dead:
            self._indices[mission].add(index, index + 1)
        trimmed = self._books.bounds.is_trimmed(TOPIC)
        for mission, indices in self._indices.items():
            missing = [] if trimmed else list(indices.gaps())
            where = f"mission {mission}: no problem with index in {missing[:5]} (half-open ranges)"
            self._books.findings.judge("problem-index", not missing, where)
