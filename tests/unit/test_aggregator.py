"""The aggregator on the real driver, with log and store in memory."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from learning_steps import (
    POLICY,
    flat_weights,
    gradient,
    mission,
    prepared,
    reference_adamw,
    shard_bytes,
    upload,
)
from learning_world import MINE, World, world

from consumers.read import read
from schemas.ids import digest
from schemas.learning import (
    CloseStep,
    DeadLetter,
    GroupUse,
    RollbackRequest,
    UploadsRefused,
    VersionsExpired,
    WeightHead,
    WeightVersion,
)
from schemas.records import Partition
from streams.learning import janitor

# -- version 0 --------------------------------------------------------------------------------


def test_version_0_is_the_base_as_it_was_prepared(tmp_path: Path) -> None:
    at = world(tmp_path)
    (base,) = at.versions()
    assert (base.version, base.kind, base.parent, base.optimizer) == (0, "base", None, {})
    assert torch.equal(at.weights(base), flat_weights(shard_bytes()))
    assert base.layout.chunk_elements == 256 and set(base.files) == {"config.json"}
    assert [head.version for head in at.events(WeightHead)] == [0]


def test_version_0_is_made_once(tmp_path: Path) -> None:
    at = world(tmp_path)
    at.send(prepared(at.store, at.mission))
    at.run()
    at.restart()
    at.run()
    assert len(at.versions()) == 1


def test_a_standby_makes_nothing(tmp_path: Path) -> None:
    at = World(tmp_path, mission())
    at.aggregator.assigned([Partition("gradient-chunks", (MINE.number + 1) % 4)])
    assert at.aggregator.tick() is None
    assert at.versions() == []


def test_what_comes_before_version_0_is_a_dead_letter(tmp_path: Path) -> None:
    at = World(tmp_path, mission())
    at.upload(0, (0, 4))
    at.run()
    (letter,) = at.events(DeadLetter)
    assert letter.reason == "no-version" and "main has no version yet" in letter.detail
    assert [v.version for v in at.versions()] == [0]


# -- steps ------------------------------------------------------------------------------------


def test_an_upload_becomes_a_version(tmp_path: Path) -> None:
    at = world(tmp_path)
    sent = at.upload(0, (0, 4))
    at.run()
    base, one = at.versions()
    expected, norms = reference_adamw(at.weights(base), [gradient(0)], at.mission)
    assert torch.allclose(at.weights(one), expected, rtol=1e-6, atol=1e-7)
    assert one.step and one.step.step == 1
    assert one.step.grad_norm == pytest.approx(norms[0], rel=1e-6)
    assert (one.version, one.previous, one.parent, one.lineage) == (1, 0, 0, [0])
    assert one.marks == {"samples-0": 4} and one.resume == {str(MINE): 1}
    assert one.totals.model_dump() == {
        "groups": 4,
        "samples": 16,
        "uploads": 1,
        "dropped": 0,
        "refused": 0,
    }
    (applied,) = one.uploads
    assert (applied.upload_id, applied.at) == (sent.upload_id, f"gradient-chunks[{MINE.number}]@0")
    assert applied.record_sha256 == digest(sent.to_bytes())
    assert one.staleness == 0.0 and one.files == base.files
    assert [head.version for head in at.events(WeightHead)] == [0, 1]


def test_a_manifest_names_the_hash_of_its_parents_record(tmp_path: Path) -> None:
    at = world(tmp_path)
    for base in range(3):
        at.upload(base, (base, base + 1))
    at.run()
    records = list(read("weight-versions", log=at.log))
    for parent, child in itertools.pairwise(records):
        assert isinstance(child.event, WeightVersion)
        assert child.event.parent_sha256 == digest(parent.value or b"")


def test_a_step_waits_for_its_uploads(tmp_path: Path) -> None:
    at = world(tmp_path, uploads_per_step=3)
    for i in range(2):
        at.upload(0, (i, i + 1), weight=10.0**i)
    at.run()
    assert len(at.versions()) == 1 and at.committed() == 0
    at.upload(0, (2, 3), weight=100.0)
    at.run()
    one = at.head()
    assert [u.upload_id for u in one.uploads] == ["main-0-1", "main-1-2", "main-2-3"]
    assert at.committed() == 3
    mean = (gradient(0) + 10 * gradient(1) + 100 * gradient(2)) / 111
    expected, _ = reference_adamw(at.weights(at.versions()[0]), [mean], at.mission)
    assert torch.allclose(at.weights(one), expected, rtol=1e-5, atol=1e-6)


def test_an_open_step_survives_a_restart_to_the_last_bit(tmp_path: Path) -> None:
    runs = [world(tmp_path / name, uploads_per_step=3) for name in ("whole", "cut")]
    for at in runs:
        for i in range(2):
            at.upload(0, (i, i + 1))
        at.run()
    runs[1].restart()
    for at in runs:
        at.upload(0, (2, 3))
        at.run()
    assert runs[0].versions() == runs[1].versions()
    assert len(runs[0].versions()) == 2


def test_close_step_takes_what_there_is(tmp_path: Path) -> None:
    at = world(tmp_path, uploads_per_step=3)
    close = CloseStep(policy=POLICY, mission_id="m")
    at.upload(0, (0, 1))
    at.send(close, close)
    at.run()
    assert [v.version for v in at.versions()] == [0, 1]
    assert len(at.head().uploads) == 1 and at.head().resume == {str(MINE): 2}
    assert at.committed() == 3


def test_other_policies_are_left_alone(tmp_path: Path) -> None:
    at = world(tmp_path)
    for number in range(8):
        at.send(upload(at.store, mission(policy=f"other{number}"), 0, (0, 4)))
    at.run()
    assert len(at.versions()) == 1 and at.events(UploadsRefused, DeadLetter) == []


def test_staleness_is_that_of_the_samples(tmp_path: Path) -> None:
    at = world(tmp_path)
    at.upload(0, (0, 1))
    old = GroupUse(group_id="g", at="samples[0]@1", version=0, rollouts=4)
    at.run()
    at.upload(1, (1, 2), groups=[old])
    at.run()
    assert [v.staleness for v in at.versions()] == [None, 0.0, 1.0]


# -- refusals ---------------------------------------------------------------------------------


def test_a_refusal_is_published_at_once_and_moves_the_marks(tmp_path: Path) -> None:
    at = world(tmp_path, staleness_max=0)
    at.upload(0, (0, 4))
    at.run()
    stale = at.upload(0, (4, 8))
    at.run()
    (event,) = at.events(UploadsRefused)
    assert event.head == 1 and [r.reason for r in event.refused] == ["stale"]
    assert event.refused[0].upload_id == stale.upload_id and event.refused[0].groups == 4
    assert event.marks == {"samples-0": 8} and event.resume == {str(MINE): 2}
    assert (event.totals.groups, event.totals.refused, event.totals.samples) == (8, 4, 16)
    at.restart()
    at.upload(1, (8, 12))
    at.run()
    assert at.head().version == 2 and at.head().totals.groups == 12


def test_the_same_samples_are_learnt_from_once(tmp_path: Path) -> None:
    at = world(tmp_path)
    at.upload(0, (0, 4))
    at.run()
    at.restart()
    at.upload(1, (0, 4))
    at.upload(1, (2, 6))
    at.upload(1, (4, 6))
    at.upload(1, (6, 7))
    at.run()
    refused = [r for e in at.events(UploadsRefused) for r in e.refused]
    assert [(r.reason, r.groups) for r in refused] == [("overlap", n) for n in (0, 2, 0)]
    assert [u.upload_id for v in at.versions() for u in v.uploads] == ["main-0-4", "main-6-7"]
    # Offsets 4 and 5 came with what was learnt from already: refused, but not forgotten.
    totals = at.head().totals
    assert (totals.groups, totals.refused, totals.samples) == (7, 2, 20)
    assert at.head().marks == {"samples-0": 7} and at.aggregator.gaps == 0


def test_refusals_inside_an_open_step_are_in_its_manifest(tmp_path: Path) -> None:
    at = world(tmp_path, uploads_per_step=2)
    at.upload(0, (0, 4))
    at.upload(0, (0, 4))
    at.upload(9, (4, 6))
    at.upload(0, (6, 7))
    at.run()
    assert at.events(UploadsRefused) == []
    assert [r.reason for r in at.head().refused] == ["overlap", "abandoned"]
    assert at.head().marks == {"samples-0": 7} and at.head().totals.groups == 7


def test_a_spoilt_chunk_is_refused_as_unreadable(tmp_path: Path) -> None:
    at = world(tmp_path)
    one = upload(at.store, at.mission, 0, (0, 4))
    at.store.objects[one.chunks[1].key] = b"spoilt"
    at.send(one)
    nan = gradient(1)
    nan[700] = float("nan")
    at.upload(0, (4, 5), vector=nan)
    at.run()
    refused = [r for e in at.events(UploadsRefused) for r in e.refused]
    assert [r.reason for r in refused] == ["unreadable"] * 2
    assert "chunk 1" in refused[0].detail and "not finite" in refused[1].detail
    assert at.head().version == 0


def test_a_gap_is_applied_and_counted(tmp_path: Path) -> None:
    at = world(tmp_path)
    at.upload(0, (0, 4))
    at.upload(0, (5, 6))
    at.run()
    assert at.head().version == 2 and at.aggregator.gaps == 1


# -- rollback ---------------------------------------------------------------------------------


def ask(to: int) -> RollbackRequest:
    return RollbackRequest(request_id="r", policy=POLICY, to_version=to, reason="worse")


def test_a_rollback_continues_from_the_old_content(tmp_path: Path) -> None:
    at = world(tmp_path)
    for base in range(3):
        at.upload(base, (base, base + 1))
    at.send(ask(1))
    at.run()
    old, back = at.versions()[1], at.head()
    assert (back.version, back.previous, back.parent, back.kind) == (4, 3, 1, "rollback")
    assert (back.shards, back.optimizer, back.step) == (old.shards, old.optimizer, old.step)
    assert back.lineage == [1, 0] and back.reason == "worse" and back.uploads == []
    assert back.parent_sha256 == digest(list(read("weight-versions", log=at.log))[1].value or b"")
    assert back.marks == {"samples-0": 3} and back.totals == at.versions()[3].totals
    at.upload(3, (3, 4))
    at.upload(1, (4, 5))
    at.run()
    assert [r.reason for e in at.events(UploadsRefused) for r in e.refused] == ["abandoned"]
    after = at.head()
    assert (after.version, after.lineage) == (5, [4, 1, 0])
    assert after.step and after.step.step == 2
    base = at.weights(at.versions()[0])
    expected, _ = reference_adamw(base, [gradient(0), gradient(4)], at.mission)
    assert torch.allclose(at.weights(after), expected, rtol=1e-5, atol=1e-6)


def test_a_rollback_refuses_the_uploads_of_the_open_step(tmp_path: Path) -> None:
    at = world(tmp_path, uploads_per_step=2)
    at.upload(0, (0, 4))
    at.send(ask(0))
    at.run()
    back = at.head()
    assert (back.version, back.kind, back.step) == (1, "rollback", None)
    assert [(r.upload_id, r.reason) for r in back.refused] == [("main-0-4", "abandoned")]
    assert back.totals.model_dump() == {
        "groups": 4,
        "samples": 0,
        "uploads": 0,
        "dropped": 0,
        "refused": 4,
    }
    assert at.committed() == 2


@pytest.mark.parametrize("per_step", [1, 2])
def test_a_rollback_to_no_version_is_one_dead_letter(tmp_path: Path, per_step: int) -> None:
    at = world(tmp_path, uploads_per_step=per_step)
    at.upload(0, (0, 1))
    at.send(ask(7))
    at.upload(0, (1, 2))
    at.run()
    (letter,) = at.events(DeadLetter)
    assert letter.reason == "no-such-version"
    assert letter.detail.startswith("version 7 of main does not exist; to roll back to are 0")
    assert at.head().kind == "step" and len(at.head().uploads) == per_step


# -- faults -----------------------------------------------------------------------------------


def scenario(at: World) -> None:
    """Steps, refusals, a close and a rollback, as they were sent before the process looked."""
    for i in range(4):
        at.upload(0, (i, i + 1))
    at.upload(0, (3, 4))
    at.send(ask(1))
    at.upload(1, (4, 5))
    at.upload(3, (5, 6))
    at.upload(3, (6, 7))
    at.upload(3, (7, 8))
    at.send(CloseStep(policy=POLICY, mission_id="m"))


def outcome(at: World) -> list[Any]:
    return at.events(WeightVersion, UploadsRefused, WeightHead, DeadLetter)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    at = World(tmp_path_factory.mktemp("undisturbed"), mission(uploads_per_step=2))
    at.run()
    scenario(at)
    at.run()
    assert [v.version for v in at.versions()] == [0, 1, 2, 3, 4, 5]
    return outcome(at)


@pytest.mark.parametrize("fault", ["abort_next", "fail_next_commit", "lose_next_commit_reply"])
@pytest.mark.parametrize("after", range(0, 12, 2))
def test_faults_of_transactions_change_nothing(
    tmp_path: Path, undisturbed: list[Any], fault: str, after: int
) -> None:
    at = World(tmp_path, mission(uploads_per_step=2))
    at.run()
    scenario(at)
    for _ in range(after):
        at.driver.step()
    setattr(at.log.faults, fault, 2)
    at.run()
    assert outcome(at) == undisturbed


@pytest.mark.parametrize("moment", ["after_put", "sent_outputs", "sent_offsets", "committed"])
def test_a_kill_at_any_moment_changes_nothing(
    tmp_path: Path, undisturbed: list[Any], moment: str
) -> None:
    at = World(tmp_path, mission(uploads_per_step=2))
    at.run()
    scenario(at)
    kills = at.run_killed(moment, range(1, 40))
    assert kills >= 2
    assert outcome(at) == undisturbed


def test_a_standby_goes_on_where_the_first_stopped(tmp_path: Path, undisturbed: list[Any]) -> None:
    at = World(tmp_path, mission(uploads_per_step=2))
    at.run()
    scenario(at)
    first = at.driver
    for _ in range(5):
        first.step()
    at.start("1")
    at.driver.step()
    at.log.expire("0")
    at.run()
    first.step()
    assert outcome(at) == undisturbed


def test_the_log_says_where_to_resume_even_without_committed_offsets(tmp_path: Path) -> None:
    at = world(tmp_path)
    for base in range(3):
        at.upload(base, (base, base + 1))
    at.run()
    before = outcome(at)
    at.log.cluster.groups[at.aggregator.group].marks.clear()
    at.restart()
    at.run()
    assert outcome(at) == before
    assert at.aggregator.assigned([MINE]) == {MINE: 3}
    assert at.aggregator.assigned([Partition(MINE.topic, (MINE.number + 1) % 4)]) == {}


# -- sweeping ---------------------------------------------------------------------------------


def test_sweeps_leave_what_kept_versions_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "SWEEP_EVERY", 5)
    at = world(tmp_path, staleness_max=1)
    at.store.put("weights/main/3-orphan/model.safetensors", b"a crash left this")
    at.store.put("gradients/main/2/dead/00000-0", b"and this")
    for base in range(11):
        at.upload(base, (base, base + 1))
        at.run()
    expired = janitor.expired_versions(at.events(VersionsExpired))
    kept = [v for v in at.versions() if v.version not in expired]
    assert [v.version for v in kept] == [0, 9, 10, 11]
    named = janitor.objects_of(kept)
    stored = set(at.store.keys())
    assert named <= stored
    assert {key for key in stored if key.startswith("weights/")} == {
        key for key in named if key.startswith("weights/")
    }
    # Of 9, 10 and 11 the chunks stay for the proof of their steps.
    uploads = {key.split("/")[3] for key in stored if key.startswith("gradients/")}
    assert uploads == {f"main-{n}-{n + 1}" for n in (8, 9, 10)}


def test_objects_go_only_after_their_expiry_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "SWEEP_EVERY", 5)
    at = world(tmp_path, staleness_max=1)
    for base in range(4):
        at.upload(base, (base, base + 1))
    at.run()
    at.upload(4, (4, 5))
    at.log.faults.abort_next = 1
    before = set(at.store.keys())
    assert any(key.startswith("weights/main/1-") for key in before)
    while at.log.faults.abort_next != 0:
        at.driver.step()
    assert at.events(VersionsExpired) == [] and before <= set(at.store.keys())
    at.run()
    assert janitor.expired_versions(at.events(VersionsExpired)) == {1, 2, 3}
    assert list(at.store.keys("weights/main/1-")) == []


def test_a_rollback_to_an_expired_version_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "SWEEP_EVERY", 5)
    at = world(tmp_path, staleness_max=1)
    for base in range(5):
        at.upload(base, (base, base + 1))
    at.run()
    at.send(ask(2))
    at.run()
    (letter,) = at.events(DeadLetter)
    assert letter.detail == "version 2 of main has expired; to roll back to are 0, 4-5"
