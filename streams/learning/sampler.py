"""The sampler: problems in, scored groups of completions out, one batch under one weight version.

What a group holds follows from its batch, the version and the mission alone, so `recompute` gives
the same bits again wherever the environment is the same.
"""

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from schemas.effects import Bury, Effect, Emit, Intake, Put, StateInput, Steps, Unready
from schemas.ids import derived_id, derived_seed, digest
from schemas.learning import BatchRef, Problem, Rollout, SampleGroup, WeightVersion
from schemas.missions import Mission, MissionControl, Training
from schemas.records import Batch, Partition, Record
from schemas.topics import INLINE_BYTES, MISSIONS, PROBLEMS, WEIGHT_VERSIONS, Topic
from streams.learning.engines.transformers import TransformersEngine
from streams.learning.keys import samples_key
from streams.learning.models import PolicyModel, PromptError
from streams.learning.rollout import Draft, Ends, Prompt, RolloutPlan, dump_rollouts, sample

if TYPE_CHECKING:
    from streams.learning.control.environments import MakeEnvironment
    from streams.learning.control.player import Player

Score = Callable[[Problem, str, bool], float]
"""The verifier: a reward from the problem, the completion's text, and whether the model ended."""
PlanFor = Callable[[Mission], RolloutPlan]

USE = 0
"""How often the problem was used before; the provider hands each out once."""
_MAX_WAIT_MS = 20


def held_model(held: PolicyModel | None, training: Training) -> PolicyModel:
    """The same model while device and dtype are those of the mission, else one that is empty."""
    same = held is not None and held.setting == (training.device, training.dtype)
    return cast(PolicyModel, held) if same else PolicyModel(training)


def draft(
    model: PolicyModel,
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    mission: Mission,
    plan: RolloutPlan,
) -> list[list[Draft]]:
    """The completions of a batch of problems, unscored."""
    seeds = [
        [
            derived_seed("sample", mission.seed, problem.problem_id, USE, i)
            for i in range(plan.width)
        ]
        for problem in problems
    ]
    ends = Ends(
        model.stop_ids,
        lambda tokens: model.texts([tokens])[0],
        holds_answer(mission.rollout.answer_pattern),
        longest_token=model.longest_token,
    )
    return sample(TransformersEngine(model.model), prompts, plan, seeds, ends)


def holds_answer(pattern: str | None) -> Callable[[str], bool] | None:
    """Whether a text holds the answer already, by the mission's pattern; None without one."""
    return None if pattern is None else lambda text: re.search(pattern, text) is not None


def scored(
    model: PolicyModel, problem: Problem, drafts: Sequence[Draft], score: Score
) -> list[Rollout]:
    """The drafts of one problem with their rewards; raises whatever the verifier raises."""
    texts = model.texts([one.tokens for one in drafts])
    return [
        one.scored(score(problem, text, one.stop in ("eos", "answer")))
        for one, text in zip(drafts, texts, strict=True)
    ]


def recompute(
    model: PolicyModel,
    problems: Sequence[Problem],
    mission: Mission,
    plan: RolloutPlan,
    score: Score,
) -> list[list[Rollout]]:
    """The rollouts of a batch again, `problems` in batch order; `model` holds its version.

    Equal to the last bit where torch, threads and CPU kind are; raises `PromptError`.
    """
    prompts = [model.encode(problem.prompt) for problem in problems]
    drafts = draft(model, problems, prompts, mission, plan)
    return [scored(model, p, d, score) for p, d in zip(problems, drafts, strict=True)]


@dataclass(frozen=True, slots=True)
class _Member:
    """One problem of a run, and its place in the batch."""

    place: int
    record: Record
    problem: Problem
    prompt: Prompt


class Sampler:
    """Samples and scores the problems of one policy; implements `Processor`."""

    work: tuple[Topic, ...] = (PROBLEMS,)
    state: tuple[StateInput, ...] = (
        StateInput(WEIGHT_VERSIONS, since_head=True),
        StateInput(MISSIONS),
    )

    def __init__(
        self,
        policy: str,
        score: Score,
        plan_for: PlanFor,
        name: str = "sampler",
        make: "MakeEnvironment | None" = None,
    ) -> None:
        self.name = name
        self.group = f"sampler.{policy}"
        self.policy: str | None = policy
        self._score, self._plan_for, self._make = score, plan_for, make
        self._head: WeightVersion | None = None
        self._missions: dict[str, Mission] = {}
        self._cancelled: set[str] = set()
        self._model: PolicyModel | None = None
        self._player: Player | None = None

    def intake(self) -> Intake:
        """The newest mission's batch, or what came shortly after its first problem."""
        newest = next(reversed(self._missions.values()), None)
        size = newest.rollout.problems_per_batch if newest else 1
        return Intake(max_batch=size, max_wait_ms=_MAX_WAIT_MS)

    def waiting_for(self) -> str | None:
        """A weight version to sample with."""
        return None if self._head else f"a first weight version of policy {self.policy}"

    def observe(self, record: Record) -> None:
        """Remember missions, which of them were cancelled, and the newest weight version."""
        event = record.event
        if isinstance(event, MissionControl) and event.action == "cancel":
            self._cancelled.add(event.mission_id)
        if getattr(event, "policy", None) != self.policy:
            return
        if isinstance(event, WeightVersion):
            if self._head is None or event.version > self._head.version:
                self._head = event
        elif isinstance(event, Mission):
            self._missions.setdefault(event.mission_id, event)

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The committed offsets are where to go on."""
        return {}

    def tick(self) -> Steps | None:
        """Nothing follows from state alone."""
        return None

    def process(self, batch: Batch) -> Steps:
        """One group a problem, in batch order: a reader's high marks go up by partition."""
        head = self._head
        if head is None:
            raise Unready(self.waiting_for())
        groups: dict[int, SampleGroup] = {}
        for mission_id, places in _by_mission(batch).items():
            if mission_id in self._cancelled:
                groups |= {i: _cancelled(batch, i, head) for i in places}
            else:
                mission = self._mission(mission_id, batch.records[places[0]])
                sampled = self._played if mission.acts else self._sampled
                groups |= yield from sampled(mission, batch, places, head)
        for _, group in sorted(groups.items()):
            yield Emit(group)
        return "commit"

    def _mission(self, mission_id: str, record: Record) -> Mission:
        mission = self._missions.get(mission_id)
        if mission is None:
            raise Unready(f"missions: mission {mission_id} (of {record.at}) is not there yet")
        return mission

    def _sampled(
        self, mission: Mission, batch: Batch, places: Sequence[int], head: WeightVersion
    ) -> Generator[Effect, Any, dict[int, SampleGroup]]:
        """The groups of one mission's problems by their place in the batch."""
        model = self._model = held_model(self._model, mission.training)
        yield from model.follow(head)
        members = yield from _members(model, batch, places)
        problems = [m.problem for m in members]
        drafts = draft(
            model, problems, [m.prompt for m in members], mission, self._plan_for(mission)
        )
        batch_id = derived_id("batch", head.policy, head.version, [m.record.at for m in members])
        groups: dict[int, SampleGroup] = {}
        for index, (member, own) in enumerate(zip(members, drafts, strict=True)):
            try:
                rollouts = scored(model, member.problem, own, self._score)
            except Exception as error:  # a verifier is anyone's code
                yield Bury(member.record, "verifier", f"{type(error).__name__}: {error}")
                continue
            ref = BatchRef(batch_id=batch_id, index=index, size=len(members))
            group = _group(mission, batch, member.place, head, ref)
            group = group.model_copy(update={"prompt_tokens": list(member.prompt)})
            groups[member.place] = yield from _with_rollouts(group, rollouts)
        return groups

    def _played(
        self, mission: Mission, batch: Batch, places: Sequence[int], head: WeightVersion
    ) -> Generator[Effect, Any, dict[int, SampleGroup]]:
        """The groups of one control mission's problems: each is played by itself."""
        from streams.learning.control.environments import make_environment
        from streams.learning.control.player import Player, with_episodes

        player = self._player = self._player or Player(self._make or make_environment)
        yield from player.follow(head)
        places_at = [batch.records[place].at for place in places]
        batch_id = derived_id("batch", head.policy, head.version, places_at)
        groups: dict[int, SampleGroup] = {}
        for index, place in enumerate(places):
            record = batch.records[place]
            (problem,) = _problems([record])
            try:
                task, episodes = player.episodes(problem, mission, USE)
            except (RuntimeError, ValueError) as error:  # an environment is anyone's code
                yield Bury(record, "environment", str(error))
                continue
            ref = BatchRef(batch_id=batch_id, index=index, size=len(places))
            group = _group(mission, batch, place, head, ref)
            groups[place] = yield from with_episodes(group, task, episodes)
        return groups


def _by_mission(batch: Batch) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, problem in enumerate(_problems(batch.records)):
        places.setdefault(problem.mission_id, []).append(place)
    return places


def _problems(records: Iterable[Record]) -> list[Problem]:
    return [cast(Problem, record.event) for record in records]


def _members(
    model: PolicyModel, batch: Batch, places: Sequence[int]
) -> Generator[Effect, Any, list[_Member]]:
    """The problems whose prompts the model can take; the others are buried."""
    members = []
    for place in places:
        record = batch.records[place]
        (problem,) = _problems([record])
        try:
            members.append(_Member(place, record, problem, model.encode(problem.prompt)))
        except PromptError as error:
            yield Bury(record, "prompt", str(error))
    return members


def _group(
    mission: Mission, batch: Batch, place: int, head: WeightVersion, ref: BatchRef
) -> SampleGroup:
    """The group of the problem at a place, nothing sampled yet."""
    (problem,) = _problems([batch.records[place]])
    return SampleGroup(
        problem_id=problem.problem_id,
        use=USE,
        mission_id=mission.mission_id,
        policy=head.policy,
        version=head.version,
        seed=mission.seed,
        batch=ref,
        source=batch.spans[place],
    )


def _cancelled(batch: Batch, place: int, head: WeightVersion) -> SampleGroup:
    (problem,) = _problems([batch.records[place]])
    return SampleGroup(
        problem_id=problem.problem_id,
        use=USE,
        mission_id=problem.mission_id,
        policy=head.policy,
        outcome="cancelled",
        version=head.version,
        source=batch.spans[place],
    )


def _with_rollouts(
    group: SampleGroup, rollouts: list[Rollout]
) -> Generator[Effect, Any, SampleGroup]:
    """The group with its rollouts, in an object where they are large."""
    data = dump_rollouts(rollouts)
    if len(data) <= INLINE_BYTES:
        return group.model_copy(update={"rollouts": rollouts})
    ref = yield Put(samples_key(group.policy, group.group_id, digest(data)), data)
    return group.model_copy(update={"rollouts_ref": ref})
