"""What a policy's next mission begins with: the reference of its KL term, its own learning rate."""

from itertools import pairwise
from pathlib import Path

import pytest
from loop_world import PROOF, Loop

from consumers.recompute import recompute_upload, recompute_version
from schemas.learning import GradientUpload, WeightVersion
from schemas.missions import MissionReport


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(tmp_path)


def uploads(loop: Loop, mission_id: str) -> list[GradientUpload]:
    found = loop.events(GradientUpload)
    return [u for u in found if u.mission_id == mission_id and u.count("chunks")]


def hashes(version: WeightVersion) -> list[str]:
    return [ref.sha256 for ref in version.shards.values()]


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


def test_a_second_mission_learns_at_its_own_rates(loop: Loop) -> None:
    """Each has two steps, the second of which is where its schedule ends."""
    short = {"learning_rate": 0.02, "schedule": "cosine", "total_steps": 1}
    for name in ("m1", "m2"):
        loop.submit(loop.mission(name, training=short))
        loop.start("aggregator")
    versions = loop.events(WeightVersion)
    rates = [(v.mission_id, v.step.learning_rate) for v in versions if v.step]
    assert rates == [("m1", 0.02), ("m1", 0.0), ("m2", 0.02), ("m2", 0.0)]
    moved = [hashes(a) != hashes(b) for a, b in pairwise(versions)]
    assert moved == [True, False, True, False]
    records = loop.records(*PROOF)
    assert all(recompute_version(records, loop.store, n) for n in range(1, 5))
