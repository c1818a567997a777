"""What the log says of swaps: that what acted was always one whole policy, and a released one.

Nothing of the process that was killed is asked: only `releases`, `feedback` and the store.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from consumers.read import read
from infra.log import Log
from infra.store import ObjectStore
from schemas.acting import STAGES, Feedback, PolicyRef, Release, Stage
from schemas.effects import BadObject
from streams.acting.control.policy import PolicyError, load_policy
from streams.acting.control.tracker import TRACKER


@dataclass
class SwapBooks:
    """Counts, and every breach in a line."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)

    def judge(self, good: bool, what: str) -> None:
        """Note a breach where it is one."""
        if not good:
            self.breaches.append(what)


def swap_books(log: Log, store: ObjectStore, robot_id: str) -> SwapBooks:
    """The books of one robot's swaps."""
    books = SwapBooks()
    mine = [r.event for r in read("releases", log=log)]
    releases = [e for e in mine if isinstance(e, Release) and e.robot_id == robot_id]
    told = [r.event for r in read("feedback", log=log)]
    feedback = [e for e in told if isinstance(e, Feedback) and e.robot_id == robot_id]
    _judge_ways(books, releases)
    acted = _acted(books, feedback)
    _judge_whole(books, acted, _whole(releases, store))
    _judge_order(books, acted, releases)
    return books


def _judge_ways(books: SwapBooks, releases: Iterable[Release]) -> None:
    """Each release goes its way stage by stage to one end."""
    ways: dict[str, list[Release]] = {}
    for release in releases:
        ways.setdefault(release.release_id, []).append(release)
    for id_, way in ways.items():
        # A stage may be told twice: by a controller that died then, and by its successor.
        stages = [r.stage for i, r in enumerate(way) if i == 0 or r.stage != way[i - 1].stage]
        books.counts.update(stages)
        books.judge(_is_whole_way(stages), f"release {id_}: {' '.join(stages)}")
        if stages[-1] == "ROLLED_BACK":
            books.reasons[_kind(way[-1].reason)] += 1


def _is_whole_way(stages: Sequence[Stage]) -> bool:
    """Whether it goes stage by stage, to its end or to where it is rolled back."""
    path = list(STAGES[:-1])
    if stages[-1] == "COMMITTED":
        return list(stages) == path
    return stages[-1] == "ROLLED_BACK" and list(stages[:-1]) == path[: len(stages) - 1]


def _kind(reason: str) -> str:
    """A reason without its figures."""
    return " ".join(word for word in reason.split() if not any(c.isdigit() for c in word))[:60]


def _acted(books: SwapBooks, feedback: Iterable[Feedback]) -> list[PolicyRef]:
    """Which policy made each command that was applied, in their order."""
    found: list[PolicyRef] = []
    for event in feedback:
        for outcome in event.outcomes:
            books.counts[f"commands {outcome.outcome}"] += 1
            if outcome.outcome == "applied":
                found.append(outcome.policy)
        if event.policy is not None:
            found.append(event.policy)
    return found


def _whole(releases: Iterable[Release], store: ObjectStore) -> set[PolicyRef]:
    """Every policy that was offered whole, hashed from its files anew."""
    whole: set[PolicyRef] = set()
    for release in releases:
        if release.stage != "OFFERED":
            continue
        try:
            content = {name: store.get(ref) for name, ref in release.files.items()}
            whole.add(load_policy(release.policy, release.version, content).ref)
        except (PolicyError, BadObject):
            continue
    return whole


def _judge_whole(books: SwapBooks, acted: Iterable[PolicyRef], whole: set[PolicyRef]) -> None:
    for ref, times in Counter(acted).items():
        good = ref.policy == TRACKER or ref in whole
        books.judge(good, f"{times} times there acted {ref}, which nobody offered")
    books.counts["policies that acted"] = len({ref for ref in acted if ref.policy != TRACKER})


def _judge_order(books: SwapBooks, acted: Sequence[PolicyRef], releases: Iterable[Release]) -> None:
    """The policies acted in the order in which they were swapped in and rolled back."""
    # A controller that died may have told nothing of a swap before its successor told it.
    ends = [r for r in releases if r.stage in ("SWAPPED", "ROLLED_BACK") and r.acting is not None]
    order = iter([r.acting for r in ends])
    learnt = [ref for ref in acted if ref.policy != TRACKER]
    for i, ref in enumerate(learnt):
        if i == 0 or learnt[i - 1] != ref:
            good = ref in order
            books.judge(good, f"{ref} acted when it was not its turn")
            if not good:
                return
