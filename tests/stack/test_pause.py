"""A paused mission has no processors; an order that ends it brings them back until it has ended."""

from pathlib import Path

import pytest
from running import Loop, running, small_mission, until

from infra.embedded.stack import Endpoints
from schemas.missions import MissionControl

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize(("action", "outcome"), [("cancel", "cancelled"), ("end", "ended")])
def test_a_paused_mission_can_be_ended(
    stack: Endpoints, namespace: str, tmp_path: Path, action: str, outcome: str
) -> None:
    # An upload never fills, so something is in flight whenever the pause comes.
    changes = {"training": {"groups_per_upload": 12}, "max_in_flight": 32}
    mission = small_mission("held", tmp_path, budget={"problems": 100_000}, **changes)
    with running(stack, namespace, tmp_path) as loop:
        loop.submit(mission)
        until(lambda: len(loop.versions("held")) > 5, 240, loop.last_words)
        loop.submit(MissionControl(mission_id="held", action="pause"))
        until(lambda: not _learners(loop), 60, loop.last_words)
        loop.submit(MissionControl.model_validate({"mission_id": "held", "action": action}))
        result = loop.until_result("held", 120)
        report = loop.audit()
    assert (result.outcome, result.versions) == (outcome, loop.versions("held")[-1].version)
    assert report.ok, {i.name: i.first for i in report.invariants if i.broken}
    assert (report.in_flight.problems, report.in_flight.samples) == (0, 0)


def _learners(loop: Loop) -> list[str]:
    return [name for name in loop.processes() if name.endswith("@held")]
