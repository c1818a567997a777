"""A robot's processes are killed while it drives: no command is lost, none is carried out twice."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from robots import (
    Commander,
    Robots,
    environ_of,
    feedback_of,
    judge_books,
    provisioned,
    running,
    speed,
)
from running import until

from infra.embedded.stack import Endpoints
from infra.kafka.log import KafkaLog

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.chaos]

NAME = "rover-1"


@pytest.fixture
def log(stack: Endpoints, namespace: str) -> KafkaLog:
    return provisioned(stack, namespace)


@pytest.fixture
def robots(stack: Endpoints, namespace: str, tmp_path: Path) -> Iterator[Robots]:
    with running((NAME,), tmp_path, environ_of(stack, namespace, tmp_path)) as made:
        yield made


def drive(log: KafkaLog, robots: Robots, boots: int) -> Commander:
    """Have the newest of so many lives commanded until it drives."""
    until(lambda: len(lives(log)) == boots, 60, robots.last_words)
    commander = Commander(log, NAME)
    commander.start()
    until(lambda: speed(log, NAME) > 0.3, 30, robots.last_words)
    return commander


def lives(log: KafkaLog) -> list[str]:
    return list(dict.fromkeys(f.boot_id for f in feedback_of(log, NAME)))


def reset(robots: Robots) -> None:
    said = robots.ralo("robot", "reset", NAME)
    assert said.returncode == 0, said.stdout + said.stderr


def test_link_and_actuator_are_killed_and_the_books_balance(log: KafkaLog, robots: Robots) -> None:
    first = drive(log, robots, boots=1)

    # Without its link the robot hears nothing, holds, and goes on when a person says so.
    robots.kill_link(NAME)
    until(lambda: _mode(log) == "HOLD", 30, robots.last_words)
    reset(robots)
    until(lambda: speed(log, NAME) > 0.3, 30, robots.last_words)

    # An actuator that is killed leaves a robot that brakes by itself, and a successor that does
    # nothing for a controller of the life before.
    robots.kill_actuator(NAME)
    robots.run_actuator(NAME)
    until(lambda: len(lives(log)) == 2, 60, robots.last_words)
    time.sleep(1)
    newest = [f for f in feedback_of(log, NAME) if f.boot_id == lives(log)[1]]
    assert all(f.applied == [0, 0] for f in newest)
    assert "lost" in {o.outcome for f in newest for o in f.outcomes}
    second = drive(log, robots, boots=2)

    # A stop outlives the actuator.
    assert robots.ralo("robot", "stop", NAME).returncode == 0
    robots.kill_actuator(NAME)
    robots.run_actuator(NAME)
    until(lambda: len(lives(log)) == 3, 60, robots.last_words)
    assert _mode(log) == "SAFE_STOP"

    for commander in (first, second):
        commander.quit.set()
        commander.join(20)
    time.sleep(1)
    robots.stop()
    judge_books(log, NAME)


def _mode(log: KafkaLog) -> str:
    return feedback_of(log, NAME)[-1].mode
