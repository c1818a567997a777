"""The way of a policy into a robot: what gets in, what does not, and what a kill may do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from release_world import (
    CONFIG,
    GATE,
    POLICY,
    ROBOT,
    SEEN,
    TRACKER,
    Arm,
    Killed,
    files,
    golden,
    offer,
    sha_of,
    tensors,
)
from safetensors.numpy import save

from schemas.acting import STAGES, Golden, Release, SafetyEvent
from streams.acting.release.returns import worse
from streams.acting.release.sayings import AGAIN_STEPS

WHOLE_WAY = list(STAGES[:-1])
ENOUGH = GATE.shadow_steps + GATE.probation_steps + 6


@pytest.fixture
def arm(tmp_path: Path) -> Arm:
    made = Arm(tmp_path / "policy")
    made.start()
    return made


def test_an_offer_goes_its_whole_way_and_acts_from_the_swap_on(arm: Arm) -> None:
    arm.offer(offer(arm.store, 0))
    arm.steps(ENOUGH, reward=-0.1)
    assert arm.stages(0) == WHOLE_WAY
    swapped = next(r for r in arm.log if r.stage == "SWAPPED")
    assert swapped.acting is not None and swapped.acting.sha256 == sha_of(files(0))
    first = arm.acted.index(swapped.acting)
    assert set(arm.acted[:first]) == {TRACKER}
    assert set(arm.acted[first:]) == {swapped.acting}


def test_it_acts_on_probation_for_as_many_steps_as_the_gate_says(arm: Arm) -> None:
    arm.offer(offer(arm.store, 0))
    while "PROBATION" not in arm.stages(0):
        arm.step(-0.1)
    arm.steps(GATE.probation_steps - 1, -0.1)
    assert "COMMITTED" not in arm.stages(0)
    arm.step(-0.1)
    assert arm.stages(0)[-1] == "COMMITTED"


def bad_files(kind: str) -> dict[str, bytes]:
    good = files(1)
    match kind:
        case "nan":
            return files(1, actor_1_weight=np.full((8, 8), np.nan, np.float32))
        case "inf in log_std":
            return files(1, log_std=np.array([np.inf, 0], np.float32))
        case "shape":
            return files(1, actor_0_weight=np.zeros((8, 9), np.float32))
        case "dtype":
            return files(1, actor_2_bias=np.zeros(2, np.float64))
        case "missing tensor":
            few = {k: v for k, v in tensors(1).items() if k != "obs_mean"}
            return good | {"model.safetensors": save(few)}
        case "truncated":
            return good | {"model.safetensors": good["model.safetensors"][:-8]}
        case "no config":
            return {"model.safetensors": good["model.safetensors"]}
        case "other actions":
            return files(1, CONFIG.model_copy(update={"action": ["torque_2", "torque_1"]}))
        case "wider range":
            return files(1, CONFIG.model_copy(update={"high": [1.0, 2.0]}))
        case "other observation":
            return files(1, CONFIG.model_copy(update={"observation": CONFIG.observation[::-1]}))
    raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("nan", "tensor actor.1.weight is not finite"),
        ("inf in log_std", "log_std is not finite"),
        ("shape", "actor.0.weight"),
        ("dtype", "actor.2.bias"),
        ("missing tensor", "tensor obs_mean is missing"),
        ("truncated", "no whole safetensors file"),
        ("no config", "no config.json"),
        ("other actions", "its actions are"),
        ("wider range", "torque_2 is to be within"),
        ("other observation", "it observes"),
    ],
)
def test_a_bad_policy_never_acts(arm: Arm, kind: str, why: str) -> None:
    arm.offer(offer(arm.store, 1, bad_files(kind), golden(files(1))))
    arm.steps(ENOUGH)
    assert arm.stages(1) in (["OFFERED", "FETCHED", "ROLLED_BACK"], ["OFFERED", "ROLLED_BACK"])
    assert why in arm.reason(1)
    assert set(arm.acted) == {TRACKER}


def test_another_hash_than_the_offer_names_is_refused(arm: Arm) -> None:
    release = offer(arm.store, 1)
    torn = release.files["model.safetensors"].model_copy(update={"sha256": "0" * 64})
    broken = release.model_copy(update={"files": {**release.files, "model.safetensors": torn}})
    arm.fetch = lambda ref: arm.store.objects[ref.key]
    arm.start()
    arm.offer(broken)
    arm.steps(3)
    assert arm.stages(1) == ["OFFERED", "ROLLED_BACK"]
    assert "another hash" in arm.reason(1)


def test_a_store_that_stays_away_is_told_as_the_reason(arm: Arm) -> None:
    release = offer(arm.store, 1)
    arm.store.objects.clear()
    arm.offer(release)
    arm.steps(3)
    assert "MissingObject" in arm.reason(1)


@pytest.mark.parametrize("what", ["answers", "none", "ragged", "few"])
def test_golden_inputs_that_are_answered_otherwise_are_a_refusal(arm: Arm, what: str) -> None:
    right = golden(files(1))
    wrong = {
        "answers": golden(files(2)),
        "none": Golden(inputs=[], outputs=[]),
        "ragged": right.model_copy(update={"inputs": [*right.inputs[:-1], [0.0]]}),
        "few": right.model_copy(update={"outputs": right.outputs[:-1]}),
    }[what]
    arm.offer(offer(arm.store, 1, files(1), wrong))
    arm.steps(ENOUGH)
    assert "golden" in arm.reason(1)
    assert set(arm.acted) == {TRACKER}


def test_one_that_is_far_from_the_acting_one_is_refused_in_the_shadow_run(tmp_path: Path) -> None:
    arm = Arm(tmp_path, gate=GATE.model_copy(update={"output_distance_max": 1e-3}))
    arm.start()
    arm.offer(offer(arm.store, 0))
    arm.steps(ENOUGH)
    arm.offer(offer(arm.store, 1))
    arm.steps(ENOUGH)
    assert "from the acting one" in arm.reason(1)
    assert arm.acted[-1].version == 0


def committed(arm: Arm, version: int = 0, reward: float = -0.1) -> None:
    arm.offer(offer(arm.store, version))
    arm.steps(ENOUGH, reward)
    assert arm.stages(version)[-1] == "COMMITTED"


def test_one_that_earns_less_on_probation_is_rolled_back_to_the_one_before(arm: Arm) -> None:
    committed(arm)
    before = arm.acted[-1]
    arm.steps(12, -0.1)
    arm.offer(offer(arm.store, 1))
    while "PROBATION" not in arm.stages(1):
        arm.step(-0.1)
    arm.steps(ENOUGH, -0.4)
    assert "mean reward fell" in arm.reason(1)
    assert arm.acted[-1] == before
    assert arm.log[-1].acting == before


def test_one_that_earns_a_little_less_stays(arm: Arm) -> None:
    committed(arm)
    arm.steps(12, -0.1)
    arm.offer(offer(arm.store, 1))
    arm.steps(ENOUGH, -0.12)
    assert arm.stages(1)[-1] == "COMMITTED"


def test_the_trackers_reward_is_no_yardstick(arm: Arm) -> None:
    arm.steps(12, -0.1)
    arm.offer(offer(arm.store, 0))
    while "PROBATION" not in arm.stages(0):
        arm.step(-0.1)
    arm.steps(ENOUGH, -9.0)
    assert arm.stages(0)[-1] == "COMMITTED"


def test_what_was_rolled_back_to_acts_after_a_restart_too(arm: Arm) -> None:
    committed(arm)
    before = arm.acted[-1]
    arm.steps(12, -0.1)
    arm.offer(offer(arm.store, 1))
    while "PROBATION" not in arm.stages(1):
        arm.step(-0.1)
    arm.start()
    arm.steps(2, -0.1)
    assert arm.acted[-1].version == 1
    arm.steps(ENOUGH, -0.9)
    assert arm.acted[-1] == before
    arm.start()
    arm.step(-0.1)
    assert arm.acted[-1] == before


@pytest.mark.parametrize(
    ("new", "old", "is_worse"),
    [
        ([-2.0], [-1.0], True),
        ([-1.2], [-1.0], False),
        ([-2.0], [], False),
        ([], [-1.0], False),
        # As far apart as the old ones are among themselves.
        ([-2.0], [-1.0, -3.0, -0.2, -1.8], False),
        ([-2.0] * 9, [-1.0, -0.9, -1.1, -1.0], True),
        ([0.5], [1.0], True),
        ([1.5], [1.0], False),
    ],
)
def test_a_fall_counts_beyond_the_share_and_beyond_its_error(
    new: list[float], old: list[float], is_worse: bool
) -> None:
    assert bool(worse(new, old, 0.25)) == is_worse


@pytest.mark.parametrize(
    ("after", "cause", "rolls_back"),
    [
        ("HOLD", "obstacle", True),
        ("SAFE_STOP", "tilt", True),
        ("DEGRADED", "obstacle", False),
        ("HOLD", "silence", False),
        ("SAFE_STOP", "operator", False),
    ],
)
def test_an_alarm_that_it_may_have_caused_rolls_it_back(
    arm: Arm, after: Any, cause: str, rolls_back: bool
) -> None:
    committed(arm)
    arm.offer(offer(arm.store, 1))
    while "PROBATION" not in arm.stages(1):
        arm.step(-0.1)
    event = SafetyEvent(
        robot_id=ROBOT,
        boot_id="b",
        seq=0,
        stamp_ms=0,
        wall_ms=0,
        before="NORMAL",
        after=after,
        cause=cause,
    )
    arm.machine.note_safety(event)
    arm.step(-0.1)
    assert ("ROLLED_BACK" in arm.stages(1)) == rolls_back


def test_an_answer_that_is_not_finite_never_leaves_and_ends_the_probation(arm: Arm) -> None:
    committed(arm)
    # All weights are finite, and so are the answers to small inputs.
    weights = np.full((8, len(SEEN)), 3e38, np.float32)
    huge = files(1, actor_0_weight=weights, obs_mean=np.zeros(len(SEEN), np.float32))
    blind = [0.0] * len(SEEN)
    answers = Golden(inputs=[blind], outputs=golden_of(huge, blind))
    arm.offer(offer(arm.store, 1, huge, answers))
    while "PROBATION" not in arm.stages(1):
        arm.step(-0.1, seen=blind)
    overflows = [1.0, -1.0] * (len(SEEN) // 2)
    set_point = arm.step(-0.1, seen=overflows)
    assert set_point is not None and np.isfinite(set_point).all()
    assert arm.reason(1) == "its action is not finite"
    assert arm.acted[-1].version == 0


def golden_of(content: dict[str, bytes], row: list[float]) -> list[list[float]]:
    from streams.acting.control.policy import load_policy

    found: list[list[float]] = (
        load_policy(POLICY, 1, content).mean(np.array([row], np.float32)).tolist()
    )
    return found


def test_it_waits_for_a_safe_moment_and_for_so_long_only(arm: Arm) -> None:
    arm.offer(offer(arm.store, 0))
    arm.steps(GATE.shadow_steps + 3, safe=False)
    assert arm.stages(0)[-1] == "WAIT_SAFE"
    assert not arm.machine.wants_rest
    arm.steps(GATE.wait_safe_steps // 2 + 1, safe=False)
    assert arm.machine.wants_rest
    arm.steps(GATE.wait_safe_steps, safe=False)
    assert "no safe moment" in arm.reason(0)
    assert not arm.machine.wants_rest


def test_a_newer_offer_supersedes_what_is_not_swapped_in(arm: Arm) -> None:
    arm.offer(offer(arm.store, 1))
    arm.steps(2, safe=False)
    arm.offer(offer(arm.store, 2))
    arm.offer(offer(arm.store, 3))
    arm.steps(ENOUGH)
    assert arm.stages(1)[-1] == arm.stages(2)[-1] == "ROLLED_BACK"
    assert arm.reason(1) == "superseded by version 3"
    assert arm.stages(3) == WHOLE_WAY


def test_an_offer_during_a_probation_waits_for_its_end(arm: Arm) -> None:
    arm.offer(offer(arm.store, 1))
    while "PROBATION" not in arm.stages(1):
        arm.step(-0.1)
    arm.offer(offer(arm.store, 2))
    arm.steps(2 * ENOUGH, -0.1)
    assert arm.stages(1) == arm.stages(2) == WHOLE_WAY


def test_a_version_goes_down_only_where_the_offer_says_why(arm: Arm) -> None:
    committed(arm, 5)
    arm.offer(offer(arm.store, 4))
    arm.steps(ENOUGH, -0.1)
    assert arm.reason(4) == "version 4 is not above 5, which acts"
    operator = offer(arm.store, 3, reason="5 trembles")
    arm.offer(operator)
    arm.steps(ENOUGH, -0.1)
    assert arm.acted[-1].version == 3


# -- kills ------------------------------------------------------------------------------------


def lives(arm: Arm, points: set[str], occasions: dict[str, int]) -> int:
    """Offer three versions, killed at each of these points at its n-th passing; the kills."""
    left = dict(occasions)
    killed = [0]

    def kill_at(name: str) -> bool:
        if name not in points or left.get(name, 0) <= 0:
            return False
        left[name] -= 1
        killed[0] += 1
        return True

    arm.kill_at = kill_at
    restart(arm)
    for version in (0, 1, 2):
        arm.offer(offer(arm.store, version))
        for _ in range(12 * ENOUGH):
            try:
                arm.step(-0.1)
            except Killed:
                restart(arm)
            if arm.stages(version)[-1] in ("COMMITTED", "ROLLED_BACK"):
                break
    return killed[0]


def restart(arm: Arm) -> None:
    while True:
        try:
            arm.start()
            return
        except Killed:
            continue


ALL_POINTS = (
    "offered",
    "fetched",
    "staged",
    "wait_safe",
    "swapping",
    "written",
    "renamed",
    "swapped",
    "probation",
    "committing",
    "committed",
)


def check_books(arm: Arm) -> None:
    """What a reader of the log can say: whole policies only, each acting only once released."""
    whole = {sha_of(files(version)): version for version in range(3)}
    for ref in arm.acted:
        assert ref == TRACKER or whole[ref.sha256] == ref.version
    acting = [r.acting for r in arm.log if r.stage in ("SWAPPED", "ROLLED_BACK") and r.acting]
    changes = [ref for i, ref in enumerate(arm.acted) if i == 0 or arm.acted[i - 1] != ref]
    at = iter([TRACKER, *acting])
    assert all(ref in at for ref in changes), (changes, acting)
    for version in range(3):
        order = [STAGES.index(stage) for stage in arm.stages(version)]
        assert order == sorted(order)
        assert order[:1] == [0]


@pytest.mark.slow
@pytest.mark.parametrize("point", ALL_POINTS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_killed_at_any_point_it_goes_on_with_whole_policies(
    arm: Arm, point: str, times: int
) -> None:
    assert lives(arm, {point}, {point: times}) == times
    check_books(arm)
    assert arm.stages(2)[-1] == "COMMITTED"
    assert arm.acted[-1].version == 2


def test_a_policy_in_whose_probation_controllers_keep_dying_is_rolled_back(arm: Arm) -> None:
    committed(arm)
    arm.offer(offer(arm.store, 1))
    arm.kill_at = lambda name: name == "probation" and arm.machine.ref.version == 1
    for _ in range(100):
        try:
            arm.step(-0.1)
        except Killed:
            arm.start()
        if arm.stages(1)[-1] == "ROLLED_BACK":
            break
    assert "controllers ended in its probation" in arm.reason(1)
    assert arm.acted[-1].version == 0


def test_what_a_kill_kept_from_the_log_is_said_after_the_start(arm: Arm) -> None:
    """The folder is written first: the log is told later, and each stage once."""
    arm.offer(offer(arm.store, 0))
    while "PROBATION" not in arm.stages(0):
        arm.step(-0.1)
    arm.log[:] = [r for r in arm.log if r.stage == "OFFERED"]  # nothing of it was delivered
    arm.start()
    arm.steps(ENOUGH, -0.1)
    assert arm.stages(0) == WHOLE_WAY


def test_without_its_folder_a_robot_is_offered_again_what_was_committed(
    arm: Arm, tmp_path: Path
) -> None:
    committed(arm, 3)
    acted = arm.acted[-1]
    arm.folder = tmp_path / "empty"
    arm.start()
    arm.step(-0.1)
    assert arm.acted[-1] == TRACKER
    arm.steps(ENOUGH, -0.1)
    assert arm.acted[-1] == acted
    again = arm.log[-1].release_id
    assert again != "r3"
    assert [r.stage for r in arm.log if r.release_id == again] == WHOLE_WAY


def test_a_policy_that_was_damaged_on_disk_does_not_act(arm: Arm) -> None:
    committed(arm, 3)
    acted = arm.acted[-1]
    for path in (arm.folder / "files").iterdir():
        if path.stat().st_size > 1000:
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(bytes(data))
    arm.start()
    arm.step(-0.1)
    assert arm.acted[-1] == TRACKER
    arm.steps(ENOUGH, -0.1)
    assert arm.acted[-1] == acted


def test_what_acts_has_the_hash_that_was_installed(arm: Arm) -> None:
    committed(arm, 3)
    path = arm.folder / "current.json"
    path.write_text(path.read_text().replace(arm.acted[-1].sha256, "f" * 64))
    arm.start()
    arm.step(-0.1)
    assert arm.acted[-1] == TRACKER


def test_what_is_not_needed_any_more_is_deleted(arm: Arm) -> None:
    for version in range(4):
        committed(arm, version)
    assert len(list((arm.folder / "files").iterdir())) == 2


@settings(max_examples=60, deadline=None)
@given(occasions=st.dictionaries(st.sampled_from(ALL_POINTS), st.integers(1, 4), max_size=5))
@pytest.mark.slow
def test_whatever_kills_come_together_the_books_balance(
    tmp_path_factory: pytest.TempPathFactory, occasions: dict[str, int]
) -> None:
    arm = Arm(tmp_path_factory.mktemp("arm"))
    arm.start()
    lives(arm, set(occasions), occasions)
    check_books(arm)


# -- a log that is away -----------------------------------------------------------------------


@pytest.mark.parametrize("lost", WHOLE_WAY[1:])
def test_what_the_log_did_not_get_is_said_again_and_in_order(arm: Arm, lost: str) -> None:
    occasions = [lost, lost]

    def loses(release: Release) -> bool:
        if release.stage in occasions:
            occasions.remove(release.stage)
            return True
        return False

    arm.loses = loses
    arm.offer(offer(arm.store, 0))
    arm.steps(ENOUGH + 3 * AGAIN_STEPS, -0.1)
    assert arm.stages(0) == WHOLE_WAY and not occasions


@pytest.mark.parametrize("last", WHOLE_WAY[1:5])
def test_while_the_log_is_away_nothing_is_swapped(arm: Arm, last: str) -> None:
    """Announce, then act: also the folder is as it was, so a kill changes nothing."""
    away: list[str] = list(WHOLE_WAY)
    del away[: away.index(last)]
    arm.loses = lambda release: release.stage in away
    arm.offer(offer(arm.store, 0))
    arm.steps(2 * AGAIN_STEPS, -0.1)
    assert set(arm.acted) == {TRACKER} and not (arm.folder / "current.json").exists()
    arm.loses = lambda release: False
    arm.steps(ENOUGH + AGAIN_STEPS, -0.1)
    assert arm.stages(0) == WHOLE_WAY and arm.acted[-1].version == 0


def test_a_safe_moment_that_has_passed_is_waited_for_again(arm: Arm) -> None:
    arm.loses = lambda release: release.stage == "SWAPPED"
    arm.offer(offer(arm.store, 0))
    arm.steps(GATE.shadow_steps + 3, -0.1)
    arm.loses = lambda release: False
    arm.steps(AGAIN_STEPS, -0.1, safe=False)
    assert arm.stages(0)[-1] == "SWAPPED" and set(arm.acted) == {TRACKER}
    arm.step(-0.1)
    assert arm.acted[-1].version == 0


def test_what_comes_back_late_and_twice_changes_nothing(arm: Arm) -> None:
    arm.offer(offer(arm.store, 0))
    while "SWAPPED" not in arm.stages(0):
        arm.step(-0.1)
    for release in list(arm.log):
        arm.machine.known(release)
    arm.steps(ENOUGH, -0.1)
    assert arm.stages(0) == WHOLE_WAY


def test_killed_after_the_announcement_it_goes_on_to_the_swap(arm: Arm) -> None:
    arm.offer(offer(arm.store, 0))
    while "SWAPPED" not in arm.stages(0):
        arm.step(-0.1)
    arm.start()
    arm.step(-0.1)
    assert arm.acted[-1] == TRACKER
    arm.steps(ENOUGH, -0.1)
    assert arm.stages(0) == WHOLE_WAY and arm.acted[-1].version == 0
