"""A paused mission has no processors; an order that ends it brings them back until it has ended."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TypeVar

import pytest
from running import Loop, running, small_mission, until

from consumers.progress import TOPICS, Progress
from consumers.read import read
from infra.embedded.stack import Endpoints
from schemas.base import Event
from schemas.missions import MissionControl, MissionReport
from schemas.records import Record

E = TypeVar("E", bound=Event)

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_paused_mission_can_be_cancelled(
    stack: Endpoints, namespace: str, tmp_path: Path
) -> None:
    # An upload never fills, so something is in flight whenever the pause comes.
    changes = {"training": {"groups_per_upload": 12}, "max_in_flight": 32}
    mission = small_mission("held", tmp_path, budget={"problems": 100_000}, **changes)
    with running(stack, namespace, tmp_path) as loop:
        loop.submit(mission)
        until(lambda: len(loop.versions("held")) > 5, 240, loop.last_words)
        loop.submit(MissionControl(mission_id="held", action="pause"))
        until(lambda: not _learners(loop), 60, loop.last_words)
        assert list(tmp_path.glob("scratch/held-*/*/objects/*"))
        _assert_shown(loop)
        loop.submit(MissionControl(mission_id="held", action="cancel"))
        result = loop.until_result("held", 120)
        report = loop.audit()
        # What the aggregator kept beside it goes once it is stopped for good.
        until(lambda: not list(tmp_path.glob("scratch/*")), 60, loop.last_words)
    assert (result.outcome, result.versions) == ("cancelled", loop.versions("held")[-1].version)
    assert report.ok, {i.name: i.first for i in report.invariants if i.broken}
    assert (report.in_flight.problems, report.in_flight.samples) == (0, 0)


def _assert_shown(loop: Loop) -> None:
    """What `ralo status` reads off the ends of the log is what all of it says."""
    progress = Progress(mission="held")
    for topic in TOPICS:
        for record in read(topic.name, log=loop.log):
            progress.observe(record)
    command = [sys.executable, "-m", "infra.cli", "status", "--json"]
    shown = subprocess.run(command, env=loop.environ, capture_output=True, text=True, check=True)
    (row,) = json.loads(shown.stdout)["missions"]
    assert (row["mission_id"], row["phase"]) == ("held", "paused")
    assert row["in_flight"] == progress.in_flight


def test_a_pause_longer_than_the_budget_leaves_the_mission_its_seconds(
    stack: Endpoints, namespace: str, tmp_path: Path
) -> None:
    budget_s = 5.0
    mission = small_mission("patient", tmp_path, budget={"problems": None, "seconds": budget_s})
    with running(stack, namespace, tmp_path) as loop:
        loop.submit(mission, MissionControl(mission_id="patient", action="pause"))
        until(lambda: _said(loop, MissionReport), 120, loop.last_words)
        time.sleep(2 * budget_s)
        assert [e.action for e in _said(loop, MissionControl)] == ["pause"]
        loop.submit(MissionControl(mission_id="patient", action="resume"))
        result = loop.until_result("patient", 120)
        resumed = _records(loop, MissionControl)[1].timestamp_ms
        ended = _records(loop, MissionControl)[2].timestamp_ms
    assert (result.outcome, result.reason) == ("budget", "budget.seconds")
    assert result.problems > 0
    assert ended - resumed >= 1000 * budget_s
    assert result.seconds >= budget_s


def _said(loop: Loop, kind: type[E]) -> list[E]:
    return [record.event for record in _records(loop, kind) if isinstance(record.event, kind)]


def _records(loop: Loop, kind: type[Event]) -> list[Record]:
    found = read("missions", log=loop.log, mission="patient")
    return [record for record in found if isinstance(record.event, kind)]


def _learners(loop: Loop) -> list[str]:
    return [name for name in loop.processes() if name.endswith("@held")]
