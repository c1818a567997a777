import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded import process
from infra.embedded.process import ProcessId


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[tuple[ProcessId, str]]:
    """A process that does nothing, with a mark of its own in its command line."""
    mark = uuid.uuid4().hex
    command = ["/bin/sh", "-c", "echo up; while :; do sleep 1; done", mark]
    identity = process.launch(command, tmp_path / "log", dict(os.environ))
    yield identity, mark
    with contextlib.suppress(RuntimeError):
        process.kill(identity)


def test_a_launched_process_is_nobodys_child(sleeper: tuple[ProcessId, str]) -> None:
    found = sleeper[0].process()
    assert found is not None
    assert found.ppid() != os.getpid()
    assert os.getsid(found.pid) != os.getsid(0)


def test_a_process_is_found_by_its_marks(sleeper: tuple[ProcessId, str]) -> None:
    identity, mark = sleeper
    found = process.find([mark])
    assert found is not None
    assert found.pid == identity.pid
    assert process.find([mark, "not an argument of it"]) is None


def test_a_reused_pid_is_another_process(sleeper: tuple[ProcessId, str]) -> None:
    stranger = ProcessId(sleeper[0].pid, sleeper[0].started_s - 60)
    assert stranger.process() is None
    assert process.stop(stranger, patience_s=5)
    assert sleeper[0].process() is not None


def test_stop_ends_it(sleeper: tuple[ProcessId, str]) -> None:
    assert process.stop(sleeper[0], patience_s=10)
    assert sleeper[0].process() is None


def test_stop_uses_force_on_the_deaf(tmp_path: Path) -> None:
    ready = tmp_path / "log"
    script = 'trap "" TERM; echo deaf; while :; do sleep 1; done'
    identity = process.launch(["/bin/sh", "-c", script], ready, dict(os.environ))
    while "deaf" not in ready.read_text():
        pass
    assert not process.stop(identity, patience_s=0.1)
    assert identity.process() is None


def test_output_is_appended_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    for word in ("first", "second"):
        identity = process.launch(["/bin/sh", "-c", f"echo {word}; exec /bin/sleep 9"], log, {})
        while word not in process.tail(log):
            pass
        process.kill(identity)
    assert log.read_text().split() == ["first", "second"]
