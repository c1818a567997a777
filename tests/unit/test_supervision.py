import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import supervision
from infra.embedded import process
from infra.settings import Settings
from infra.supervision import SupervisorError

SUPERVISE = """
import sys, time
from pathlib import Path
from infra import supervision
from infra.settings import Settings
with supervision.claimed(Settings(state_dir=Path(sys.argv[1]))):
    print("claimed", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("RALO_KAFKA__BOOTSTRAP_SERVERS", raising=False)
    return Settings(state_dir=tmp_path)


@pytest.fixture
def other(config: Settings) -> Iterator["subprocess.Popen[str]"]:
    """A process that supervises until its input ends."""
    command = [sys.executable, "-c", SUPERVISE, str(config.state_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == "claimed\n"
        yield child
        child.kill()


def test_a_second_supervisor_is_refused_by_the_name_of_the_first(
    config: Settings, other: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(SupervisorError, match=rf"by pid {other.pid} since .*`ralo down`"):
        supervision.claimed(config).__enter__()
    found = supervision.running(config)
    assert found is not None and found.pid == other.pid


def test_after_a_clean_end_nobody_supervises(
    config: Settings, other: "subprocess.Popen[str]"
) -> None:
    other.communicate("")
    assert other.returncode == 0
    assert supervision.running(config) is None
    with supervision.claimed(config):
        found = supervision.running(config)
        assert found is not None and found.pid == os.getpid()


def test_a_killed_supervisor_is_succeeded_and_its_processes_stopped(
    config: Settings, other: "subprocess.Popen[str]"
) -> None:
    orphan = process.launch(["/bin/sleep", "60"], config.state_dir / "log", dict(os.environ))
    row = {"pid": orphan.pid, "started_s": orphan.started_s, "restarts": 0, "last_exit": None}
    supervision.status_file(config).write_text(json.dumps({"sampler-0@main": row}))
    other.send_signal(signal.SIGKILL)
    other.wait(10)
    assert supervision.running(config) is None
    with supervision.claimed(config):
        assert orphan.process() is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1, "started_s": 5.0}', '{"pid": "x"}'])
def test_a_stale_or_damaged_record_names_nobody(config: Settings, content: str) -> None:
    (config.state_dir / "supervisor.json").write_text(content)
    assert supervision.running(config) is None
    supervision.stop(config, print)
    assert list(config.state_dir.iterdir()) == []


def test_start_says_why_the_supervisor_does_not(config: Settings) -> None:
    with pytest.raises(SupervisorError, match="no broker: run `ralo up`"):
        supervision.start(config, print)
    assert supervision.running(config) is None


def test_start_replaces_one_of_other_code(config: Settings, other: "subprocess.Popen[str]") -> None:
    record = config.state_dir / "supervisor.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "code": "of yesterday"}))
    said = list[str]()
    # The new one finds no broker; that it was started is what this is about.
    with pytest.raises(SupervisorError, match="no broker"):
        supervision.start(config, said.append)
    assert other.wait(10) == -signal.SIGTERM
    assert "restarting" in said[0]


def test_start_leaves_a_running_one_alone(config: Settings, other: "subprocess.Popen[str]") -> None:
    said = list[str]()
    supervision.start(config, said.append)
    assert said == [] and other.poll() is None
