"""Ctrl-C in the middle of the demo: everything stops, and goes on from the last version."""

import json
import os
import signal
import subprocess
import sys
import time
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


def test_an_interrupted_demo_goes_on_from_its_last_version(tmp_path: Path) -> None:
    with (tmp_path / "demo.log").open("w") as log:
        demo = subprocess.Popen(
            [sys.executable, "-m", "infra.cli", "demo", "--versions", "150"],
            env=environ(tmp_path),
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 240
        while len(versions(tmp_path)) < 40:
            assert time.monotonic() < deadline and demo.poll() is None, _said(tmp_path)
            time.sleep(1)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(120) == 130, _said(tmp_path)
        mine = [p for p in psutil.process_iter(["environ"]) if _belongs(p, tmp_path)]
        _, left = psutil.wait_procs(mine, timeout=10)
        assert not left, f"left running: {left}"

        up = ralo(tmp_path, "up")
        assert up.returncode == 0, up.stderr
        before = len(versions(tmp_path))
        resumed = ralo(tmp_path, "mission", "resume")
        assert resumed.returncode == 0, resumed.stderr
        watched = ralo(tmp_path, "mission", "watch")
        assert watched.returncode == 0, watched.stderr
        assert "budget" in watched.stderr, watched.stderr
        assert len(versions(tmp_path)) >= 150 > before
        audit = ralo(tmp_path, "audit", "--json")
        assert audit.returncode == 0, audit.stdout
    finally:
        demo.kill()
        ralo(tmp_path, "down", "--purge", "--yes")


def _belongs(process: psutil.Process, folder: Path) -> bool:
    found = process.info["environ"] or {}
    return found.get("RALO_STATE_DIR") == str(folder)


def _said(folder: Path) -> str:
    logs = sorted((folder / "logs").glob("[!km]*.log"))
    return (folder / "demo.log").read_text() + "".join(p.read_text()[-600:] for p in logs)
