"""A client outlives its broker, and asks its successor right: with the leaders' new epochs."""

import time
from collections.abc import Sequence

import pytest
from confluent_kafka.admin import AdminClient
from containers import Servers
from robots import provisioned

from infra.kafka import config, coverage
from infra.kafka.coverage import Coverage
from infra.kafka.readers import LEADER_PATIENCE_S, LOOK_UP_S

GROUPS = 8
"""Each with a question of its own."""

pytestmark = [pytest.mark.stack, pytest.mark.slow]


def test_offsets_are_listed_again_soon_after_a_restart(servers: Servers, namespace: str) -> None:
    log = provisioned(servers.check(), namespace)
    partitions = list(log.ends("problems"))
    before = log.stable_ends(partitions)
    servers.kill("kafka")
    servers.up(lambda line: None)
    began = time.monotonic()
    assert log.stable_ends(partitions) == before
    assert time.monotonic() - began < LEADER_PATIENCE_S + LOOK_UP_S + 1.0


def test_questions_may_outlast_an_outage(
    servers: Servers, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process would be gone: see why `Coverage` lets its questions wait.
    monkeypatch.setattr(coverage, "ASK_EVERY_S", 0.5)
    admin = AdminClient(config.common(servers.check().kafka, {}))
    groups = [Coverage(admin, f"{namespace}{n}", {"problems": 4}) for n in range(GROUPS)]
    ask_for(groups, 3.0)
    servers.kill("kafka")
    ask_for(groups, 8.0)
    servers.up(lambda line: None)
    ask_for(groups, 8.0)


def ask_for(groups: Sequence[Coverage], seconds: float) -> None:
    """Look at the groups again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for group in groups:
            group.lacks()
        time.sleep(0.1)
