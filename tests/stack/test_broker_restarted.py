"""A client that outlives its broker asks its successor right: with the leaders' new epochs."""

import time

import pytest
from containers import Servers
from robots import provisioned

from infra.kafka.readers import LEADER_PATIENCE_S, LOOK_UP_S

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
