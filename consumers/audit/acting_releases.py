"""The books of releases: which policy may act in which robot, and since when."""

from dataclasses import dataclass, field

from consumers.audit.books import Books
from schemas.acting import STAGES, PolicyRef, Release, Stage
from schemas.records import Record

CLOCK_MS = 100.0
"""Records of two topics are compared by their time: so far apart their clocks may be."""

_PATH = STAGES[:-1]
_LAST = ("COMMITTED", "ROLLED_BACK")
_ACTS = ("SWAPPED", "PROBATION", "COMMITTED")


@dataclass(slots=True)
class _Way:
    """One release on its way."""

    robot_id: str
    policy: str
    version: int
    stage: Stage | None = None
    swapped: bool = False


@dataclass(slots=True)
class _Acting:
    """When one policy acted in one robot: [from, to) in the time of the log, again and again."""

    spans: list[tuple[float, float]] = field(default_factory=list)

    def begin(self, at_ms: float) -> None:
        if not self.spans or self.spans[-1][1] < float("inf"):
            self.spans.append((at_ms, float("inf")))

    def end(self, at_ms: float) -> None:
        if self.spans and self.spans[-1][1] == float("inf"):
            self.spans[-1] = self.spans[-1][0], at_ms

    def at(self, at_ms: float) -> bool:
        return any(start - CLOCK_MS <= at_ms <= stop + CLOCK_MS for start, stop in self.spans)


class ReleaseBook:
    """Every way of a version into a robot, and what acted when."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._ways: dict[str, _Way] = {}
        self._acting: dict[tuple[str, PolicyRef], _Acting] = {}
        self._hashes: dict[tuple[str, int], str] = {}

    def observe(self, record: Record, event: Release) -> None:
        """Take in one step of a release."""
        counts = self._books.findings.counts
        way = self._ways.get(event.release_id)
        where = f"{record.at}: release {event.release_id} {event.stage}"
        if way is None:
            way = _Way(event.robot_id, event.policy, event.version)
            self._ways[event.release_id] = way
            counts["releases"] += 1
        self._judge_step(record, way, event, where)
        if way.stage != event.stage:
            counts[f"releases_{event.stage.lower()}"] += 1
        way.stage, way.swapped = event.stage, way.swapped or event.stage == "SWAPPED"
        self._judge_acting(event, where)
        self._note(way, event, float(record.timestamp_ms))

    def _judge_step(self, record: Record, way: _Way, event: Release, where: str) -> None:
        judge = self._books.findings.judge
        same = (way.robot_id, way.policy, way.version) == (
            event.robot_id,
            event.policy,
            event.version,
        )
        judge("release-step", same, f"{where}: of another robot or version than before")
        follows = _may_follow(way.stage, event.stage) or (
            way.stage is None and self._books.bounds.log(record.partition)[0] > 0
        )
        judge("release-step", follows, f"{where} after {way.stage or 'nothing'}")

    def _judge_acting(self, event: Release, where: str) -> None:
        """From SWAPPED on the version acts, by the one hash that it has everywhere."""
        judge, acting = self._books.findings.judge, event.acting
        if event.stage in _ACTS:
            right = acting is not None and (acting.policy, acting.version) == (
                event.policy,
                event.version,
            )
            judge("release-acting", right, f"{where}: acting is {_text(acting)}")
        if acting is not None and not _is_tracker(acting):
            known = self._hashes.setdefault((acting.policy, acting.version), acting.sha256)
            judge("policy-hash", known == acting.sha256, f"{where}: {_text(acting)}, not {known}")

    def _note(self, way: _Way, event: Release, at_ms: float) -> None:
        if not way.swapped or event.stage not in ("SWAPPED", "ROLLED_BACK"):
            return
        if event.stage == "ROLLED_BACK":
            self._end(event.robot_id, event.policy, event.version, at_ms)
        if event.acting is not None:
            key = event.robot_id, event.acting
            self._acting.setdefault(key, _Acting()).begin(at_ms)

    def _end(self, robot_id: str, policy: str, version: int, at_ms: float) -> None:
        for (robot, ref), acting in self._acting.items():
            if robot == robot_id and (ref.policy, ref.version) == (policy, version):
                acting.end(at_ms)

    def judge_policy(self, robot_id: str, policy: PolicyRef, at_ms: float, where: str) -> None:
        """Judge that this policy, by its hash, was the robot's to act by at this time of the log.

        Version 0 of the tracker always is; a version is from its SWAPPED on until rolled back.
        """
        acting = self._acting.get((robot_id, policy))
        released = _is_tracker(policy) or (acting is not None and acting.at(at_ms))
        self._books.findings.judge("policy-released", released, f"{where}: {_text(policy)}")


def _is_tracker(policy: PolicyRef) -> bool:
    """Whether it is the classical controller, whose hash is that of its settings."""
    return policy.policy == "tracker" and policy.version == 0


def _may_follow(before: Stage | None, after: Stage) -> bool:
    """Whether a release goes from one stage to the other, or tells the same once more."""
    if before == after:
        return True
    if before in _LAST:
        return False
    if after == "ROLLED_BACK":
        return before is not None
    return _PATH.index(after) == (0 if before is None else _PATH.index(before) + 1)


def _text(policy: PolicyRef | None) -> str:
    return "none" if policy is None else f"{policy.policy} {policy.version} {policy.sha256[:12]}"
