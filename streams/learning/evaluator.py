"""The evaluator: weight versions in, greedy accuracy on the held-out problems out.

Each mission is evaluated before it changes the policy, then every `evaluate_every` versions (when
behind, the newest wins), and once more, as final, when all its problems are accounted for.
"""

import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemas.effects import Effect, Emit, Get, Intake, StateInput, Steps, Unready
from schemas.learning import Evaluation, Problem, VersionsExpired, WeightVersion
from schemas.missions import Mission, MissionReport
from schemas.partitioner import partition_for
from schemas.records import Batch, Partition, Record
from schemas.topics import EVALUATIONS, MISSIONS, WEIGHT_VERSIONS, Topic
from streams.learning.engines import Row
from streams.learning.engines.transformers import TransformersEngine, room
from streams.learning.models import PolicyModel
from streams.learning.sampler import Score, held_model

if TYPE_CHECKING:
    from streams.learning.control.environments import MakeEnvironment
    from streams.learning.control.player import Player

logger = logging.getLogger(__name__)

_ROWS = 512
"""Completions decoded together at most."""
_MAX_BATCH = 256


@dataclass(frozen=True, slots=True)
class Graded:
    """What the held-out problems gave: answers decoded greedily, or episodes."""

    correct: int
    total: int
    reward: float


def evaluate(
    model: PolicyModel, problems: Sequence[Problem], max_tokens: int, score: Score
) -> Graded:
    """Decode each problem greedily; correct is the answer's text, ended by the model.

    White space at the ends aside. A verifier that raises gives 0. Raises `PromptError`.
    """
    correct, rewards = 0, 0.0
    for first in range(0, len(problems), _ROWS):
        part = problems[first : first + _ROWS]
        for problem, text, ended in _decoded(model, part, max_tokens):
            correct += ended and text.strip() == problem.answer.strip()
            rewards += _reward(score, problem, text, ended)
    return Graded(correct, len(problems), rewards / max(len(problems), 1))


def _decoded(
    model: PolicyModel, problems: Sequence[Problem], max_tokens: int
) -> Iterator[tuple[Problem, str, bool]]:
    prompts = [model.encode(problem.prompt) for problem in problems]
    most = room(model.model)
    limits = [max_tokens if most is None else min(max_tokens, most - len(p)) for p in prompts]
    rows = [Row(prompt, 0, 0, limit) for prompt, limit in zip(prompts, limits, strict=True)]
    segments = TransformersEngine(model.model).generate(rows, 0.0, 1.0, model.stop_ids)
    texts = model.texts([segment.tokens for segment in segments])
    ended = [segment.ended for segment in segments]
    return zip(problems, texts, ended, strict=True)


def _reward(score: Score, problem: Problem, text: str, ended: bool) -> float:
    try:
        return score(problem, text, ended)
    except Exception as error:  # a verifier is anyone's code
        logger.warning("held-out problem %s: verifier: %s", problem.problem_id, error)
        return 0.0


@dataclass
class _Course:
    """What is known of one mission on this policy."""

    mission: Mission
    prepared: MissionReport | None = None
    drained: MissionReport | None = None
    before: WeightVersion | None = None
    """What it started from, as far as this process saw it."""
    last: WeightVersion | None = None
    """Its newest version."""
    observed: set[tuple[int, bool]] = field(default_factory=set)
    """Evaluations in the topic: version, final."""
    published: set[tuple[int, bool]] = field(default_factory=set)
    """Evaluations of this process that it has not read back."""

    @property
    def done(self) -> set[int]:
        """The versions that were evaluated."""
        return {version for version, _ in self.observed | self.published}

    @property
    def finished(self) -> bool:
        """Whether the final evaluation was made."""
        return any(final for _, final in self.observed | self.published)

    def is_through(self, head: int) -> bool:
        """Whether it is drained and all its versions are known: topics are read side by side."""
        return self.drained is not None and head >= (self.drained.version or 0)

    def start(self, otherwise: int) -> int:
        """The version that evaluations are counted from."""
        return min(self.done, default=self.before.version if self.before else otherwise)

    def is_due(self, version: int) -> bool:
        """Whether `evaluate_every` versions began anew since the newest evaluation."""
        every, start = self.mission.evaluate_every, self.start(version)
        newest = max(self.done, default=None)
        return newest is None or (version - start) // every > (newest - start) // every


class Evaluator:
    """Evaluates the versions of one policy; implements `Processor`.

    What it published counts as done until work is assigned again: that is when a driver gave up
    a transaction, and by then all that was published has been read back.
    """

    work: tuple[Topic, ...] = (WEIGHT_VERSIONS,)
    state: tuple[StateInput, ...] = (
        StateInput(MISSIONS),
        StateInput(WEIGHT_VERSIONS, since_head=True),
        StateInput(EVALUATIONS, barrier=True),
    )

    def __init__(
        self,
        policy: str,
        score: Score,
        name: str = "evaluator",
        make: "MakeEnvironment | None" = None,
    ) -> None:
        self.name = name
        self.group = f"evaluator.{policy}"
        self.policy: str | None = policy
        self._home = partition_for(policy.encode(), WEIGHT_VERSIONS.partitions)
        self._mine = False
        self._score, self._make = score, make
        self._courses: dict[str, _Course] = {}
        self._early: list[Evaluation] = []
        self._head: WeightVersion | None = None
        self._worked: WeightVersion | None = None
        self._expired: set[int] = set()
        self._model: PolicyModel | None = None
        self._player: Player | None = None
        self._heldout: dict[str, list[Problem]] = {}

    def intake(self) -> Intake:
        """All versions that are there: the newest wins."""
        return Intake(max_batch=_MAX_BATCH)

    def waiting_for(self) -> str | None:
        """Nothing: what a version needs is asked for with it."""
        return None

    def observe(self, record: Record) -> None:
        """Remember missions and what they reported, versions, and evaluations already made."""
        event = record.event
        if getattr(event, "policy", None) != self.policy:
            return
        if isinstance(event, WeightVersion):
            self._note(event)
        elif isinstance(event, VersionsExpired):
            self._expired |= set(event.versions)
        elif isinstance(event, Mission):
            course = self._courses.setdefault(event.mission_id, _Course(event))
            course.observed |= _made(self._early, event.mission_id)
        elif isinstance(event, MissionReport) and event.mission_id in self._courses:
            self._report(self._courses[event.mission_id], event)
        elif isinstance(event, Evaluation):
            self._made(event)

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The committed offsets are where to go on; only what is in the topic counts as done."""
        self._mine = any(partition.number == self._home for partition in partitions)
        for course in self._courses.values():
            course.published.clear()
        return {}

    def process(self, batch: Batch) -> Steps:
        """Evaluate what is due among these versions, of each mission the newest."""
        events = [record.event for record in batch.records]
        versions = [event for event in events if isinstance(event, WeightVersion)]
        for event in events:
            if isinstance(event, VersionsExpired):
                self._expired |= set(event.versions)
        courses = {v.mission_id: self._course(v.mission_id) for v in versions}
        for version in versions:
            self._begin(courses[version.mission_id], version)
            self._note(version)
        for course in courses.values():
            yield from self._due(course, versions)
        return "commit"

    def tick(self) -> Steps | None:
        """Evaluate the head before a mission that continues the policy, and after one that ended.

        Only where this process owns the partition of the policy's versions.
        """
        if self._head is None or not self._mine:
            return None
        for course in self._courses.values():
            if course.prepared is None or course.finished:
                continue
            if course.is_through(self._head.version):
                return self._final(course, course.last or self._head)
            if not course.done:
                return self._first(course, course.before or self._head)
        return None

    def _note(self, version: WeightVersion) -> None:
        """The newest version, of all and of its mission."""
        if self._head is None or version.version > self._head.version:
            self._head = version
        course = self._courses.get(version.mission_id)
        if course and (course.last is None or version.version > course.last.version):
            course.last = version

    def _report(self, course: _Course, report: MissionReport) -> None:
        if report.stage == "prepared":
            course.prepared = course.prepared or report
        elif report.stage == "drained":
            course.drained = course.drained or report

    def _made(self, evaluation: Evaluation) -> None:
        course = self._courses.get(evaluation.mission_id)
        if course is None:  # the topics are read side by side
            self._early.append(evaluation)
        else:
            course.observed |= _made([evaluation], evaluation.mission_id)

    def _course(self, mission_id: str) -> _Course:
        course = self._courses.get(mission_id)
        if course is None or course.prepared is None:
            raise Unready(f"missions: no report yet that mission {mission_id} is prepared")
        return course

    def _begin(self, course: _Course, version: WeightVersion) -> None:
        """What a mission started from: its base, or the version before its first."""
        if course.before is None:
            continues = version.kind != "base" and self._worked is not None
            course.before = self._worked if continues else version
        self._worked = version

    def _due(
        self, course: _Course, versions: Sequence[WeightVersion]
    ) -> Generator[Effect, Any, None]:
        if not course.done and course.before and course.before.version not in self._expired:
            yield from self._evaluate(course, course.before)
        chosen = self._chosen(course, versions)
        if chosen and course.is_due(chosen.version):
            yield from self._evaluate(course, chosen)

    def _chosen(self, course: _Course, versions: Sequence[WeightVersion]) -> WeightVersion | None:
        """The newest on the grid whose objects are safe from the sweep, else the newest of all."""
        head = self._head.version if self._head else 0
        every, safe = course.mission.evaluate_every, max(1, course.mission.keep.last // 2)
        exact = [
            v
            for v in versions
            if v.mission_id == course.mission.mission_id
            and (v.version - course.start(v.version)) % every == 0
            and head - v.version < safe
            and v.version not in self._expired
        ]
        return exact[-1] if exact else course.last

    def _first(self, course: _Course, version: WeightVersion) -> Steps:
        course.before = version
        yield from self._evaluate(course, version)
        return "commit"

    def _final(self, course: _Course, version: WeightVersion) -> Steps:
        yield from self._evaluate(course, version, final=True)
        self._heldout.pop(course.mission.mission_id, None)
        return "commit"

    def _evaluate(
        self, course: _Course, version: WeightVersion, final: bool = False
    ) -> Generator[Effect, Any, None]:
        """Publish the accuracy of a version for a mission; nothing where nothing is held out."""
        mission, report = course.mission, course.prepared
        course.published.add((version.version, final))
        if report is None or report.heldout is None:
            return
        problems = yield from self._problems(report)
        graded = yield from self._graded(mission, version, problems)
        yield Emit(
            Evaluation(
                policy=version.policy,
                mission_id=mission.mission_id,
                version=version.version,
                accuracy=graded.correct / max(graded.total, 1),
                correct=graded.correct,
                total=graded.total,
                reward=graded.reward,
                final=final,
                heldout_sha256=report.heldout.sha256,
            )
        )

    def _graded(
        self, mission: Mission, version: WeightVersion, problems: Sequence[Problem]
    ) -> Generator[Effect, Any, Graded]:
        if mission.acts:
            from streams.learning.control.environments import make_environment
            from streams.learning.control.player import Player

            player = self._player = self._player or Player(self._make or make_environment)
            yield from player.follow(version)
            scored = player.evaluate(problems, mission)
            return Graded(scored.solved, scored.total, scored.reward)
        model = self._model = held_model(self._model, mission.training)
        yield from model.follow(version)
        return evaluate(model, problems, mission.rollout.max_tokens, self._score)

    def _problems(self, report: MissionReport) -> Generator[Effect, Any, list[Problem]]:
        held = self._heldout.get(report.mission_id)
        if held is None:
            assert report.heldout is not None
            lines = (yield Get(report.heldout)).splitlines()
            held = [Problem.model_validate_json(line) for line in lines if line.strip()]
            self._heldout[report.mission_id] = held
        return held


def _made(evaluations: Sequence[Evaluation], mission_id: str) -> set[tuple[int, bool]]:
    return {(e.version, e.final) for e in evaluations if e.mission_id == mission_id}
