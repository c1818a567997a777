"""Servers behind spoilt ways: what processes meet through the proxy, the direct way does not."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded.proxied import ProxiedStack
from infra.embedded.stack import Endpoints
from infra.embedded.state import StackError
from infra.kafka.log import KafkaLog
from infra.log import LogUnavailable, Message
from infra.settings import KafkaSettings, Settings
from infra.store import S3Store, StoreUnavailable

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.chaos]


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedStack]:
    stack = ProxiedStack(Settings(state_dir=tmp_path_factory.mktemp("proxied")), quiet)
    yield stack
    stack.close(quiet)


def store(endpoints: Endpoints) -> S3Store:
    s3 = endpoints.s3
    return S3Store(s3.address, s3.access_key, s3.secret_key, s3.bucket)


def took_s(work: object) -> float:
    began = time.monotonic()
    assert callable(work)
    work()
    return time.monotonic() - began


def test_records_written_through_the_proxy_are_read_directly(proxied: ProxiedStack) -> None:
    written = KafkaLog(proxied.proxied.kafka).append([Message("missions", b"k", b"v")])
    reader = KafkaLog(proxied.direct.kafka).state_reader({written[0].partition: written[0].offset})
    found = reader.poll(10, 5.0)
    reader.close()
    assert [(r.key, r.value) for r in found] == [(b"k", b"v")]


def test_a_slow_store_is_slow_through_the_proxy_alone(proxied: ProxiedStack) -> None:
    proxied.minio.toxic("latency", latency=700)
    there, here = store(proxied.proxied), store(proxied.direct)
    assert took_s(lambda: there.put("a", b"1")) > 0.7 > took_s(lambda: here.put("a", b"1"))
    proxied.minio.clear()
    assert took_s(lambda: there.put("a", b"1")) < 0.7


def test_a_way_that_is_down_is_an_error_until_it_is_up(proxied: ProxiedStack) -> None:
    there = store(proxied.proxied)
    proxied.minio.down()
    with pytest.raises(StoreUnavailable):
        there.put("b", b"2")
    proxied.minio.up()
    assert there.put("b", b"2").size_bytes == 1


def test_a_broker_that_was_killed_comes_back_behind_the_same_proxy(proxied: ProxiedStack) -> None:
    log = KafkaLog(proxied.proxied.kafka)
    log.append([Message("missions", b"k", b"before")])
    proxied.kill("kafka")
    with pytest.raises(LogUnavailable):
        log.ends("missions")
    proxied.up(quiet)
    assert log.append([Message("missions", b"k", b"after")])[0].offset > 0


def test_a_frozen_store_answers_once_thawed(proxied: ProxiedStack) -> None:
    there = store(proxied.direct)
    proxied.freeze("minio")
    try:
        time.sleep(0.2)
    finally:
        proxied.thaw("minio")
    assert there.put("c", b"3").size_bytes == 1


def test_servers_set_elsewhere_are_not_ours_to_break(tmp_path: Path) -> None:
    elsewhere = Settings(state_dir=tmp_path, kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1"))
    with pytest.raises(StackError, match="only embedded servers"):
        ProxiedStack(elsewhere, quiet)
