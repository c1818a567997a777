import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import supervision
from infra.embedded import process
from infra.embedded.process import ProcessId
from infra.settings import Settings

SUPERVISE = """
import sys, threading, time
from pathlib import Path

def sleep(kind):
    time.sleep(60)

if __name__ == "__main__":
    from infra.cli.run import stop_on_signal
    from infra.memory.log import MemoryLog
    from infra.settings import Settings
    from infra.supervisor import Supervisor
    from schemas.topics import TOPICS

    log = MemoryLog()
    log.provision(list(TOPICS.values()))
    config = Settings(state_dir=Path(sys.argv[1]))
    Supervisor(config, log, sleep, []).run(stop_on_signal())
"""


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A supervisor of processes that do nothing."""
    script = tmp_path / "supervise.py"
    script.write_text(SUPERVISE)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)]) as supervisor:
        yield supervisor
        supervisor.kill()


def _running(folder: Path) -> list[ProcessId]:
    """The processes on record, once all have been started."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        rows = supervision.processors_status(Settings(state_dir=folder))
        if rows and all(row["state"] == "running" for row in rows):
            return [ProcessId(r["pid"], r["started_s"]) for r in _rows(folder).values()]
    raise AssertionError(f"not started: {rows}")


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads((folder / "processors.json").read_text())
    return rows


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_its_supervisor(
    supervised: "subprocess.Popen[bytes]", tmp_path: Path, how: signal.Signals
) -> None:
    processes = _running(tmp_path)
    assert len(processes) == 2
    supervised.send_signal(how)
    supervised.wait(20)
    assert all(process.wait_gone(identity, 10) for identity in processes)
