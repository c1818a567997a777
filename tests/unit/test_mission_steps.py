"""Each mission's schedule counts its own steps, whatever the policy took before."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from learning_steps import POLICY, mission
from learning_world import World, world

from consumers.read import read
from consumers.recompute import NotReproduced, recompute_version
from schemas.learning import RollbackRequest, WeightVersion
from schemas.records import Record
from streams.learning.manifests import MISSIONS_COUNTED, mission_steps

DECAY = {"learning_rate": 0.08, "schedule": "linear", "warmup_steps": 1, "total_steps": 5}
RATES = [0.08, 0.08, 0.06, 0.04, 0.02, 0.0]
"""What a mission's steps have: full after a warm-up of one step, then down to nothing."""
SECOND = mission("n", **DECAY)


@pytest.fixture
def at(tmp_path: Path) -> World:
    """A policy whose first mission has decayed to a rate of 0."""
    at = world(tmp_path, **DECAY)
    at.send(SECOND)
    learn(at, "m", 6)
    assert rates(at) == pytest.approx(RATES)
    return at


def learn(at: World, mission_id: str, steps: int) -> None:
    """Steps of that mission from wherever the head is."""
    for _ in range(steps):
        head = at.head()
        place = head.marks.get("samples-0", 0)
        at.upload(head.version, (place, place + 1), mission_id=mission_id)
        at.run()


def rates(at: World, since: int = 1) -> list[float]:
    return [v.step.learning_rate for v in at.versions() if v.version >= since and v.step]


def records(at: World) -> list[Record]:
    topics = ("missions", "gradient-chunks", "weight-versions")
    return [record for topic in topics for record in read(topic, log=at.log)]


def prove(at: World) -> None:
    """Make every step again from the log."""
    for version in at.versions():
        if version.kind == "step":
            assert recompute_version(records(at), at.store, version.version)


def test_a_second_mission_warms_up_and_decays_anew(at: World) -> None:
    learn(at, "n", 6)
    assert rates(at, since=7) == pytest.approx(RATES)
    head = at.head()
    assert head.step and head.step.step == 12  # Adam's bias correction is the policy's.
    assert head.mission_steps == {"m": 6, "n": 6}
    assert at.versions()[7].shards != at.versions()[6].shards
    prove(at)


def test_a_restart_resumes_the_count(at: World) -> None:
    for _ in range(6):
        learn(at, "n", 1)
        at.restart()
    assert rates(at, since=7) == pytest.approx(RATES)


def test_a_rollback_takes_the_count_with_it(at: World) -> None:
    learn(at, "n", 4)
    at.send(RollbackRequest(request_id="r", policy=POLICY, to_version=8))
    at.run()
    assert at.head().mission_steps == {"m": 6, "n": 2}
    learn(at, "n", 1)
    assert rates(at)[-1] == pytest.approx(RATES[2])
    prove(at)


def test_a_rollback_to_before_the_mission_begins_it_anew(at: World) -> None:
    learn(at, "n", 4)
    at.send(RollbackRequest(request_id="r", policy=POLICY, to_version=5))
    at.run()
    learn(at, "n", 3)
    assert rates(at)[-3:] == pytest.approx(RATES[:3])
    assert at.head().mission_steps == {"m": 5, "n": 3}
    prove(at)


def test_a_step_in_between_of_an_earlier_mission_sets_nothing_back(at: World) -> None:
    """As when an operator requeues a dead letter of a mission that has ended."""
    learn(at, "n", 2)
    learn(at, "m", 1)
    learn(at, "n", 1)
    assert rates(at, since=7) == pytest.approx([*RATES[:2], 0.0, RATES[2]])
    assert at.head().mission_steps == {"m": 7, "n": 3}
    prove(at)


def test_a_step_of_two_missions_is_one_of_the_first_upload(tmp_path: Path) -> None:
    at = world(tmp_path, uploads_per_step=2, **DECAY)
    at.send(mission("n", learning_rate=0.5))
    at.upload(0, (0, 1))
    at.upload(0, (1, 2), mission_id="n")
    at.run()
    head = at.head()
    assert (head.mission_id, head.mission_steps) == ("m", {"m": 1})
    assert rates(at) == pytest.approx(RATES[:1])
    prove(at)


# -- logs from before missions were counted -------------------------------------------------


def by_the_policy(parent: WeightVersion, mission_id: str) -> dict[str, int]:
    """How it was: schedules counted the policy's steps."""
    return {mission_id: (parent.step.step if parent.step else 0) + 1}


def uncounted(record: Record) -> Record:
    """A version as it was written then."""
    event: Any = record.event
    if not isinstance(event, WeightVersion):
        return record
    return replace(record, event=event.model_copy(update={"mission_steps": {}}))


def test_an_old_version_is_made_again_by_the_old_count(
    at: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("aggregator", "manifests"):
        monkeypatch.setattr(f"streams.learning.{module}.mission_steps", by_the_policy)
    learn(at, "n", 1)
    monkeypatch.undo()
    assert rates(at)[-1] == 0.0
    old = [uncounted(record) for record in records(at)]
    for version in (1, 4, 7):
        assert recompute_version(old, at.store, version)


def test_a_mission_under_way_keeps_the_count_that_it_began_with(at: World) -> None:
    third = at.versions()[3].model_copy(update={"mission_steps": {}})
    assert mission_steps(third, "m") == {"m": 4}
    assert mission_steps(third, "n") == {"m": 3, "n": 1}
    assert mission_steps(at.versions()[0], "m") == {"m": 1}


def test_a_count_that_does_not_follow_from_the_parent_is_found(at: World) -> None:
    def forged(record: Record) -> Record:
        event: Any = record.event
        if not isinstance(event, WeightVersion) or event.version != 4:
            return record
        return replace(record, event=event.model_copy(update={"mission_steps": {"m": 3}}))

    with pytest.raises(NotReproduced, match=r"have taken {'m': 4} steps .* says {'m': 3}"):
        recompute_version(map(forged, records(at)), at.store, 4)


def test_only_the_latest_missions_are_counted(at: World) -> None:
    version = at.head()
    for number in range(40):
        counts = mission_steps(version, f"m{number}")
        version = version.model_copy(update={"mission_steps": counts})
    assert list(version.mission_steps) == [f"m{n}" for n in range(40 - MISSIONS_COUNTED, 40)]
    again = mission_steps(version, "m30")
    assert again["m30"] == 2 and list(again)[-1] == "m30" and len(again) == MISSIONS_COUNTED
