"""What `ralo status` says of missions at work: the truth, and soon where the log is silent."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loop_world import POLICY, Loop

from infra.cli.at_work import NotKnown, missions_at_work, with_lag
from infra.envelope import message
from infra.memory.log import MemoryLog
from schemas.missions import MissionControl, MissionResult
from schemas.topics import TOPICS


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_missions_without_a_result_are_shown_with_what_is_in_flight(
    tmp_path: Path, silent: str
) -> None:
    loop = Loop(tmp_path)
    assert missions_at_work(loop.log, silent) == []
    loop.submit(loop.mission("done", problems=4))
    result = MissionResult(mission_id="done", policy=POLICY, outcome="budget")
    waiting = loop.mission("held", problems=8, policy="other")
    pause = MissionControl(mission_id="held", action="pause")
    loop.submit(result, loop.mission("m", problems=8), waiting)
    loop.submit(pause)
    assert missions_at_work(loop.log, silent) == [
        {
            "mission_id": "m",
            "policy": POLICY,
            "phase": "evaluating",
            "in_flight": {"problems": 0, "groups": 0, "uploads": 0},
            "lag": {"sampler": 0, "trainer": 0, "aggregator": 0},
        },
        {
            "mission_id": "held",
            "policy": "other",
            "phase": "paused",
            "in_flight": {"problems": 8, "groups": 0, "uploads": 0},
            "lag": {"sampler": 8, "trainer": 0, "aggregator": 0},
        },
    ]


def test_all_processors_of_a_kind_and_policy_have_the_same_lag() -> None:
    lag = {"sampler": 3, "trainer": 0, "aggregator": 1}
    at_work = [{"policy": "a-0@b", "lag": lag}, {"policy": "a-0@b", "lag": lag}]
    names = ["provider-0", "sampler-0@a-0@b", "sampler-1@a-0@b", "trainer-0@a-0@b", "trainer-0@c"]
    rows = with_lag([{"processor": name} for name in names], at_work)
    assert [row["lag"] for row in rows] == [None, 6, 6, 0, None]
    assert with_lag([{"processor": "sampler-0@c"}], None) == [
        {"processor": "sampler-0@c", "lag": None}
    ]


def test_a_log_that_refuses_is_named(silent: str) -> None:
    log = MemoryLog()
    log.provision(list(TOPICS.values()))
    log.append([message(MissionResult(mission_id="m", policy="p", outcome="ended"))])
    log.faults.unavailable_polls = 1
    with pytest.raises(NotKnown, match="the broker does not answer"):
        missions_at_work(log, silent)


@pytest.mark.slow
def test_a_broker_that_is_away_or_silent_is_not_waited_for(tmp_path: Path, silent: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        away = f"127.0.0.1:{server.getsockname()[1]}"
    said = {
        away: f"the broker at {away} does not answer",
        silent: "the log did not answer within 1.5 s",
    }
    took_s = list[float]()
    for broker, why in said.items():
        shown, seconds = _status(tmp_path, broker)
        took_s.append(seconds)
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["missions"] is None
        assert f"what is in flight is not known: {why}" in shown.stderr
    # A client of Kafka alone would have waited for ten seconds; the first says how busy it is here.
    assert took_s[1] < 2 * took_s[0] + 6


def _status(folder: Path, broker: str) -> tuple["subprocess.CompletedProcess[str]", float]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RALO_")}
    elsewhere = {"RALO_KAFKA__BOOTSTRAP_SERVERS": broker, "RALO_S3__ENDPOINT": "127.0.0.1:9"}
    began = time.monotonic()
    shown = subprocess.run(
        [sys.executable, "-m", "infra.cli", "status", "--json"],
        env={**kept, **elsewhere, "RALO_STATE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return shown, time.monotonic() - began
