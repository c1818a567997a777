"""What the log says of a mission, and what must be said to the log because of it; pure.

`observe` folds one record into a mission's state, `due` reads what is due from the state alone. So
whatever is due stays due until the log itself shows that it was done: a process may forget what it
was about to publish. Order holds within a partition only, so every condition is written such that
evaluations, weight versions and mission events may be interleaved in any way.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.base import Event
from schemas.learning import Evaluation, WeightVersion
from schemas.missions import Budget, Mission, MissionControl, MissionReport, MissionResult
from schemas.records import Record

FINAL_EVALUATION_LIMIT_MS = 600_000
"""How long after `drained` a result waits for the final evaluation; then the newest one counts."""

Phase = Literal[
    "unknown", "submitted", "running", "paused", "ending", "cancelling", "evaluating", "finished"
]


class Score(BaseModel):
    """Held-out accuracy and mean reward of one version."""

    model_config = ConfigDict(frozen=True)

    version: int
    accuracy: float
    reward: float | None = None


class MissionState(BaseModel):
    """All that the orchestrator keeps of one mission; a row of its table, as JSON."""

    model_config = ConfigDict(frozen=True)

    mission_id: str
    policy: str = ""
    budget: Budget = Budget()
    target: float | None = None
    target_reward: float | None = None
    submitted_ms: int | None = None
    prepared_ms: int | None = None
    heldout_size: int = 0
    rejected: str | None = None
    """Why the provider refused it, or cannot go on with it once it was prepared."""
    paused_since_ms: int | None = None
    """When the pause in force began; `end` and `cancel` lift it as `resume` does."""
    paused_ms: int = 0
    """How long it was paused since it was prepared, the pause in force left out."""
    ending: str | None = None
    """The reason of the first `end` on the log."""
    cancelled: str | None = None
    drained_ms: int | None = None
    drained_reason: str = ""
    problems: int = 0
    versions: int = 0
    """Optimizer steps of this mission."""
    version: int | None = None
    """The newest version that this mission made."""
    samples: int = 0
    samples_total: int = 0
    """Of the policy, other missions included, at `version`."""
    first: Score | None = None
    newest: Score | None = None
    best: Score | None = None
    """By accuracy."""
    best_reward: Score | None = None
    final: Score | None = None
    result: MissionResult | None = None
    """As published."""
    marks: dict[str, int] = {}
    """The last offset folded in, per partition."""

    @property
    def phase(self) -> Phase:
        """Where the mission stands, in one word."""
        if self.result is not None:
            return "finished"
        if self.submitted_ms is None:
            return "unknown"
        if self.drained_ms is not None:
            return "evaluating"
        if self.cancelled is not None:
            return "cancelling"
        if self.ending is not None or self.rejected is not None:
            return "ending"
        if self.paused_since_ms is not None:
            return "paused"
        return "submitted" if self.prepared_ms is None else "running"

    def worked_ms(self, until_ms: int) -> int:
        """Time between `prepared` and a moment, pauses left out; 0 where it is not prepared."""
        if self.prepared_ms is None:
            return 0
        if self.paused_since_ms is not None:
            until_ms = min(until_ms, self.paused_since_ms)
        return max(0, until_ms - self.prepared_ms - self.paused_ms)


def is_told(state: MissionState) -> bool:
    """Whether a finished mission's row was told what its result was made of.

    One that was not is by somebody who had read the result before the rest.
    """
    result = state.result
    if result is None or state.submitted_ms is None or state.versions < result.versions:
        return False
    unscored = state.first is None and result.heldout_before is not None
    unprepared = state.rejected is not None and state.prepared_ms is None
    return not unscored and (state.drained_ms is not None or unprepared)


def mission_of(event: Event) -> str | None:
    """The mission that an event is about, or None where it is about none."""
    mission_id = getattr(event, "mission_id", None)
    return mission_id if isinstance(mission_id, str) else None


def observe(state: MissionState, record: Record, policy_samples: int = 0) -> MissionState:
    """The state after a record; the same object where it was folded in before or says nothing.

    `policy_samples` is what other missions of the policy had learnt from before this one: a
    version counts for its policy, a result for its mission.
    """
    partition = str(record.partition)
    event = record.event
    if event is None or record.offset <= state.marks.get(partition, -1):
        return state
    changed = _fold(state, event, record.timestamp_ms, policy_samples)
    if changed is state:
        return state
    return changed.model_copy(update={"marks": {**state.marks, partition: record.offset}})


def _fold(state: MissionState, event: Event, at_ms: int, policy_samples: int) -> MissionState:
    match event:
        case Mission() if state.submitted_ms is None:
            return _with(
                state,
                policy=event.policy,
                budget=event.budget,
                target=event.target.heldout if event.target else None,
                target_reward=event.target.reward if event.target else None,
                submitted_ms=at_ms,
            )
        case MissionControl():
            return _control(state, event, at_ms)
        case MissionReport():
            return _report(state, event, at_ms)
        case WeightVersion():
            return _version(state, event, policy_samples)
        case Evaluation():
            return _evaluation(state, event)
        case MissionResult() if state.result is None:
            return _with(state, policy=event.policy, result=event)
    return state


def _control(state: MissionState, event: MissionControl, at_ms: int) -> MissionState:
    match event.action:
        case "pause" if state.phase in ("unknown", "submitted", "running"):
            return _with(state, paused_since_ms=at_ms)
        case "resume":
            return _resumed(state, at_ms)
        case "cancel" if state.cancelled is None and state.drained_ms is None:
            return _with(_resumed(state, at_ms), cancelled=event.reason)
        case "end" if state.ending is None:
            return _with(_resumed(state, at_ms), ending=event.reason)
    return state


def _resumed(state: MissionState, at_ms: int) -> MissionState:
    """The state without its pause, which counts from `prepared` on, as the seconds do."""
    if state.paused_since_ms is None:
        return state
    paused_ms = state.paused_ms
    if state.prepared_ms is not None:
        paused_ms += max(0, at_ms - max(state.paused_since_ms, state.prepared_ms))
    return _with(state, paused_since_ms=None, paused_ms=paused_ms)


def _report(state: MissionState, event: MissionReport, at_ms: int) -> MissionState:
    match event.stage:
        case "prepared" if state.prepared_ms is None:
            return _with(state, prepared_ms=at_ms, heldout_size=event.heldout_size)
        case "rejected" if state.rejected is None:
            return _with(_resumed(state, at_ms), rejected=event.reason)
        case "drained" if state.drained_ms is None:
            return _with(
                state,
                drained_ms=at_ms,
                drained_reason=event.reason,
                problems=event.problems,
            )
    return state


def _version(state: MissionState, event: WeightVersion, policy_samples: int) -> MissionState:
    if state.version is not None and event.version <= state.version:
        return state
    before = policy_samples if state.version is None else state.samples_total
    return _with(
        state,
        policy=event.policy,
        version=event.version,
        versions=state.versions + (event.kind == "step"),
        samples=state.samples + max(0, event.totals.samples - before),
        samples_total=event.totals.samples,
    )


def _evaluation(state: MissionState, event: Evaluation) -> MissionState:
    score = Score(version=event.version, accuracy=event.accuracy, reward=event.reward)
    best = state.best is None or score.accuracy > state.best.accuracy
    rewarded = state.best_reward is None or event.reward > (state.best_reward.reward or 0.0)
    return _with(
        state,
        first=state.first or score,
        newest=score,
        best=score if best else state.best,
        best_reward=score if rewarded else state.best_reward,
        final=score if event.final else state.final,
    )


def _with(state: MissionState, **update: object) -> MissionState:
    return state.model_copy(update=update)


def due(state: MissionState, now_ms: int) -> MissionControl | MissionResult | None:
    """What must be published for this mission now, if anything.

    Ask only when everything on the log so far is folded in: a state that lags behind its log would
    end a mission that ended, or leave its last versions out of the result.
    """
    if state.submitted_ms is None or state.result is not None:
        return None
    if state.drained_ms is not None:
        return _closing(state, now_ms)
    if state.rejected is not None:
        # What was prepared has problems on their way: it drains first.
        return _result(state, "rejected", state.rejected) if state.prepared_ms is None else None
    if state.ending is None and state.cancelled is None:
        reason = _end_reason(state, now_ms)
        if reason is not None:
            return MissionControl(mission_id=state.mission_id, action="end", reason=reason)
    return None


def _end_reason(state: MissionState, now_ms: int) -> str | None:
    budget = state.budget
    if _reached(state, state.best) or _reached(state, state.best_reward):
        return "target"
    if budget.versions is not None and state.versions >= budget.versions:
        return "budget.versions"
    if budget.seconds is not None and state.worked_ms(now_ms) >= 1000 * budget.seconds:
        return "budget.seconds"
    return None


def _reached(state: MissionState, score: Score | None) -> bool:
    """Whether a score is as good as the target, by accuracy or by reward, whichever is set."""
    if score is None:
        return False
    accurate = state.target is not None and score.accuracy >= state.target
    reward, enough = score.reward, state.target_reward
    return accurate or (reward is not None and enough is not None and reward >= enough)


def _closing(state: MissionState, now_ms: int) -> MissionResult | None:
    if state.cancelled is not None:
        return _result(state, "cancelled", state.cancelled)
    outcome, reason = _outcome(state)
    if state.final is None and state.heldout_size > 0:
        if now_ms - (state.drained_ms or 0) < FINAL_EVALUATION_LIMIT_MS:
            return None
        reason += f"; no final evaluation in {FINAL_EVALUATION_LIMIT_MS // 1000} s"
    return _result(state, outcome, reason)


Outcome = Literal["target", "budget", "cancelled", "rejected", "ended"]


def _outcome(state: MissionState) -> tuple[Outcome, str]:
    reason = state.ending
    if state.rejected is not None:
        return "rejected", state.rejected
    if reason == "target" or _reached(state, state.final):
        return "target", "target"
    if reason is not None:
        return ("budget" if reason.startswith("budget.") else "ended"), reason
    if state.budget.problems is not None and state.problems >= state.budget.problems:
        return "budget", "budget.problems"
    return "ended", state.drained_reason or "drained"


def _result(state: MissionState, outcome: Outcome, reason: str) -> MissionResult:
    known = state.final or state.newest
    worked_ms = 0 if state.drained_ms is None else state.worked_ms(state.drained_ms)
    return MissionResult(
        mission_id=state.mission_id,
        policy=state.policy,
        outcome=outcome,
        reason=reason,
        seconds=worked_ms / 1000,
        problems=state.problems,
        samples=state.samples,
        versions=state.versions,
        final_version=state.final.version if state.final else state.version,
        heldout_before=state.first.accuracy if state.first else None,
        heldout_after=known.accuracy if known else None,
        reward_before=state.first.reward if state.first else None,
        reward_after=known.reward if known else None,
    )
