"""The problem provider: prepares missions, then feeds each policy at the pace it learns.

The log is the truth: which problems were appended, and which were accounted for, is read from it,
so a successor goes on with the next index. Indices have no gap, no problem is appended twice.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from producers.problems.ledger import Course, Flow, Ledger
from producers.problems.prepare import (
    BaseFolder,
    CannotRun,
    Check,
    PolicyFolder,
    Preparer,
    load_mission_items,
    to_problem,
)
from producers.problems.sources import Item, SourceError
from producers.problems.split import Split, locate
from schemas.effects import Bury, Effect, Emit, Intake, StateInput, Steps, Unready
from schemas.learning import CloseStep
from schemas.missions import Mission, MissionControl, MissionReport
from schemas.records import Batch, Partition, Record
from schemas.topics import DEAD_LETTERS, MISSIONS, PROBLEMS, WEIGHT_VERSIONS, Topic

TICK_PROBLEMS = 256
"""Problems appended in one transaction, unless a batch of the sampler is larger."""
CLOSE_EVERY_S = 3.0
"""How long nothing moves at a mission's end before its open step is asked to close."""

Stage = Literal["prepared", "rejected", "drained"]
Effects = Generator[Effect, Any, None]


@dataclass
class _Still:
    """What was in flight when it last changed, and when that was."""

    in_flight: int
    since: float


class ProblemProvider:
    """Missions in, problems out; one instance works, others stand by.

    `missions` is both work, so that a mission that cannot run is one dead letter, and state, from
    which every instance knows all missions.
    """

    name = "provider"
    group = "provider"
    policy: str | None = None
    work: tuple[Topic, ...] = (MISSIONS,)
    state: tuple[StateInput, ...] = (
        StateInput(MISSIONS, barrier=True),
        StateInput(PROBLEMS, barrier=True),
        StateInput(WEIGHT_VERSIONS),
        StateInput(DEAD_LETTERS),
    )

    def __init__(
        self,
        check: Check,
        base_folder: BaseFolder,
        clock: Callable[[], float],
        allow_local_code: bool = False,
        policy_folder: PolicyFolder | None = None,
    ) -> None:
        self._preparer = Preparer(check, base_folder, allow_local_code, policy_folder)
        self._clock = clock
        self._ledger = Ledger()
        self._working = False
        self._items: dict[str, tuple[str, list[Item]]] = {}
        self._still: dict[str, _Still] = {}

    def intake(self) -> Intake:
        """One mission at a time."""
        return Intake()

    def waiting_for(self) -> str | None:
        """Nothing: barriers and `Unready` see to it."""
        return None

    def observe(self, record: Record) -> None:
        """Take in one state event."""
        self._ledger.observe(record)

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Work while this instance owns missions; what was published is known by now."""
        self._working = bool(partitions)
        self._ledger.forget_unread()
        return {}

    # -- missions ---------------------------------------------------------------------------

    def process(self, batch: Batch) -> Steps:
        """Prepare or reject the missions of a batch."""
        for record in batch.records:
            if not self._ledger.has_read(record):
                raise Unready(f"{record.at} as state")
            match record.event:
                case Mission() as mission:
                    yield from self._take(record, mission)
                case MissionControl(mission_id=id_) if not self._ledger.knew(id_, record):
                    yield Bury(record, "unknown mission", f"no mission {id_!r} before {record.at}")
        return "commit"

    def _take(self, record: Record, mission: Mission) -> Effects:
        course = self._ledger.courses[mission.mission_id]
        if course.at != record.at:
            if course.mission != mission:
                detail = f"{mission.mission_id!r} is the mission at {course.at}; take another id"
                yield Bury(record, "duplicate mission id", detail)
            return
        if course.answered:
            return
        flow = self._ledger.flow(mission.policy)
        if any(other.announced for other in flow.queue):
            raise Unready(f"what was reported of earlier missions of policy {mission.policy}")
        yield from self._answer(record, course, flow)

    def _answer(self, record: Record, course: Course, flow: Flow) -> Effects:
        mission = course.mission
        try:
            _must_keep_model(mission, flow)
            report, split = yield from self._preparer.prepare(mission, flow.model)
        except ValueError as error:
            yield Bury(record, "invalid mission", str(error))
            yield from self._report(course, "rejected", str(error))
            return
        course.announced.add("prepared")
        if flow.current() is None:
            self._items[mission.policy] = (mission.mission_id, split.train)
        yield Emit(report)

    def _report(self, course: Course, stage: Stage, reason: str = "") -> Effects:
        mission = course.mission
        flow = self._ledger.flow(mission.policy)
        course.announced.add(stage)
        yield Emit(
            MissionReport(
                mission_id=mission.mission_id,
                policy=mission.policy,
                stage=stage,
                reason=reason,
                version=flow.head.version if flow.head and stage == "drained" else None,
                problems=flow.next_of(mission.mission_id),
            )
        )

    # -- feeding ----------------------------------------------------------------------------

    def tick(self) -> Steps | None:
        """Feed every policy that has room; end missions that are through."""
        if not self._working:
            return None
        actions = [a for flow in self._ledger.flows.values() for a in self._actions(flow)]
        return _all(actions) if actions else None

    def _actions(self, flow: Flow) -> list[Effects]:
        actions = [
            self._drain(course)
            for course in flow.queue
            if course.prepared and not course.announced and self._is_through(flow, course)
        ]
        actions += [
            self._report(course, "rejected", why) for course, why in self._ledger.condemned(flow)
        ]
        course = flow.current()
        if course is None or course.announced or actions:
            return actions
        if flow.stopped(course):
            return [self._close(course)] if self._stands_still(flow, course) else []
        count = 0 if course.paused else feed_size(flow, course.mission)
        return [self._feed(flow, course, count)] if count else []

    def _is_through(self, flow: Flow, course: Course) -> bool:
        begun = flow.next_of(course.mission.mission_id) > 0
        return flow.stopped(course) and (not begun or flow.in_flight == 0)

    def _stands_still(self, flow: Flow, course: Course) -> bool:
        now, id_ = self._clock(), course.mission.mission_id
        still = self._still.get(id_)
        if still is None or still.in_flight != flow.in_flight:
            self._still[id_] = _Still(flow.in_flight, now)
            return False
        if now - still.since < CLOSE_EVERY_S:
            return False
        still.since = now
        return True

    def _close(self, course: Course) -> Effects:
        yield Emit(CloseStep(policy=course.mission.policy, mission_id=course.mission.mission_id))

    def _drain(self, course: Course) -> Effects:
        self._still.pop(course.mission.mission_id, None)
        if self._items.get(course.mission.policy, ("",))[0] == course.mission.mission_id:
            del self._items[course.mission.policy]
        yield from self._report(course, "drained")

    def _feed(self, flow: Flow, course: Course, count: int) -> Effects:
        mission = course.mission
        try:
            items = self._items_of(course)
        except SourceError as error:
            yield from self._report(course, "rejected", str(error))
            return
        start = flow.next_of(mission.mission_id)
        for index in range(start, start + count):
            epoch, place = locate(mission.seed, index, len(items))
            flow.emitted(mission.mission_id, index)
            yield Emit(to_problem(mission, items[place], epoch, index))

    def _items_of(self, course: Course) -> list[Item]:
        """The train items, from the source again after a restart; raises `SourceError`."""
        mission = course.mission
        id_, items = self._items.get(mission.policy, ("", []))
        if id_ != mission.mission_id:
            split = load_mission_items(mission)
            _must_be_as_prepared(course, split)
            items = split.train
            self._items[mission.policy] = (mission.mission_id, items)
        return items


def feed_size(flow: Flow, mission: Mission) -> int:
    """How many problems to append now: whole sampler batches, so that batches stay full.

    Parts of one only where less than a step would be on its way, which would never close.
    """
    limit = mission.in_flight_limit
    whole = min(mission.rollout.problems_per_batch, limit)
    room = max(0, limit - flow.in_flight)
    count = room // whole * whole
    if (
        flow.in_flight + count
        < mission.training.groups_per_upload * mission.training.uploads_per_step
    ):
        count = room
    count = min(count, max(whole, TICK_PROBLEMS // whole * whole))
    if mission.budget.problems is not None:
        count = min(count, mission.budget.problems - flow.next_of(mission.mission_id))
    return count


def _must_keep_model(mission: Mission, flow: Flow) -> None:
    if flow.base is not None and mission.model != flow.base.mission.model:
        raise CannotRun(
            f"model: policy {mission.policy!r} has the model of mission "
            f"{flow.base.mission.mission_id!r} and goes on with it: repeat that mission's `model`, "
            "or take another policy"
        )


def _must_be_as_prepared(course: Course, split: Split) -> None:
    prepared = course.prepared
    if prepared is None:
        return
    then, now = (
        (prepared.train_size, prepared.heldout_size),
        (len(split.train), len(split.heldout)),
    )
    if then != now:
        raise SourceError(
            f"the source has changed since the mission was prepared: {now[0]} + {now[1]} questions "
            f"(train + held out) now, {then[0]} + {then[1]} then; submit it as a new mission"
        )


def _all(actions: Sequence[Effects]) -> Steps:
    for action in actions:
        yield from action
    return "commit"
