"""What a policy's next mission begins with: the reference of its KL term, its own learning rate."""

from pathlib import Path

import pytest
from loop_world import PROOF, Loop

from consumers.recompute import recompute_upload
from schemas.learning import GradientUpload, WeightVersion
from schemas.missions import MissionReport


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(tmp_path)


def uploads(loop: Loop, mission_id: str) -> list[GradientUpload]:
    found = loop.events(GradientUpload)
    return [u for u in found if u.mission_id == mission_id and u.count("chunks")]


def test_a_second_mission_is_held_near_the_model_that_the_policy_began_as(loop: Loop) -> None:
    near = {"settings": {"kl": 0.5}}
    loop.submit(loop.mission("m1", training={"learning_rate": 0.02}))
    loop.submit(loop.mission("m2", algorithm=near))
    first, *_ = uploads(loop, "m2")
    # Had it been the version that the mission began with, there would be no distance yet.
    assert first.base_version == 2 and first.stats["kl_reference"] > 0.001
    reports = [r for r in loop.events(MissionReport) if r.stage == "prepared"]
    (base,) = [v for v in loop.events(WeightVersion) if v.version == 0]
    assert [r.base_shards for r in reports] == [base.shards, base.shards]
    records = loop.records(*PROOF)
    places = [r.at for r in records if r.event == first]
    assert all(recompute_upload(records, loop.store, at) for at in places) and places
