"""`ralo dlq`: what it asks for, prints and answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from letters_world import BROKEN, bury, die, fresh, problem, resolutions, sent
from typer.testing import CliRunner, Result

from infra.cli import dlq
from infra.cli.counting import Counting
from infra.log import Message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    made = fresh()
    monkeypatch.setattr("infra.connect.connect_log", lambda config: made)
    monkeypatch.setattr("infra.connect.connect_store", lambda config: MemoryStore())
    for index in range(3):
        die(made, problem(index), "verifier", detail="KeyError: 'x'\nsecond line")
    die(made, Message("problems", b"k", BROKEN), "undecodable")
    die(made, Message("commands", b"rover-1", b"\xff"), "undecodable", "link")
    return made


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(dlq.app, list(arguments))
    assert result.exit_code == status, (result.output, result.exception)
    return result


def answer(*arguments: str, status: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", status=status).stdout)


def test_a_list_counts_and_groups(log: MemoryLog) -> None:
    found = answer("list", "--last", "2")
    assert [found[name] for name in ("letters", "waiting", "requeued", "dropped")] == [5, 5, 0, 0]
    groups = {(g["topic"], g["reason"], g["processor"]): g["letters"] for g in found["groups"]}
    assert groups == {
        ("problems", "verifier", "sampler"): 3,
        ("problems", "undecodable", "sampler"): 1,
        ("commands", "undecodable", "link"): 1,
    }
    assert [row["at"] for row in found["newest"]] == ["dead-letters[0]@3", "dead-letters[0]@4"]
    text = run("list", "--topic", "problems").stdout
    assert "5 dead letters: 5 wait" in text and "KeyError" in text and "second line" not in text
    assert "commands" not in text


def test_a_list_may_have_what_is_settled(log: MemoryLog) -> None:
    run("drop", "0")
    assert len(answer("list")["newest"]) == 4
    rows = answer("list", "--resolved")["newest"]
    assert [row["state"] for row in rows] == ["dropped"] + ["waiting"] * 4


def test_a_letter_is_shown_with_what_became_of_it(log: MemoryLog) -> None:
    shown = answer("show", "dead-letters[0]@1")
    assert shown["original"] == json.loads(problem(1).to_bytes())
    assert (shown["became"], shown["key"]) == (None, problem(1).key)
    run("requeue", "1", "--note", "the verifier is mended")
    shown = answer("show", shown["origin"])
    assert shown["became"]["action"] == "requeued"
    assert shown["became"]["note"] == "the verifier is mended"
    again = bury(log, sent(log)[0], "verifier")
    assert answer("show", "1")["dead_again"] == [again.at]
    assert answer("show", again.at)["again_of"] == "dead-letters[0]@1"
    text = run("show", "1").stdout
    assert "the verifier is mended" in text and f"was dead again: {again.at}" in text
    assert run("show", "4", "--raw").stdout_bytes == b"\xff"
    assert "\\xff" in run("show", "4").stdout


def test_a_dry_run_does_nothing(log: MemoryLog) -> None:
    found = answer("requeue", "--all", "--dry-run", "--set", "index=7", status=1)
    assert (found["letters"], found["dry_run"], len(found["refused"])) == (3, True, 2)
    assert found["first"][0]["changes"] == [{"field": "index", "old": 0, "new": 7}]
    assert not sent(log) and not resolutions(log)
    text = run("requeue", "--all", "--dry-run", "--set", "index=7", status=1).stdout
    assert "3 letters would be requeued: 3 of problems" in text
    assert "index: 0 -> 7" in text and "a robot never executes an old command" in text


def test_in_bulk_what_can_be_is_sent_and_the_rest_is_told(log: MemoryLog) -> None:
    found = answer("requeue", "--all", "--batch", "2", status=1)
    assert (found["done"], found["done_by_others"], found["transactions"]) == (3, 0, 2)
    assert [one["at"][-1] for one in found["refused"]] == ["3", "4"]
    assert {one.run for one in resolutions(log)} == {found["run"]}
    assert answer("requeue", "--reason", "verifier")["letters"] == 0
    assert answer("requeue", "0", "1")["settled_before"] == 2
    assert len(sent(log)) == 3


def test_a_patch_may_be_in_a_file(log: MemoryLog, tmp_path: Path) -> None:
    file = tmp_path / "fix.json"
    file.write_text(problem(9).to_bytes().decode())
    found = answer("requeue", "--where", "original.problem_id == 'broken'", "--patch", f"@{file}")
    assert found["done"] == 1
    assert sent(log)[0].event == problem(9)


def test_letters_are_dropped_with_a_note(log: MemoryLog) -> None:
    assert "2 letters to be dropped" in run("drop", "--reason", "undecodable", "--note", "x").stdout
    assert [(one.action, one.note) for one in resolutions(log)] == [("dropped", "x")] * 2
    assert answer("drop", "--all", "--dry-run")["letters"] == 3
    assert len(resolutions(log)) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["requeue"],
        ["drop"],
        ["drop", "0", "--all"],
        ["requeue", "--all", "--patch", "[1]"],
        ["requeue", "--all", "--patch", "@/nowhere/fix.json"],
        ["requeue", "--all", "--set", "x"],
    ],
)
def test_what_is_not_said_well_is_refused(log: MemoryLog, arguments: Sequence[str]) -> None:
    assert run(*arguments, status=2).stderr
    assert not resolutions(log)


def test_progress_is_told_after_two_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 1.0, 3.0, 3.1, 4.0])
    say = Counting("dlq", clock=lambda: next(clock))
    for done in (100, 200, 300, 400):
        say("letters done", done, 1000)
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[3] for line in told] == ["200", "400"]
