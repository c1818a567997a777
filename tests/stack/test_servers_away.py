"""Verbs of a restart policy where one of their servers is away: which one, where, and status 75."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.embedded.stack import Endpoints
from infra.embedded.state import choose_port

pytestmark = [pytest.mark.stack, pytest.mark.slow]

VERBS = [["provision"], ["run", "sampler"]]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
@pytest.mark.parametrize("away", ["store", "broker"])
def test_the_server_that_is_away_is_named_with_its_address(
    stack: Endpoints, namespace: str, tmp_path: Path, away: str, verb: list[str]
) -> None:
    nowhere = f"127.0.0.1:{choose_port('127.0.0.1')}"
    environ = _environ(stack, namespace, tmp_path)
    assert _ralo(environ, "provision").returncode == 0
    variable = {"store": "RALO_S3__ENDPOINT", "broker": "RALO_KAFKA__BOOTSTRAP_SERVERS"}[away]
    done = _ralo(environ | {variable: nowhere}, *verb, "--patience-s", "1")
    assert done.returncode == 75, done.stderr
    assert f"waiting for the {away} {nowhere}: " in done.stderr
    assert f"waited 1 s for the {away} {nowhere}: " in done.stderr.splitlines()[-1]


def _environ(stack: Endpoints, namespace: str, folder: Path) -> dict[str, str]:
    settings = {
        "STATE_DIR": str(folder),
        "NAMESPACE": namespace,
        "KAFKA__BOOTSTRAP_SERVERS": stack.kafka,
        "S3__ENDPOINT": stack.s3.address,
        "S3__ACCESS_KEY": stack.s3.access_key,
        "S3__SECRET_KEY": stack.s3.secret_key,
        "S3__BUCKET": stack.s3.bucket,
    }
    return {**os.environ, **{f"RALO_{name}": value for name, value in settings.items()}}


def _ralo(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.cli", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
