"""`ralo chaos` as a user runs it, for a minute: everything is broken, and all comes through."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from consumers.reliability.ledger import FaultLine, RunLine, lines
from consumers.reliability.schedule import PROCESSES

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(900)]

READY_S = 300.0
END_S = 500.0


def ralo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "infra.cli", "chaos", *arguments],
        env={**os.environ, "RALO_STATE_DIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )


def noted(ledger: Path) -> list[FaultLine]:
    found = list(lines(ledger)) if ledger.exists() else []
    return [line for line in found if isinstance(line, FaultLine) and line.at_s is not None]


def left_running(folder: Path) -> list[list[str]]:
    """The commands of this run's processes that still run."""
    rows = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [row for row in rows if any(str(folder) in word for word in row)]


def test_a_run_that_is_cut_short_by_ctrl_c_still_balances_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    ledger, state = tmp_path / "ledger.jsonl", tmp_path / "s"
    run = ralo(state, "--seed", "1", "--minutes", "3", "--ledger", str(ledger), "--json")
    until_s = time.monotonic() + READY_S
    while not {fault.kind for fault in noted(ledger)} >= {"kafka", "minio", *PROCESSES}:
        assert run.poll() is None and time.monotonic() < until_s, noted(ledger)
        time.sleep(1)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=END_S)
    assert run.returncode == 0, said
    *faults, end = list(lines(ledger))
    assert isinstance(end, RunLine) and end.interrupted and end.ok
    assert json.loads(said) == end.model_dump(mode="json")
    done = [f for f in faults if isinstance(f, FaultLine) and f.at_s is not None]
    assert all(fault.recovered_ms is not None for fault in done)
    assert min(Counter(f.kind for f in done if f.action == "kill")[k] for k in PROCESSES) >= 1
    books = end.books
    assert (books.lost, books.duplicated, books.order_violations, books.bad_references) == (
        *(0, 0, 0, 0),
    )
    assert end.samples > 1000 and {proof.policy for proof in end.proofs} == {"words", "arm"}
    assert all(proof.versions == proof.equal > 1 for proof in end.proofs)
    assert left_running(state) == []
    assert not list((state / "chaos").iterdir())
