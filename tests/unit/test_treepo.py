"""TreePO's advantages against values worked out from the paper and its authors' program."""

import pytest

from schemas.learning import Rollout
from schemas.missions import Mission
from streams.learning.algorithms import algorithm
from streams.learning.algorithms.treepo import TreePo, whiten

REWARDS = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
RELATIVE = [0.416667, -0.583333, 0.25, 0.25, -0.25, -0.25, -0.416667, 0.583333]
WHITENED = [1.026152, -1.436614, 0.615692, 0.615692, -0.615692, -0.615692, -1.026152, 1.436614]


def leaf(reward: float, *nodes: str, tokens: int = 4) -> Rollout:
    return Rollout(
        tokens=[1] * tokens, logprobs=[-1.0] * tokens, reward=reward, stop="eos", nodes=list(nodes)
    )


def full_tree() -> list[Rollout]:
    """Eight leaves of a full binary tree, four tokens each."""
    return [leaf(r, f"{i >> 2}", f"{i >> 1}b", f"{i}c") for i, r in enumerate(REWARDS)]


def treepo(**settings: object) -> TreePo:
    learner = algorithm("treepo", settings)
    assert isinstance(learner, TreePo)
    return learner


def test_golden_values_of_the_authors_program() -> None:
    assert treepo().relative(full_tree()) == pytest.approx(RELATIVE, abs=1e-6)
    found = treepo().advantages([full_tree()])
    assert found.values[0] == pytest.approx(WHITENED, abs=1e-6)
    assert found.signal == [True]


def test_equation_5_counts_every_node_and_divides_by_the_batch() -> None:
    """Leaf 0: (1-1/2 + 1-3/4 + 1-1/2 + 0) / 4, over the unbiased deviation of the rewards."""
    deviation = (8 * 0.25 / 7) ** 0.5
    found = treepo(advantage="paper").advantages([full_tree()]).values[0]
    assert found == pytest.approx([value * 3 / 4 / deviation for value in RELATIVE], abs=1e-6)


def test_without_std_the_values_stay_as_they_are() -> None:
    found = treepo(normalise_std=False).advantages([full_tree()])
    assert found.values[0] == pytest.approx(RELATIVE, abs=1e-6)


def test_a_node_of_one_leaf_is_left_out_but_the_root_is_not() -> None:
    """The early leaf has a node alone; the others share x, and their last level is left out."""
    tree = [leaf(1.0, "early"), leaf(1.0, "x", "xa"), leaf(0.0, "x", "xb")]
    found = treepo().relative(tree)
    assert found == pytest.approx([1 / 3, (1 / 3 + 1 / 2) / 2, (-2 / 3 - 1 / 2) / 2])


def test_leaves_that_share_nothing_are_relative_to_the_root() -> None:
    assert treepo().relative([leaf(1.0, "a"), leaf(0.0, "b")]) == [0.5, -0.5]


def test_groups_without_signal_stay_zero_and_out_of_the_whitening() -> None:
    same = [leaf(1.0, "a"), leaf(1.0, "b", tokens=9)]
    found = treepo().advantages([same, full_tree()])
    assert found.signal == [False, True]
    assert found.values[0] == [0.0, 0.0]
    assert found.values[1] == pytest.approx(WHITENED, abs=1e-6)


def test_a_batch_without_any_signal_is_zero() -> None:
    found = treepo().advantages([[leaf(1.0, "a")], [leaf(0.0, "a"), leaf(0.0, "b")]])
    assert found.values == [[0.0], [0.0, 0.0]]


def test_whitening_counts_tokens() -> None:
    """Values 1 (three tokens) and -1 (one): mean 1/2, unbiased variance 1."""
    assert whiten([[1.0, -1.0]], [[3, 1]])[0] == pytest.approx([0.5, -1.5], abs=1e-6)


def test_the_plan_is_a_tree_of_segments_within_the_token_limit() -> None:
    mission = Mission.model_validate(
        {
            "mission_id": "m",
            "policy": "p",
            "problems": {"name": "spell_backward"},
            "rollout": {"group_size": 16, "max_tokens": 10},
            "budget": {"versions": 1},
        }
    )
    plan = treepo(segment_tokens=4, first_division=[2, 8]).plan(mission)
    assert (plan.shape, plan.width, plan.segment_tokens, plan.depth) == ("tree", 16, 4, 3)
    assert (plan.branching, plan.first_division, plan.fallback) == (2, (2, 8), True)
    assert treepo().plan(mission).segment_tokens == 10


@pytest.mark.parametrize("division", [[4, 2], [0, 2]])
def test_a_first_division_needs_branches(division: list[int]) -> None:
    with pytest.raises(ValueError, match="first_division"):
        treepo(first_division=division)
