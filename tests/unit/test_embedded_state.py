import fcntl
import socket
import stat
import threading
from pathlib import Path

import pytest

from infra.embedded.state import (
    PORTS,
    ServerState,
    StackState,
    choose_port,
    is_free,
    locked,
    read_state,
    set_aside,
    write_state,
    write_whole,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    server = ServerState(address="h:1", ports={"client": 1}, version="4", pid=7, started_s=1.5)
    state = StackState(wanted=True, servers={"kafka": server})
    write_state(tmp_path / "stack.json", state)
    assert read_state(tmp_path / "stack.json", print) == state


@pytest.mark.parametrize("content", [b"", b'{"wanted": tr', b"[]", b"\xff\xfe", b'{"wanted": 7}'])
def test_a_damaged_state_is_reported_and_put_aside(tmp_path: Path, content: bytes) -> None:
    path, said = tmp_path / "stack.json", list[str]()
    path.write_bytes(content)
    assert read_state(path, said.append) == StackState()
    assert len(said) == 1
    assert (tmp_path / "stack.json.broken-1").read_bytes() == content


def test_no_state_is_an_empty_one(tmp_path: Path) -> None:
    said = list[str]()
    assert read_state(tmp_path / "none", said.append) == StackState()
    assert said == []


def test_put_aside_never_overwrites(tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "kafka").mkdir()
        set_aside(tmp_path / "kafka")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kafka.broken-1", "kafka.broken-2"]


def test_a_secret_file_is_its_owners_alone(tmp_path: Path) -> None:
    write_whole(tmp_path / "keys", b"x", mode=0o600)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["keys"]


def test_a_chosen_port_can_be_listened_on() -> None:
    port = choose_port("127.0.0.1")
    assert port in PORTS
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free("127.0.0.1", port)
    assert is_free("127.0.0.1", port)


def test_the_lock_admits_one_at_a_time(tmp_path: Path) -> None:
    order, waiting = list[str](), threading.Event()

    def second() -> None:
        with locked(tmp_path / "lock", lambda line: waiting.set()):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path / "lock", print):
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_lock_that_was_taken_away_meanwhile_is_made_anew(tmp_path: Path) -> None:
    path, waiting, inside = tmp_path / "lock", threading.Event(), threading.Event()
    done = threading.Event()

    def second() -> None:
        with locked(path, lambda line: waiting.set()):
            inside.set()
            assert done.wait(10)

    thread = threading.Thread(target=second)
    with locked(path, print):
        thread.start()
        assert waiting.wait(10)
        path.unlink()
    assert inside.wait(10)
    with path.open("a") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    done.set()
    thread.join(10)
