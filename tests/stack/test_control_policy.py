"""A control policy on real processes and servers: it gets better, survives kills, and is proved."""

from pathlib import Path

import pytest
from running import running, until

from consumers.read import read
from consumers.recompute import recompute_upload, recompute_version
from infra.cli.mission_file import load_mission
from infra.embedded.stack import Endpoints
from schemas.learning import GradientUpload

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(600)]

ARM = Path(__file__).parents[2] / "examples" / "missions" / "arm-reach.yaml"
PROOF = ("missions", "samples", "gradient-chunks", "weight-versions")


def test_an_arm_learns_while_its_processes_are_killed(
    stack: Endpoints, namespace: str, tmp_path: Path
) -> None:
    overrides = ["budget.versions=14", "budget.seconds=400", "policy=arm"]
    mission = load_mission(ARM, mission_id="arm", overrides=overrides)
    with running(stack, namespace, tmp_path) as loop:
        loop.submit(mission)
        for number, kind in enumerate(("sampler", "trainer", "aggregator"), start=1):
            until(lambda n=number: len(loop.versions("arm")) > 3 * n, 240, loop.last_words)
            assert loop.kill(kind)
        result = loop.until_result("arm", 240)
    assert result.outcome == "budget" and result.versions >= 14
    assert result.reward_before is not None and result.reward_after is not None
    assert result.reward_before < -40 and result.reward_after > result.reward_before + 8
    report = loop.audit()
    assert not report.breaches and (report.lost, report.duplicated, report.bad_refs) == (0, 0, 0)
    records = [r for topic in PROOF for r in read(topic, log=loop.log)]
    last = [r for r in records if isinstance(r.event, GradientUpload)][-1]
    assert recompute_upload(records, loop.store, last.at)
    assert recompute_version(records, loop.store, result.versions, "arm")
