"""The broker is killed while rovers drive: they hold, they wait for a person, nothing is lost."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import Servers
from robots import (
    COMMAND_S,
    Commander,
    Robots,
    environ_of,
    feedback_of,
    judge_books,
    provisioned,
    running,
    safety_of,
    speed,
)
from running import until

from infra.embedded.stack import Endpoints
from infra.kafka.log import KafkaLog
from infra.robot.orders import robot_folder
from infra.robot.spool import newest_event
from infra.settings import Settings
from schemas.acting import Feedback, SafetyEvent

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.chaos]

NAMES = ("rover-1", "rover-2")
HOLD_MS = 600.0
"""From the last fresh command to HOLD and to standing still, by default."""
AWAY_S = 4.0


@pytest.fixture
def log(stack: Endpoints, namespace: str) -> KafkaLog:
    return provisioned(stack, namespace)


@pytest.fixture
def robots(stack: Endpoints, namespace: str, tmp_path: Path) -> Iterator[Robots]:
    with running(NAMES, tmp_path, environ_of(stack, namespace, tmp_path)) as made:
        yield made


@pytest.fixture
def commanders(log: KafkaLog) -> Iterator[dict[str, Commander]]:
    made = {name: Commander(log, name) for name in NAMES}
    yield made
    for commander in made.values():
        commander.quit.set()
        commander.join(20)
        assert commander.failure is None


def test_each_holds_in_time_moves_only_when_told_and_nothing_is_lost(
    log: KafkaLog,
    robots: Robots,
    commanders: dict[str, Commander],
    servers: Servers,
    namespace: str,
    tmp_path: Path,
) -> None:
    for commander in commanders.values():
        commander.start()
    for name in NAMES:
        until(lambda name=name: speed(log, name) > 0.3, 60, robots.last_words)
    servers.kill("kafka")
    folders = {
        name: robot_folder(Settings(state_dir=tmp_path, namespace=namespace), name)
        for name in NAMES
    }
    for name in NAMES:
        assert until(lambda name=name: _held(folders[name]), 10, robots.last_words)
    time.sleep(AWAY_S)
    servers.up(print)

    # What happened while it was away arrives, by itself and once.
    for name in NAMES:
        until(lambda name=name: safety_of(log, name), 60, robots.last_words)
    holds = {name: _judge_hold(log, name) for name in NAMES}

    # Commands come again, and move nothing.
    for name in NAMES:
        until(lambda name=name: _unsafe_since(log, name, holds[name]) > 20, 30, robots.last_words)
    assert all(_rests_since(log, name, holds[name]) for name in NAMES)

    # One of the two is reset, and goes on with its next command.
    said = robots.ralo("robot", "reset", NAMES[0])
    assert said.returncode == 0 and "→ NORMAL" in said.stdout, said.stdout + said.stderr
    until(lambda: speed(log, NAMES[0]) > 0.3, 20, robots.last_words)
    assert _rests_since(log, NAMES[1], holds[NAMES[1]])

    for commander in commanders.values():
        commander.quit.set()
        commander.join(20)
    time.sleep(10 * COMMAND_S)
    robots.stop()
    for name in NAMES:
        judge_books(log, name)


def _held(folder: Path) -> SafetyEvent | None:
    return newest_event(folder, "no fresh command")


def _judge_hold(log: KafkaLog, name: str) -> SafetyEvent:
    """Within the stated time from its last fresh command it is in HOLD and stands still."""
    hold = next(event for event in safety_of(log, name) if event.after == "HOLD")
    assert hold.cause == "silence"
    said = until(lambda: _around(log, name, hold), 30)
    applied = [o for f in said for o in f.outcomes if o.outcome == "applied"]
    last_ms = max(o.at_ms for o in applied if o.at_ms < hold.stamp_ms)
    still_ms = next(f.stamp_ms for f in said if f.stamp_ms > last_ms and f.applied == [0, 0])
    print(f"{name}: HOLD after {hold.stamp_ms - last_ms:.0f} ms, still {still_ms - last_ms:.0f} ms")
    assert hold.stamp_ms - last_ms <= HOLD_MS
    assert still_ms - last_ms <= HOLD_MS
    return hold


def _around(log: KafkaLog, name: str, hold: SafetyEvent) -> list[Feedback]:
    """The feedback, once it is there up to some time after the stop."""
    said = feedback_of(log, name)
    return said if said and said[-1].stamp_ms > hold.stamp_ms + 1000 else []


def _rests_since(log: KafkaLog, name: str, hold: SafetyEvent) -> bool:
    since = [f for f in feedback_of(log, name) if f.stamp_ms >= hold.stamp_ms]
    assert len(since) > 10
    # A broker that takes its time makes the silence long enough for the graver mode.
    stopped = ("HOLD", "SAFE_STOP")
    return all(f.applied == [0, 0] and f.mode in stopped and f.policy is None for f in since)


def _unsafe_since(log: KafkaLog, name: str, hold: SafetyEvent) -> int:
    """How many commands came in time after the stop and were refused."""
    since = [f for f in feedback_of(log, name) if f.stamp_ms >= hold.stamp_ms]
    return sum(o.outcome == "unsafe" for f in since for o in f.outcomes)
