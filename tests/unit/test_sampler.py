"""The sampler: one scored group a problem, the same bits again by `recompute`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from tiny import batch_of, follow, mission_of, peaked_folder, problem_of, record_of, version_of

from infra.interpreter import perform, run_in_memory
from infra.memory.store import MemoryStore
from schemas.effects import Effect, Outputs, Put, Unready
from schemas.ids import derived_seed
from schemas.learning import Problem, SampleGroup, WeightVersion
from schemas.missions import Mission, MissionControl
from schemas.tensors import ObjectRef
from schemas.topics import INLINE_BYTES, decode
from streams.learning.engines import Row
from streams.learning.engines.transformers import TransformersEngine
from streams.learning.models import PolicyModel
from streams.learning.rollout import RolloutPlan, load_rollouts
from streams.learning.sampler import Sampler, recompute

PROMPTS = ["abc", "fed", "gab", "c = d", "bee"]


def flat(mission: Mission) -> RolloutPlan:
    spec = mission.rollout
    return RolloutPlan("flat", spec.group_size, spec.max_tokens, temperature=spec.temperature)


def tree(mission: Mission) -> RolloutPlan:
    spec = mission.rollout
    return RolloutPlan("tree", spec.group_size, spec.max_tokens, 1, spec.max_tokens)


def share_of_a(problem: Problem, completion: str, finished: bool) -> float:
    """A reward that tells completions apart."""
    return (completion.count("a") + finished) / (len(completion) + 1)


class World:
    """A store with versions 0 and 1 of a policy, and a sampler that observed what it is given."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.folder = peaked_folder(folder / "model")
        self.base = version_of(self.store, self.folder, 0)
        shard = self.folder / "model.safetensors"
        scaled = {name: tensor * 0.5 for name, tensor in load_file(shard).items()}
        shard.write_bytes(save(scaled, {"format": "pt"}))
        self.next = version_of(self.store, self.folder, 1)

    def sampler(self, *events: Any, score: Any = share_of_a, plan: Any = flat) -> Sampler:
        sampler = Sampler("p", score, plan)
        for event in events or (mission_of(), self.base):
            sampler.observe(record_of(event))
        return sampler

    def run(self, sampler: Sampler, problems: Sequence[Problem], first: int = 0) -> Outputs:
        commit, outputs = run_in_memory(sampler.process(batch_of(problems, first)), self.store)
        assert commit == "commit"
        return outputs

    def model(self, version: WeightVersion) -> PolicyModel:
        model = PolicyModel(mission_of().training)
        follow(model, version, self.store)
        return model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("sampler"))


def problems_of(*prompts: str, mission: str = "m") -> list[Problem]:
    return [problem_of(i, prompt, mission=mission) for i, prompt in enumerate(prompts)]


def groups_of(outputs: Outputs) -> list[SampleGroup]:
    assert all(isinstance(event, SampleGroup) for event in outputs.events)
    return [event for event in outputs.events if isinstance(event, SampleGroup)]


def test_each_problem_becomes_one_scored_group_in_batch_order(world: World) -> None:
    problems = problems_of(*PROMPTS)
    outputs = world.run(world.sampler(), problems, first=40)
    groups = groups_of(outputs)
    assert outputs.buried == []
    assert [g.problem_id for g in groups] == [p.problem_id for p in problems]
    assert [g.source for g in groups] == list(batch_of(problems, 40).spans)
    assert {(g.version, g.outcome, g.seed) for g in groups} == {(0, "sampled", 7)}
    batches = [g.batch for g in groups]
    assert [b.index for b in batches if b] == list(range(5))
    assert {(b.size, b.batch_id) for b in batches if b} == {(5, batches[0].batch_id)}  # type: ignore[union-attr]
    model = world.model(world.base)
    for group, problem in zip(groups, problems, strict=True):
        assert group.prompt_tokens == list(model.encode(problem.prompt))
        assert len(group.rollouts) == 4
        for rollout in group.rollouts:
            (text,) = model.texts([rollout.tokens])
            assert rollout.reward == share_of_a(problem, text, rollout.stop == "eos")
    assert len({r.reward for g in groups for r in g.rollouts}) > 3


def test_a_rollout_is_keyed_by_mission_seed_problem_use_and_index(world: World) -> None:
    (group,) = groups_of(world.run(world.sampler(), problems_of("abc")))
    model = world.model(world.base)
    for i, rollout in enumerate(group.rollouts):
        seed = derived_seed("sample", 7, "m-0", 0, i)
        row = Row(tuple(group.prompt_tokens), seed, 0, 5)
        (segment,) = TransformersEngine(model.model).generate([row], 1.0, 1.0, model.stop_ids)
        assert segment.tokens == rollout.tokens
    alone = group.rollouts
    beside = groups_of(world.run(world.sampler(), problems_of(*PROMPTS)))[0].rollouts
    assert [r.tokens for r in beside] == [r.tokens for r in alone]


@pytest.mark.parametrize("plan", [flat, tree])
def test_recompute_gives_the_same_bits_as_the_log_holds(world: World, plan: Any) -> None:
    problems = problems_of(*PROMPTS)
    outputs = world.run(world.sampler(plan=plan), problems)
    logged = [decode("samples", event.to_bytes()) for event in outputs.events]
    mission = mission_of()
    again = recompute(world.model(world.base), problems, mission, plan(mission), share_of_a)
    assert [g.rollouts for g in logged if isinstance(g, SampleGroup)] == again
    other = recompute(world.model(world.next), problems, mission, plan(mission), share_of_a)
    assert other != again


def test_a_tree_ends_where_the_missions_pattern_finds_an_answer(world: World) -> None:
    mission = mission_of(rollout={"group_size": 4, "max_tokens": 5, "answer_pattern": "[ab]."})
    sampler = world.sampler(mission, world.base, plan=tree)
    groups = groups_of(world.run(sampler, problems_of(*PROMPTS)))
    model = world.model(world.base)
    stops = set()
    for rollout in [r for g in groups for r in g.rollouts]:
        (text,) = model.texts([rollout.tokens])
        (before,) = model.texts([rollout.tokens[:-1]])
        assert (rollout.stop == "answer") == bool(re.search("[ab].", text))
        assert not re.search("[ab].", before), "it ended at once"
        stops.add(rollout.stop)
    assert len(stops) > 1


def test_logprobs_in_the_event_are_float32_in_their_shortest_form(world: World) -> None:
    (group,) = groups_of(world.run(world.sampler(), problems_of("abc")))
    values = [value for rollout in group.rollouts for value in rollout.logprobs]
    assert all(value == float(str(np.float32(value))) for value in values)
    assert max(len(repr(value)) for value in values) <= 15


def test_weights_are_swapped_between_batches(world: World) -> None:
    sampler = world.sampler()
    first = groups_of(world.run(sampler, problems_of("abc")))[0]
    sampler.observe(record_of(world.next))
    second = groups_of(world.run(sampler, problems_of("abc")))[0]
    sampler.observe(record_of(world.base))
    third = groups_of(world.run(sampler, problems_of("abc")))[0]
    assert [g.version for g in (first, second, third)] == [0, 1, 1]
    assert first.rollouts != second.rollouts == third.rollouts
    assert first.batch and second.batch and first.batch.batch_id != second.batch.batch_id


def test_what_is_not_there_yet_is_waited_for(world: World) -> None:
    empty = Sampler("p", share_of_a, flat)
    assert empty.waiting_for() == "a first weight version of policy p"
    other = version_of(world.store, world.folder, 5, policy="other")
    empty.observe(record_of(other))
    assert empty.waiting_for() is not None
    sampler = world.sampler(world.base)
    assert sampler.waiting_for() is None
    with pytest.raises(Unready, match=r"mission m .*is not there yet"):
        world.run(sampler, problems_of("abc"))
    sampler.observe(record_of(mission_of()))
    assert len(world.run(sampler, problems_of("abc")).events) == 1


def test_a_batch_is_as_large_as_the_newest_mission_says(world: World) -> None:
    assert world.sampler().intake().max_batch == 8
    newer = mission_of("n", rollout={"problems_per_batch": 3})
    assert world.sampler(mission_of(), newer).intake().max_batch == 3


def test_problems_of_a_cancelled_mission_are_accounted_for_without_sampling(world: World) -> None:
    cancel = MissionControl(mission_id="m", action="cancel")
    pause = MissionControl(mission_id="n", action="pause")
    sampler = world.sampler(world.base, mission_of(), mission_of("n"), cancel, pause)
    mixed = [problem_of(0), problem_of(0, mission="n"), problem_of(1), problem_of(1, mission="n")]
    groups = groups_of(world.run(sampler, mixed))
    assert [g.outcome for g in groups] == ["cancelled", "sampled"] * 2
    assert [g.source for g in groups] == list(batch_of(mixed).spans)
    assert [len(g.rollouts) for g in groups] == [0, 4, 0, 4]
    assert [g.batch and (g.batch.index, g.batch.size) for g in groups] == [
        None,
        (0, 2),
        None,
        (1, 2),
    ]


def test_a_verifier_that_raises_costs_its_problem_alone(world: World) -> None:
    def picky(problem: Problem, completion: str, finished: bool) -> float:
        if problem.problem_id == "m-1":
            raise RuntimeError("no such family")
        return share_of_a(problem, completion, finished)

    problems = problems_of(*PROMPTS)
    outputs = world.run(world.sampler(score=picky), problems)
    assert [(b.record.event, b.reason, b.detail) for b in outputs.buried] == [
        (problems[1], "verifier", "RuntimeError: no such family")
    ]
    everything = groups_of(world.run(world.sampler(), problems))
    assert groups_of(outputs) == [g for g in everything if g.problem_id != "m-1"]


def test_a_prompt_that_the_model_cannot_read_is_buried(world: World) -> None:
    problems = problems_of("abc", "not in the alphabet!", "", "a" * 24, "fed")
    outputs = world.run(world.sampler(), problems)
    assert [(b.record.event, b.reason) for b in outputs.buried] == [
        (problem, "prompt") for problem in problems[1:4]
    ]
    assert [g.batch and (g.batch.index, g.batch.size) for g in groups_of(outputs)] == [
        (0, 2),
        (1, 2),
    ]
    nothing = world.run(world.sampler(), problems[1:3])
    assert (len(nothing.events), len(nothing.buried)) == (0, 2)


def test_a_large_group_has_its_rollouts_in_an_object(world: World) -> None:
    large = mission_of(rollout={"group_size": 500, "max_tokens": 16})
    (group,) = groups_of(world.run(world.sampler(world.base, large), problems_of("abc")))
    assert group.rollouts == []
    assert group.rollouts_ref is not None
    assert group.rollouts_ref.key == f"samples/p/m-0.0-{group.rollouts_ref.sha256[:12]}.json"
    assert group.rollouts_ref.size_bytes > INLINE_BYTES > len(group.to_bytes())
    rollouts = load_rollouts(world.store.get(group.rollouts_ref))
    again = recompute(world.model(world.base), problems_of("abc"), large, flat(large), share_of_a)
    assert rollouts == again[0]


def test_sampling_leaves_the_global_generator_alone(world: World) -> None:
    before = torch.random.get_rng_state()
    world.run(world.sampler(), problems_of("abc"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_stalled_sampler_does_not_replace_what_its_successor_announced(world: World) -> None:
    """It resumes its PUTs, under an older head, when the other's group is in the log already."""
    large = mission_of(rollout={"group_size": 500, "max_tokens": 16})
    problems = problems_of("abc")
    stalled = world.sampler(large, world.base).process(batch_of(problems))
    outputs = Outputs()
    effect: Effect = next(stalled)
    while not isinstance(effect, Put):
        effect = stalled.send(perform(effect, world.store, outputs))
    (announced,) = groups_of(world.run(world.sampler(large, world.next), problems))
    late: ObjectRef = perform(effect, world.store, outputs)
    stalled.close()
    assert announced.rollouts_ref and late.key != announced.rollouts_ref.key
    assert len(load_rollouts(world.store.get(announced.rollouts_ref))) == 500
    assert len(load_rollouts(world.store.get(late))) == 500
