"""`ralo bench loop` measures the real loop, and a bare one beside it."""

import json

import pytest
import typer
from typer.testing import CliRunner

from infra.cli.bench_loop import loop

app = typer.Typer()
app.command()(loop)


@pytest.mark.slow
def test_both_loops_are_measured_in_one_run() -> None:
    arguments = ["--seconds", "4", "--beside", "nothing", "--no-realtime", "--json"]
    found = CliRunner().invoke(app, arguments, catch_exceptions=False)
    report = json.loads(found.stdout)
    for name in ("actuator", "bare"):
        row = report[name]
        assert 600 < row["periods"] <= 1000
        assert 0 <= row["missed_share"] < 1
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
    assert report["actuator"]["work_p50_ms"] > 0.01
    assert report["actuator"]["applied"] > 0, "commands came through the link"
    assert report["kept"] in (True, False)


def test_what_else_the_machine_does_is_checked() -> None:
    found = CliRunner().invoke(app, ["--beside", "builders=2"])
    assert "there is learners=N, and nothing" in str(found.exception)
