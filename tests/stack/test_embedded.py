"""The embedded stack repairs what kills, strangers and damaged files leave."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.embedded.stack import Stack
from infra.embedded.state import read_state
from infra.settings import Settings, SettingsError, kafka_bootstrap, read_credentials, state_file

pytestmark = [pytest.mark.stack, pytest.mark.slow]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack apart from the one the other tests use, which these may damage."""
    stack = Stack(Settings(state_dir=tmp_path_factory.mktemp("stack")))
    yield stack
    stack.down(print)


@pytest.fixture
def said() -> list[str]:
    """The lines of progress of one command."""
    return []


def _states(stack: Stack) -> dict[str, str]:
    return {server.name: server.state for server in stack.status()}


def _path(stack: Stack, name: str) -> Path:
    return stack.config.state_dir / name


def _is_alive(pid: int) -> bool:
    # A zombie is not: in some containers nobody collects them.
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_up_is_idempotent(own: Stack, said: list[str]) -> None:
    first = own.up(print)
    pids = [server.pid for server in own.status()]
    assert own.up(said.append) == first
    assert [server.pid for server in own.status()] == pids
    assert not [line for line in said if line.startswith("starting")]


def test_concurrent_ups_start_one_stack(own: Stack) -> None:
    own.down(print)
    threads = [threading.Thread(target=own.up, args=(print,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert _states(own) == {"kafka": "running", "minio": "running"}
    logged = (own.logs / "kafka.log").read_text()
    assert "already locked" not in logged and "Address already in use" not in logged
    own.check()


@pytest.mark.parametrize("name", ["kafka", "minio"])
def test_a_killed_server_comes_back_where_it_was(own: Stack, name: str) -> None:
    before = own.up(print)
    own.kill(name)
    assert _states(own)[name] == "dead"
    assert own.up(print) == before


def test_a_truncated_record_is_replaced_and_leaves_no_server_behind(
    own: Stack, said: list[str]
) -> None:
    own.up(print)
    old = {server.pid for server in own.status()}
    state_file(own.config).write_text('{"wanted": true, "serv')
    own.up(said.append)
    assert any("stack.json" in line and "damaged" in line for line in said)
    running = {server.pid for server in own.status()}
    assert len(running) == 2 and not running & old
    assert not any(_is_alive(pid) for pid in old if pid)


def test_servers_launched_but_not_recorded_are_adopted(own: Stack, said: list[str]) -> None:
    own.up(print)
    pids = {server.name: server.pid for server in own.status()}
    state = read_state(state_file(own.config), print)
    for server in state.servers.values():
        server.pid = None
    own._save(state)
    own.up(said.append)
    assert {server.name: server.pid for server in own.status()} == pids


def test_a_strangers_port_is_left_to_it(own: Stack, said: list[str]) -> None:
    before = own.up(print)
    own.down(print)
    taken = [before.kafka, before.s3.address]
    with contextlib.ExitStack() as strangers:
        for address in taken:
            port = int(address.rpartition(":")[2])
            strangers.enter_context(socket.create_server(("127.0.0.1", port)))
        after = own.up(said.append)
    assert after.kafka not in taken and after.s3.address not in taken
    assert sum("taken by another program" in line for line in said) == 2
    assert kafka_bootstrap(own.config) == after.kafka


def test_an_unformatted_data_directory_is_set_aside(own: Stack, said: list[str]) -> None:
    own.down(print)
    _path(own, "kafka/meta.properties").unlink()
    own.up(said.append)
    assert any("meta.properties" in line for line in said)
    assert _path(own, "kafka.broken-1").is_dir()


def test_lost_keys_are_drawn_again_and_objects_survive(own: Stack) -> None:
    own.up(print)
    keys = read_credentials(own.config)
    own.down(print)
    _path(own, "minio.json").write_text("")
    own.up(print)
    assert read_credentials(own.config) != keys
    assert _path(own, "minio/ralo/health/probe").exists()


def test_down_leaves_no_process_and_purge_no_data(own: Stack) -> None:
    own.up(print)
    pids = [server.pid for server in own.status()]
    own.down(print)
    assert not any(_is_alive(pid) for pid in pids if pid)
    with pytest.raises(SettingsError, match="ralo up"):
        kafka_bootstrap(own.config)
    own.purge(print)
    assert list(own.config.state_dir.iterdir()) == []
    assert _states(own) == {"kafka": "stopped", "minio": "stopped"}
