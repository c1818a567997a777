"""The proofs on a run of real processes: two samplers, two trainers, then every bit again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import Loop, running, small_mission

from consumers.read import read
from consumers.recompute import ChainReport
from infra.embedded.stack import Endpoints
from schemas.learning import GradientUpload, WeightVersion

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(600)]


def ralo(loop: Loop, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The verb, as a user runs it, in a process of its own."""
    command = [sys.executable, "-m", "infra.cli", *arguments]
    return subprocess.run(command, env=loop.environ, capture_output=True, text=True)


def test_a_run_of_two_samplers_and_two_trainers_is_proved_and_a_changed_chunk_named(
    stack: Endpoints, namespace: str, tmp_path: Path
) -> None:
    mission = small_mission("proof", tmp_path, budget={"problems": 160}, keep={"last": 100})
    with running(stack, namespace, tmp_path, sampler=2, trainer=2) as loop:
        loop.submit(mission)
        loop.until_result("proof", 300)
    versions = loop.versions("proof")
    done = ralo(loop, "weights", "verify", "--chain", "--samples", "--policy", "proof", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = ChainReport.model_validate_json(done.stdout)
    assert report.equal == len(versions) >= 10 and not report.findings
    assert sum(proof.samples for proof in report.versions) == 160
    changed = _change_a_chunk(loop, versions[3])
    done = ralo(loop, "weights", "verify", "3", "--step", "--policy", "proof")
    assert done.returncode == 1 and changed in done.stdout
    done = ralo(loop, "samples", "verify", "--version", "4", "--policy", "proof", "--json")
    assert done.returncode == 0 and all(group["equal"] for group in json.loads(done.stdout))


def _change_a_chunk(loop: Loop, version: WeightVersion) -> str:
    """Flip a bit of the first chunk of the version's first upload; answers its key."""
    records = read("gradient-chunks", log=loop.log, policy="proof")
    upload = next(r.event for r in records if r.at == version.uploads[0].at)
    assert isinstance(upload, GradientUpload)
    data = loop.store.get(upload.chunks[0])
    loop.store.put(upload.chunks[0].key, bytes([data[0] ^ 1]) + data[1:])
    return upload.chunks[0].key
