"""What a process does not import: help answers at once, and an aggregator stays small."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch",
    "transformers",
    "faust",
    "mujoco",
    "gymnasium",
    "confluent_kafka",
    "datasets",
    "minio",
}
AGGREGATOR = (
    "from infra.cli.processors import factory; from infra.settings import Settings; "
    "factory('aggregator')(Settings(policy='p', state_dir='.'))"
)


def imported(folder: Path, *arguments: str) -> set[str]:
    """The top-level packages that a python with these arguments imports until it ends."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [line for line in ran.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    found = imported(tmp_path, "-m", "infra.cli", "--help")
    assert {"infra", "typer"} <= found
    assert not found & HEAVY


@pytest.mark.slow
def test_an_aggregator_imports_no_transformers(tmp_path: Path) -> None:
    found = imported(tmp_path, "-c", AGGREGATOR)
    assert {"torch", "streams"} <= found
    assert not found & {"transformers", "gymnasium", "mujoco"}


def test_a_policy_acts_without_torch(tmp_path: Path) -> None:
    code = "import streams.learning.control.mlp, streams.learning.engines.gymnasium"
    found = imported(tmp_path, "-c", code)
    assert "numpy" in found
    assert not found & HEAVY


@pytest.mark.slow
def test_the_learners_of_control_policies_import_no_transformers(tmp_path: Path) -> None:
    modules = ("sampler", "trainer", "control.player", "control.learner")
    code = "; ".join(f"import streams.learning.{name}" for name in modules)
    found = imported(tmp_path, "-c", code)
    assert {"torch", "streams"} <= found
    assert not found & {"transformers", "gymnasium", "mujoco"}
