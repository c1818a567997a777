"""A seed is the same every time: twice in one process, and in another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sim_seeds import run_seed

SEEDS = (3, 6, 7, 12)
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_run_twice_leaves_the_same_bytes(seed: int) -> None:
    first, second = run_seed(seed, details=True), run_seed(seed, details=True)
    assert first.tally == second.tally
    assert first.log_sha256 == second.log_sha256


def test_other_seeds_leave_other_bytes() -> None:
    assert len({run_seed(seed, details=True).log_sha256 for seed in SEEDS}) == len(SEEDS)


def test_another_process_with_other_hashes_leaves_the_same_bytes() -> None:
    code = (
        "from sim_seeds import run_seed\n"
        f"print(*[run_seed(s, details=True).log_sha256 for s in {SEEDS}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == [run_seed(s, details=True).log_sha256 for s in SEEDS], done.stderr
