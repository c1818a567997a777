"""The registry, the advantages of GRPO, and the objective that all algorithms share."""

import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.learning import Rollout
from schemas.missions import Mission, parse_mission
from streams.learning.algorithms import (
    UnknownAlgorithm,
    algorithm,
    algorithm_of,
    code_sha256,
    names,
)
from streams.learning.algorithms.base import Algorithm
from streams.learning.algorithms.code import source_files
from streams.learning.algorithms.objective import TokenBatch, clipped, k3

EXAMPLES = Path(__file__).parents[2] / "examples" / "missions"
LEARNING = [
    p for p in sorted(EXAMPLES.glob("*.yaml")) if "robots" not in yaml.safe_load(p.read_text())
]


def group(*rewards: float) -> list[Rollout]:
    return [Rollout(tokens=[1], logprobs=[-1.0], reward=r, stop="eos") for r in rewards]


def batch(
    new: list[list[float]],
    mu: list[list[float]] | None = None,
    advantages: list[list[float]] | None = None,
    mask: list[list[float]] | None = None,
    ref: list[list[float]] | None = None,
) -> TokenBatch:
    logp = torch.tensor(new, dtype=torch.float64, requires_grad=True)
    ones = torch.ones_like(logp)
    kept = ones if mask is None else torch.tensor(mask, dtype=torch.float64)
    return TokenBatch(
        logp=logp,
        mu=logp.detach() if mu is None else torch.tensor(mu, dtype=torch.float64),
        old=logp.detach(),
        advantages=ones if advantages is None else torch.tensor(advantages, dtype=torch.float64),
        mask=kept,
        entropy=-logp,
        tokens=int(kept.sum()),
        rows=len(new),
        ref=None if ref is None else torch.tensor(ref, dtype=torch.float64),
    )


def test_the_built_in_algorithms_are_known() -> None:
    assert {"grpo", "gspo", "treepo"} <= set(names())
    assert [algorithm(name, {}).name for name in ("grpo", "gspo", "treepo")] == [
        "grpo",
        "gspo",
        "treepo",
    ]


def test_an_unknown_algorithm_is_refused_with_those_known() -> None:
    with pytest.raises(UnknownAlgorithm, match=r"'grop' \(did you mean 'grpo'\?\); known: grpo, "):
        algorithm("grop", {})


def test_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="entropi"):
        algorithm("grpo", {"entropi": 0.1})
    with pytest.raises(ValidationError, match="segment_tokens"):
        algorithm("grpo", {"segment_tokens": 4})


@pytest.mark.parametrize("bounds", [[2.0, 1.0], [-1.0, 1.0]])
def test_bounds_in_the_wrong_order_are_refused(bounds: list[float]) -> None:
    with pytest.raises(ValidationError, match="low < high"):
        algorithm("grpo", {"tis_bounds": bounds})


def test_another_class_may_register_but_not_take_a_name() -> None:
    @algorithm("constant-for-test")
    class Constant(Algorithm):
        """Nothing of its own."""

    assert isinstance(algorithm("constant-for-test", {}), Constant)
    assert "constant-for-test" in names()
    with pytest.raises(ValueError, match="needs another name"):

        @algorithm("constant-for-test")
        class Other(Algorithm):
            """Wants the same name."""


def test_checking_settings_and_hashing_code_import_no_torch() -> None:
    program = (
        "import sys; from streams.learning.algorithms import algorithm, code_sha256;"
        "algorithm('treepo', {'entropy': 0.1}); code_sha256('gspo');"
        "print('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_the_code_hash_covers_what_the_algorithm_imports_of_its_package() -> None:
    covered = {path.name for path in source_files("gspo").values()}
    assert covered >= {"gspo.py", "grpo.py", "base.py", "corrections.py", "objective.py"}
    assert "treepo.py" not in covered
    assert len({code_sha256(name) for name in ("grpo", "gspo", "treepo")}) == 3
    with pytest.raises(UnknownAlgorithm):
        code_sha256("grop")


def test_the_code_hash_changes_with_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "own_algorithm_for_test.py"
    module.write_text(
        "from streams.learning.algorithms import algorithm\n"
        "from streams.learning.algorithms.base import Algorithm\n"
        "@algorithm('own-for-test')\nclass Own(Algorithm): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("own_algorithm_for_test")
    before = code_sha256("own-for-test")
    assert before == code_sha256("own-for-test")
    module.write_text(module.read_text() + "# another line\n")
    assert code_sha256("own-for-test") != before


def test_grpo_relates_rewards_to_their_group() -> None:
    found = algorithm("grpo", {}).advantages([group(0, 1, 1, 0), group(0.5, 0.5), group(0, 4)])
    assert found.signal == [True, False, True]
    assert found.values[0] == pytest.approx([-0.866024, 0.866024, 0.866024, -0.866024], abs=1e-5)
    assert found.values[1] == [0.0, 0.0]
    assert found.values[2] == pytest.approx([-0.7071065, 0.7071065], abs=1e-5)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=16))
def test_grpo_without_std_sums_to_nothing(rewards: list[float]) -> None:
    plain = algorithm("grpo", {"normalise_std": False}).advantages([group(*rewards)])
    assert plain.values[0] == pytest.approx([r - fmean(rewards) for r in rewards])
    assert sum(plain.values[0]) == pytest.approx(0, abs=1e-9)


def test_grpo_rolls_out_flat(mission: Mission) -> None:
    plan = algorithm("grpo", {}).plan(mission)
    assert (plan.shape, plan.width, plan.max_tokens) == ("flat", 6, 5)
    assert (plan.temperature, plan.top_p) == (0.7, 0.9)


@pytest.fixture
def mission() -> Mission:
    return Mission.model_validate(
        {
            "mission_id": "m",
            "policy": "p",
            "problems": {"name": "spell_backward"},
            "rollout": {"group_size": 6, "max_tokens": 5, "temperature": 0.7, "top_p": 0.9},
            "budget": {"versions": 1},
        }
    )


@pytest.mark.parametrize("path", LEARNING, ids=lambda path: path.stem)
def test_the_settings_of_the_example_missions_are_valid(path: Path) -> None:
    example = parse_mission({"mission_id": "m", **yaml.safe_load(path.read_text())})
    learner = algorithm_of(example)
    if isinstance(learner, Algorithm):
        assert learner.plan(example).width == example.rollout.group_size
    else:
        assert example.acts and learner.learns_from == "episodes"


def test_the_clip_is_wider_above_than_below() -> None:
    ratio = torch.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 1.5])
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    found = clipped(ratio, advantages, 0.2, 0.28, None)
    assert found.tolist() == pytest.approx([0.5, 1.0, 1.28, -0.8, -1.0, -1.5])


def test_dual_clip_bounds_the_loss_of_bad_actions_alone() -> None:
    ratio, advantages = torch.tensor([50.0, 0.1]), torch.tensor([-2.0, 2.0])
    assert clipped(ratio, advantages, 0.2, 0.28, 3.0).tolist() == pytest.approx([-6.0, 0.2])


def test_k3_is_zero_for_equals_and_positive_otherwise() -> None:
    new, other = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.0, -0.5, -3.0])
    assert k3(new, other).tolist() == pytest.approx([0.0, 0.148721, 1.135335], abs=1e-6)


def test_on_policy_the_gradient_is_reinforce_as_a_token_mean() -> None:
    tokens = batch([[-1.0, -2.0], [-0.5, 0.0]], None, [[2.0, 2.0], [-1.0, 0.0]], [[1, 1], [1, 0]])
    loss, stats = algorithm("grpo", {}).loss(tokens)
    loss.backward()
    expected = torch.tensor([[2.0, 2.0], [-1.0, 0.0]], dtype=torch.float64) / -3
    torch.testing.assert_close(tokens.logp.grad, expected)
    assert float(stats["ratio_mean"]) == 1
    assert float(stats["clip_fraction"]) == 0


def test_padding_changes_nothing() -> None:
    one = batch([[-1.0, -2.0]], [[-1.1, -1.9]])
    padded = batch([[-1.0, -2.0, -9.0]], [[-1.1, -1.9, 0.0]], None, [[1, 1, 0]])
    learner = algorithm("grpo", {"entropy": 0.1})
    assert learner.loss(one)[0].item() == pytest.approx(learner.loss(padded)[0].item())


def test_clipped_tokens_have_no_gradient_and_are_counted() -> None:
    tokens = batch([[-1.0, -1.0]], [[-2.0, -1.0]])
    loss, stats = algorithm("grpo", {}).loss(tokens)
    loss.backward()
    assert tokens.logp.grad is not None
    assert tokens.logp.grad[0].tolist() == pytest.approx([0.0, -0.5])
    assert float(stats["clip_fraction"]) == 0.5


def test_a_group_without_signal_keeps_its_entropy_term_alone() -> None:
    tokens = batch([[-1.0, -2.0]], None, [[0.0, 0.0]])
    loss, _ = algorithm("grpo", {"entropy": 0.1}).loss(tokens)
    loss.backward()
    assert loss.item() == pytest.approx(-0.1 * 1.5)
    assert tokens.logp.grad is not None
    assert tokens.logp.grad[0].tolist() == pytest.approx([0.05, 0.05])


def test_the_reference_pulls_by_its_coefficient() -> None:
    tokens = batch([[-1.0]], None, [[0.0]], None, [[-0.5]])
    loss, stats = algorithm("grpo", {"kl": 0.2}).loss(tokens)
    assert float(stats["kl_reference"]) == pytest.approx(0.148721, abs=1e-6)
    assert loss.item() == pytest.approx(0.2 * 0.148721, abs=1e-6)


def test_the_parts_of_a_batch_add_up_to_its_loss() -> None:
    learner = algorithm("gspo", {"entropy": 0.1})
    new, mu = [[-1.0, -2.0], [-0.3, -0.2]], [[-1.2, -2.0], [-0.3, -0.5]]
    whole, stats = learner.loss(batch(new, mu))
    parts = []
    for row in range(2):
        part = batch([new[row]], [mu[row]])
        counted = {"tokens": 4, "rows": 2}
        fields = {name: getattr(part, name) for name in part.__slots__} | counted
        parts.append(learner.loss(TokenBatch(**fields)))
    assert sum(loss.item() for loss, _ in parts) == pytest.approx(whole.item())
    assert float(sum(s["ratio_mean"] for _, s in parts)) == pytest.approx(
        float(stats["ratio_mean"])
    )


def test_gspo_takes_one_ratio_a_sequence() -> None:
    tokens = batch([[-1.0, -2.0, 0.0]], [[-1.3, -1.9, 0.0]], None, [[1, 1, 0]])
    learner = algorithm("gspo", {})
    loss, stats = learner.loss(tokens)
    loss.backward()
    ratio = float(torch.tensor((0.3 - 0.1) / 2).exp())
    assert float(stats["ratio_mean"]) == pytest.approx(ratio)
    assert loss.item() == pytest.approx(-ratio)
    assert tokens.logp.grad is not None
    assert tokens.logp.grad[0].tolist() == pytest.approx([-ratio / 2, -ratio / 2, 0.0])
    assert (learner.units(9, 2), algorithm("grpo", {}).units(9, 2)) == (2, 9)
