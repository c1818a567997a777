"""`ralo health`: a processor that hangs, or is not there, is not healthy."""

import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from infra.cli.health import LAST_TURN as ASKED
from infra.cli.health import Unhealthy, health
from infra.embedded.state import choose_port
from infra.metrics import LAST_TURN, Metrics
from infra.settings import SettingsError, settings


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metrics]:
    port, registry = choose_port("127.0.0.1"), CollectorRegistry()
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    monkeypatch.setenv("RALO_METRICS_PORT", str(port))
    settings.cache_clear()
    yield Metrics("sampler", "main", registry)
    server.shutdown()
    server.server_close()
    thread.join()
    settings.cache_clear()


def test_a_loop_that_turns_is_healthy(metrics: Metrics, capsys: pytest.CaptureFixture[str]) -> None:
    metrics.last_turn.set(time.time() - 3)
    health(limit_s=10)
    assert capsys.readouterr().out.startswith("ok: turned 3.")


def test_a_loop_that_hangs_is_not(metrics: Metrics) -> None:
    metrics.last_turn.set(time.time() - 60)
    with pytest.raises(Unhealthy, match="60 s ago, above 10 s"):
        health(limit_s=10)


def test_a_processor_that_has_not_turned_yet_is_not(metrics: Metrics) -> None:
    with pytest.raises(Unhealthy, match="has not begun"):
        health(limit_s=10)


def test_a_processor_that_does_not_answer_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALO_METRICS_PORT", str(choose_port("127.0.0.1")))
    settings.cache_clear()
    with pytest.raises(Unhealthy, match="refused"):
        health(limit_s=10)
    settings.cache_clear()


def test_without_a_port_there_is_nothing_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RALO_METRICS_PORT", raising=False)
    settings.cache_clear()
    with pytest.raises(SettingsError, match="RALO_METRICS_PORT"):
        health(limit_s=10)


def test_the_metric_asked_for_is_the_one_that_drivers_set() -> None:
    assert ASKED == LAST_TURN
