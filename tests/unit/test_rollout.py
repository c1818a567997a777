"""Flat and tree rollouts on an engine whose distributions are a table; TreePO, arXiv 2508.17445."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import peaked_folder
from transformers import AutoModelForCausalLM

from streams.learning.engines import Row, Segment
from streams.learning.engines.counters import keyed, uniforms
from streams.learning.engines.draws import draw, log_distribution
from streams.learning.engines.transformers import TransformersEngine
from streams.learning.rollout import (
    Draft,
    Ends,
    RolloutPlan,
    dump_rollouts,
    load_rollouts,
    repeats,
    sample,
    transfer,
)

EOS = 0
ENDS = Ends({EOS})
PLAN = RolloutPlan("tree", width=16, max_tokens=12, segment_tokens=3, depth=4)


class TableEngine:
    """Samples from logits that are a function of the prefix; the contract of a real engine."""

    def __init__(self, vocabulary: int = 5, eos: float = 0.0, room: int | None = None) -> None:
        self._vocabulary, self._eos, self._room = vocabulary, eos, room
        self.batches: list[int] = []

    def room(self) -> int | None:
        return self._room

    def generate(
        self, rows: Sequence[Row], temperature: float, top_p: float, stop: Collection[int]
    ) -> list[Segment]:
        self.batches.append(len(rows))
        return [self._continued(row, temperature, top_p, stop) for row in rows]

    def _continued(
        self, row: Row, temperature: float, top_p: float, stop: Collection[int]
    ) -> Segment:
        assert row.limit >= 1
        tokens: list[int] = []
        logprobs: list[float] = []
        seed = np.array([row.seed], dtype=np.uint64)
        while len(tokens) < row.limit and not (tokens and tokens[-1] in stop):
            logp = log_distribution(self._logits((*row.prefix, *tokens)), temperature, top_p)
            token, value = draw(logp, uniforms(seed, np.array([row.position + len(tokens)])))
            tokens.append(int(token[0]))
            logprobs.append(float(value[0]))
        return Segment(tokens, logprobs, tokens[-1] in stop)

    def _logits(self, prefix: tuple[int, ...]) -> torch.Tensor:
        logits = [keyed(7, *prefix, token) / 2**63 for token in range(self._vocabulary)]
        return torch.tensor([[self._eos, *logits[1:]]])


class FixedEngine(TableEngine):
    """Every row goes on with the same tokens, over and over."""

    def __init__(self, tokens: Sequence[int], room: int | None = None) -> None:
        super().__init__(room=room)
        self._tokens = tokens

    def _continued(
        self, row: Row, temperature: float, top_p: float, stop: Collection[int]
    ) -> Segment:
        at = range(row.position, row.position + row.limit)
        tokens: list[int] = []
        for place in at:
            tokens.append(self._tokens[place % len(self._tokens)])
            if tokens[-1] in stop:
                break
        return Segment(tokens, [0.0] * len(tokens), tokens[-1] in stop)


def seeds_of(problems: int, width: int = 16) -> list[list[int]]:
    return [[keyed(3, p, i) for i in range(width)] for p in range(problems)]


def tree(
    plan: RolloutPlan = PLAN, eos: float = 0.0, seed: int = 1, ends: Ends = ENDS
) -> list[Draft]:
    (leaves,) = sample(TableEngine(eos=eos), [(9, 9)], plan, [[seed]], ends)
    return leaves


# -- flat ---------------------------------------------------------------------------------------


def test_flat_rollouts_are_one_batch_of_width_rows_a_prompt() -> None:
    plan = RolloutPlan("flat", width=4, max_tokens=6)
    engine = TableEngine(eos=1.0)
    groups = sample(engine, [(2,), (3, 4)], plan, seeds_of(2, 4), ENDS)
    assert engine.batches == [8]
    assert [len(group) for group in groups] == [4, 4]
    for draft in groups[0] + groups[1]:
        assert draft.stop == ("eos" if draft.tokens[-1] == EOS else "length")
        assert draft.stop == "eos" or len(draft.tokens) == 6
        assert (draft.nodes, draft.cuts) == ([], [])
    assert {d.stop for g in groups for d in g} == {"eos", "length"}


def test_a_flat_rollout_depends_on_its_seed_not_on_its_batch() -> None:
    plan = RolloutPlan("flat", width=4, max_tokens=6)
    prompts, seeds = [(2,), (3, 4)], seeds_of(2, 4)
    groups = sample(TableEngine(), prompts, plan, seeds, ENDS)
    assert sample(TableEngine(), prompts[1:], plan, seeds[1:], ENDS) == groups[1:]
    assert len({tuple(d.tokens) for d in groups[0]}) > 1


@pytest.mark.parametrize("shape", ["flat", "tree"])
def test_completions_end_where_the_positions_of_the_model_do(shape: str) -> None:
    plan = replace(PLAN, shape=shape)
    (group,) = sample(TableEngine(eos=-99, room=7), [(2, 3)], plan, seeds_of(1), ENDS)
    assert {(len(d.tokens), d.stop) for d in group} == {(5, "length")}


# -- trees --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("active", "finished", "remaining", "branching", "copies"),
    [
        (2, 0, 16, 2, [2, 2]),  # nothing ended: each path doubles
        (5, 3, 13, 2, [2, 2, 2, 2, 5]),  # 16 wanted by the budget, 13 by the width
        (1, 7, 9, 2, [9]),  # the one that goes on inherits the whole budget
        (3, 1, 20, 2, [2, 2, 4]),  # 8 among 3: the last also gets the remainder
        (4, 0, 4, 2, [1, 1, 1, 1]),  # the width is reached: no path is dropped, none doubled
        (3, 0, 1, 2, [1, 1, 1]),
        (2, 6, 100, 4, [16, 16]),
    ],
)
def test_the_branching_budget_is_transferred(
    active: int, finished: int, remaining: int, branching: int, copies: list[int]
) -> None:
    assert transfer(active, finished, remaining, branching) == copies


def test_a_full_tree_without_ends_doubles_until_the_width() -> None:
    engine = TableEngine(eos=-99)
    (leaves,) = sample(engine, [(9,)], replace(PLAN, width=8), [[5]], ENDS)
    assert engine.batches == [2, 4, 8, 8]
    assert [len(leaf.tokens) for leaf in leaves] == [12] * 8
    assert {leaf.stop for leaf in leaves} == {"length"}
    assert {tuple(leaf.cuts) for leaf in leaves} == {(3, 6, 9, 12)}


plans = st.builds(
    RolloutPlan,
    shape=st.just("tree"),
    width=st.integers(1, 12),
    max_tokens=st.integers(1, 9),
    segment_tokens=st.integers(1, 4),
    depth=st.integers(1, 5),
    branching=st.integers(1, 4),
    first_division=st.sampled_from([(1, 1), (2, 2), (2, 8)]),
    fallback=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(plans, st.floats(-3, 4), st.integers(0, 2**64 - 1))
def test_every_tree_is_sound(plan: RolloutPlan, eos: float, seed: int) -> None:
    leaves = tree(plan, eos, seed)
    assert len(leaves) == plan.width if plan.fallback else 1 <= len(leaves) <= plan.width
    for leaf in leaves:
        assert len(leaf.nodes) == len(leaf.cuts) <= plan.depth
        assert leaf.cuts[-1] == len(leaf.tokens) == len(leaf.logprobs) <= plan.max_tokens
        assert leaf.cuts[:-1] == [plan.segment_tokens * (i + 1) for i in range(len(leaf.cuts) - 1)]
        assert EOS not in leaf.tokens[:-1]
        assert (leaf.stop == "eos") == (leaf.tokens[-1] == EOS)
        assert (leaf.stop == "length") == (
            leaf.tokens[-1] != EOS and len(leaf.tokens) == plan.max_tokens
        )
        assert leaf.stop != "depth" or len(leaf.cuts) == plan.depth


@settings(max_examples=60, deadline=None)
@given(plans, st.floats(-3, 4), st.integers(0, 2**64 - 1))
def test_leaves_share_a_node_exactly_where_they_share_the_tokens_up_to_its_cut(
    plan: RolloutPlan, eos: float, seed: int
) -> None:
    leaves = tree(plan, eos, seed)
    for a in leaves:
        for b in leaves:
            for i, (node, cut) in enumerate(zip(a.nodes, a.cuts, strict=True)):
                same = i < len(b.cuts) and b.cuts[i] == cut and a.tokens[:cut] == b.tokens[:cut]
                assert (node in b.nodes) == same
                assert not same or a.logprobs[:cut] == b.logprobs[:cut]


def test_a_node_is_named_by_its_parent_and_where_it_was_sampled_first() -> None:
    leaves = tree(replace(PLAN, width=4), eos=-99)
    for leaf in leaves:
        assert leaf.nodes[0] in ("root/0-0", "root/0-1")
        for parent, node in zip(leaf.nodes, leaf.nodes[1:], strict=False):
            assert node.rpartition("/")[0] == parent


def test_trees_grow_the_same_alone_and_beside_others() -> None:
    prompts = [(2,), (3, 4), (9, 9, 9), (2,)]
    seeds = seeds_of(4)
    groups = sample(TableEngine(eos=1.0), prompts, PLAN, seeds, ENDS)
    for prompt, own, group in zip(prompts, seeds, groups, strict=True):
        assert sample(TableEngine(eos=1.0), [prompt], PLAN, [own], ENDS) == [group]
    assert groups[0] != groups[3]


def test_the_first_division_is_drawn_evenly_from_its_bounds() -> None:
    plan = replace(PLAN, first_division=(2, 8))
    counts: Counter[int] = Counter()
    for seed in range(700):
        engine = FixedEngine([EOS])
        sample(engine, [(1,)], plan, [[keyed(seed)]], ENDS)
        counts[engine.batches[0]] += 1
    assert set(counts) == set(range(2, 9))
    assert all(60 <= count <= 140 for count in counts.values())


def test_a_stop_token_at_index_0_of_a_segment_ends_the_path() -> None:
    plan = replace(PLAN, width=2, fallback=False)
    (leaves,) = sample(FixedEngine([4, 4, 4, EOS]), [(1,)], plan, [[1]], ENDS)
    assert [(leaf.tokens, leaf.stop, leaf.cuts) for leaf in leaves] == [
        ([4, 4, 4, EOS], "eos", [3, 4])
    ] * 2
    (leaves,) = sample(FixedEngine([EOS]), [(1,)], plan, [[1]], ENDS)
    assert [leaf.tokens for leaf in leaves] == [[EOS]] * 2


def test_the_depth_ends_a_path_that_has_tokens_left() -> None:
    plan = replace(PLAN, max_tokens=100, depth=2)
    leaves = tree(plan, eos=-99)
    assert {(leaf.stop, len(leaf.tokens)) for leaf in leaves} == {("depth", 6)}


def test_without_fallback_a_tree_whose_paths_ended_stays_small() -> None:
    plan = replace(PLAN, fallback=False)
    (leaves,) = sample(FixedEngine([EOS]), [(1,)], plan, [[1]], ENDS)
    assert len(leaves) == 2


def test_the_fallback_restarts_from_the_root_where_nothing_finished() -> None:
    plan = replace(PLAN, depth=1, width=7)
    engine = TableEngine(eos=-99)
    (leaves,) = sample(engine, [(1,)], plan, [[1]], ENDS)
    assert engine.batches == [2, 2, 2, 1]
    assert {leaf.stop for leaf in leaves} == {"depth"}


def test_the_fallback_branches_from_a_cut_of_a_finished_leaf() -> None:
    plan = replace(PLAN, first_division=(1, 1), branching=1, width=12, segment_tokens=1, depth=12)
    engine = FixedEngine([4, 3, 2, EOS])
    (leaves,) = sample(engine, [(1,)], plan, [[1]], ENDS)
    assert {tuple(leaf.tokens) for leaf in leaves} == {(4, 3, 2, EOS)}
    assert len({tuple(leaf.nodes) for leaf in leaves}) == 1
    # Cuts of 0 to 3 of the 4 segments leave 4 to 1 steps until the leaf is whole again.
    assert engine.batches[:4] == [1, 1, 1, 1]
    assert 4 + 4 < len(engine.batches) < 4 * 12


def test_repetition_ends_a_path() -> None:
    ends = Ends({EOS}, text=lambda tokens: "".join(map(str, tokens)))
    plan = replace(PLAN, max_tokens=200, segment_tokens=13, depth=15, width=2)
    (leaves,) = sample(FixedEngine([4]), [(1,)], plan, [[1]], ends)
    assert {(leaf.stop, len(leaf.tokens)) for leaf in leaves} == {("repetition", 39)}


def test_repetition_is_some_32_characters_8_times() -> None:
    assert repeats("x" * 39)
    assert not repeats("x" * 38)
    piece = "".join(chr(97 + i % 26) for i in range(31))
    assert repeats("".join(piece + "!" for _ in range(8)))
    assert not repeats("".join(piece + "!" for _ in range(7)))
    assert not repeats("".join(piece + str(i) for i in range(9)))


def test_an_answer_ends_a_path_before_everything_else() -> None:
    ends = Ends({EOS}, lambda tokens: "".join(map(str, tokens)), lambda text: "40" in text)
    (leaves,) = sample(FixedEngine([3, 4, EOS]), [(1,)], PLAN, [[1]], ends)
    assert {leaf.stop for leaf in leaves} == {"answer"}
    assert len(leaves) == 16


def test_a_tree_on_a_real_model_is_what_forward_passes_say(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(peaked_folder(tmp_path / "model")).eval()
    plan = RolloutPlan("tree", 8, 4, segment_tokens=1, depth=4, first_division=(4, 4))
    prompts = [(2, 3, 4), (5, 6), (5,)]
    groups = sample(TransformersEngine(model), prompts, plan, seeds_of(3), Ends({1}))
    for prompt, group in zip(prompts, groups, strict=True):
        assert len(group) == 8
        for leaf in group:
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *leaf.tokens]])).logits[0]
            logp = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
            wanted = logp[range(len(leaf.tokens)), leaf.tokens]
            np.testing.assert_allclose(leaf.logprobs, wanted.numpy(), atol=1e-5)
    again = sample(TransformersEngine(model), prompts, plan, seeds_of(3), Ends({1}))
    assert again == groups


def test_rollouts_are_dumped_and_loaded_whole() -> None:
    rollouts = [leaf.scored(0.25) for leaf in tree(eos=1.0)]
    assert load_rollouts(dump_rollouts(rollouts)) == rollouts
