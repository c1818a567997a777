"""Ctrl-C and `ralo down` amid the demo: everything stops, and goes on from the last version."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(600)]


def ralo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.cli", *arguments]
    return subprocess.run(command, env=environ(folder), capture_output=True, text=True)


def environ(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RALO_")}
    return {**kept, "RALO_STATE_DIR": str(folder)}


def versions(folder: Path) -> list[dict[str, Any]]:
    listed = ralo(folder, "weights", "list", "--all", "--json")
    if listed.returncode:
        return []
    found: list[dict[str, Any]] = json.loads(listed.stdout)
    return found


@contextmanager
def demo(folder: Path, count: int = 150) -> Iterator["subprocess.Popen[bytes]"]:
    """A demo in a state directory of its own, all of it gone afterwards."""
    with (folder / "demo.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli", "demo", "--versions", str(count)],
            env=environ(folder),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        purged = ralo(folder, "down", "--purge", "--yes")
    assert purged.returncode == 0, purged.stderr
    assert [path.name for path in folder.iterdir()] == ["demo.log"]


def until_said(process: "subprocess.Popen[bytes]", folder: Path, words: str) -> None:
    deadline = time.monotonic() + 240
    while words not in (folder / "demo.log").read_text():
        assert time.monotonic() < deadline and process.poll() is None, _said(folder)
        time.sleep(0.05)


def until_learnt(process: "subprocess.Popen[bytes]", folder: Path, count: int) -> None:
    deadline = time.monotonic() + 240
    while len(versions(folder)) < count:
        assert time.monotonic() < deadline and process.poll() is None, _said(folder)
        time.sleep(1)


def assert_ends_well(folder: Path, count: int) -> None:
    watched = ralo(folder, "mission", "watch")
    assert watched.returncode == 0, watched.stderr
    assert "budget" in watched.stderr, watched.stderr
    assert len(versions(folder)) >= count
    audit = ralo(folder, "audit", "--json")
    assert audit.returncode == 0, audit.stdout


def assert_nothing_runs(folder: Path) -> None:
    mine = [p for p in psutil.process_iter(["environ", "cmdline"]) if _belongs(p, folder)]
    _, left = psutil.wait_procs(mine, timeout=10)
    assert not left, f"left running: {left}"


MOMENTS = ["starting minio", "starting the processors", "running     version"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_impatient_ctrl_c_leaves_nothing_running(tmp_path: Path, moment: str) -> None:
    with demo(tmp_path) as process:
        until_said(process, tmp_path, moment)
        process.send_signal(signal.SIGINT)
        until_said(process, tmp_path, "interrupted")
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130, _said(tmp_path)
        # Before there is a mission all may be gone before the second.
        assert "stopping already" in _said(tmp_path) or moment != MOMENTS[-1]
        assert_nothing_runs(tmp_path)


def test_down_in_another_terminal_ends_the_demo(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        until_said(process, tmp_path, "running     version")
        down = ralo(tmp_path, "down")
        assert down.returncode == 0, down.stderr
        assert process.wait(30) == 1, _said(tmp_path)
        assert "`ralo down` has stopped everything" in _said(tmp_path)
        assert_nothing_runs(tmp_path)


def test_an_interrupted_demo_goes_on_from_its_last_version(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        until_learnt(process, tmp_path, 40)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130, _said(tmp_path)
        assert_nothing_runs(tmp_path)

        up = ralo(tmp_path, "up")
        assert up.returncode == 0, up.stderr
        before = len(versions(tmp_path))
        resumed = ralo(tmp_path, "mission", "resume")
        assert resumed.returncode == 0, resumed.stderr
        assert_ends_well(tmp_path, 150)
        assert before < 150


@pytest.mark.chaos
def test_servers_that_die_are_started_again_beside_the_run(tmp_path: Path) -> None:
    with demo(tmp_path, 60) as process:
        until_learnt(process, tmp_path, 10)
        for server in ("kafka", "minio"):
            status = json.loads(ralo(tmp_path, "status", "--json").stdout)
            (pid,) = [row["pid"] for row in status["servers"] if row["name"] == server]
            os.kill(pid, signal.SIGKILL)
            until_learnt(process, tmp_path, len(versions(tmp_path)) + 10)
        assert process.wait(240) == 0, _said(tmp_path)
        assert "lost 0, duplicated 0, bad references 0" in _said(tmp_path)


@pytest.mark.chaos
def test_what_a_power_cut_stops_goes_on_without_being_paused(tmp_path: Path) -> None:
    with demo(tmp_path, 70) as process:
        until_learnt(process, tmp_path, 10)
        victims = [p for p in psutil.process_iter(["environ", "cmdline"]) if _belongs(p, tmp_path)]
        for victim in victims:  # None sees another go.
            victim.suspend()
        for victim in victims:
            victim.kill()
        assert process.wait(30) == -signal.SIGKILL
        assert_nothing_runs(tmp_path)

        up = ralo(tmp_path, "up")
        assert up.returncode == 0, up.stderr
        resumed = ralo(tmp_path, "mission", "resume")
        assert resumed.returncode == 0, resumed.stderr
        assert "is not paused: it goes on (running)" in resumed.stderr
        assert_ends_well(tmp_path, 70)


def _belongs(process: psutil.Process, folder: Path) -> bool:
    # The servers are known by their arguments: they inherit no setting.
    found, arguments = process.info["environ"] or {}, process.info["cmdline"] or []
    return found.get("RALO_STATE_DIR") == str(folder) or str(folder) in " ".join(arguments)


def _said(folder: Path) -> str:
    logs = sorted((folder / "logs").glob("[!km]*.log"))
    return (folder / "demo.log").read_text() + "".join(p.read_text()[-600:] for p in logs)
