"""`ralo mission`: from files to missions, and through the log to a provider and back."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from provider_world import character_folder, grpo_only, questions
from typer.testing import CliRunner, Result

from consumers.read import read
from infra.cli import mission
from infra.cli.mission import MissionError
from infra.cli.mission_file import MissionFileError, load_mission
from infra.driver import Driver
from infra.envelope import message
from infra.log import Message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from producers.problems.provider import ProblemProvider
from schemas.missions import MissionControl, MissionResult, RobotMission, RobotMissionResult
from schemas.records import Record
from schemas.topics import TOPICS, decode

MISSION = """\
policy: sums
problems:
  source: jsonl
  name: sums.jsonl
  heldout: 0.25
rollout: {problems_per_batch: 4, max_tokens: 4}
training:
  groups_per_upload: 4
  learning_rate: 1e-4
algorithm:
  settings: {entropy: 2e-2}
budget:
  problems: 40
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    questions(tmp_path / "sums.jsonl")
    path = tmp_path / "Adding Up.yaml"
    path.write_text(MISSION)
    return path


# -- files ----------------------------------------------------------------------------------


def test_a_file_is_a_mission(file: Path) -> None:
    loaded = load_mission(file, now=datetime(2026, 3, 4, 5, 6, 7))
    assert loaded.mission_id == "adding-up-20260304-050607"
    assert loaded.policy == "sums"
    assert loaded.training.learning_rate == 1e-4
    # YAML 1.1 has text here, which no type of ours would turn into a number.
    assert loaded.algorithm.settings == {"entropy": 0.02}
    assert loaded.problems.name == str(file.parent / "sums.jsonl")


def test_fields_may_be_replaced(file: Path) -> None:
    loaded = load_mission(
        file,
        mission_id="mine",
        overrides=[
            "training.learning_rate=3e-4",
            "algorithm.settings.entropy=0.05",
            "model.new.alphabet=0123456789+=",
            'policy="other"',
            "budget.problems=null",
            "target.heldout=0.5",
        ],
    )
    assert (loaded.mission_id, loaded.policy) == ("mine", "other")
    assert loaded.training.learning_rate == 3e-4
    assert loaded.algorithm.settings == {"entropy": 0.05}
    assert loaded.model.new.alphabet == "0123456789+="
    assert loaded.budget.problems is None


def test_the_policy_of_the_settings_counts_where_the_file_has_none(file: Path) -> None:
    file.write_text(MISSION.replace("policy: sums\n", ""))
    assert load_mission(file, policy="fallback").policy == "fallback"


def test_the_examples_are_missions() -> None:
    examples = sorted((Path(__file__).parents[2] / "examples" / "missions").glob("*.yaml"))
    assert examples
    for path in examples:
        found = load_mission(path)
        assert found.robots if isinstance(found, RobotMission) else found.problems.name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate", "learning_rat", r"yaml:9: training.learning_rat: no such field; did you"),
        ("1e-4", "-1", r"yaml:9: training.learning_rate: Input should be greater than 0, not -1"),
        ("heldout: 0.25", "held: 1", r"yaml:5: problems.held: no such field; did you mean heldout"),
        ("source: jsonl", "source: csv", r"yaml:3: problems.source: Input should be .*, not 'csv'"),
        ("  name: sums.jsonl\n", "", r"yaml:2: problems.name: Field required"),
        ("  problems: 40", "  problems:", r"yaml: budget: a mission needs a budget or a target"),
        ("policy: sums", "policy: My Own", r"yaml:1: policy: String should match"),
        ("policy: sums", "policy: [", r"yaml:\d+: "),
        ("policy: sums", "policy: a\npolicy: b", r"yaml:2: policy is given twice"),
        ("policy: sums", "mission_id: x", r"yaml: mission_id does not belong in a file; see --id"),
        (MISSION, "- a", r"yaml: a mission is a mapping of fields"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_field(
    file: Path, old: str, new: str, message: str
) -> None:
    file.write_text(MISSION.replace(old, new, 1))
    with pytest.raises(MissionFileError, match=message):
        load_mission(file)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rate", "write field=value"),
        (".x=1", "write field=value"),
        ("policy.name=1", "policy holds no fields"),
        ("policy=[", "--set policy="),
        ("training.nope=1", "training.nope: no such field"),
    ],
)
def test_a_wrong_override_is_named(file: Path, override: str, message: str) -> None:
    with pytest.raises(MissionFileError, match=message):
        load_mission(file, overrides=[override])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissionFileError, match=r"none\.yaml: No such file"):
        load_mission(tmp_path / "none.yaml")


# -- verbs ----------------------------------------------------------------------------------


class ServedLog(MemoryLog):
    """The log in memory with a problem provider that works whenever something was appended."""

    def __init__(self) -> None:
        super().__init__()
        self.provision(list(TOPICS.values()))
        provider = ProblemProvider(grpo_only, character_folder, clock=lambda: 0.0)
        log = MemoryLog(cluster=self.cluster)
        self._driver = Driver(provider, log, MemoryStore(), "i1", sleep=lambda _: None)

    def append(self, messages: Sequence[Message]) -> list[Record]:
        """Append, and let the provider answer."""
        records = super().append(messages)
        for _ in range(20):
            self._driver.step()
        return records


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    served = ServedLog()
    monkeypatch.setattr(mission, "open_log", lambda: served)
    monkeypatch.setattr(mission, "_default_policy", lambda: "main")
    return served


def ralo(*arguments: object) -> Result:
    return CliRunner().invoke(mission.app, [str(a) for a in arguments])


def answered(*arguments: object) -> Any:
    result = ralo(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_submit_waits_until_it_is_prepared(file: Path, log: MemoryLog) -> None:
    assert answered("submit", file, "--id", "m1", "--policy", "other") == {
        "mission_id": "m1",
        "policy": "other",
        "stage": "prepared",
        "train_size": 14,
        "heldout_size": 2,
        "reason": "16 distinct questions among 16 items read",
    }
    (first, *_) = read("missions", log=log)
    assert first.key == b"m1"
    assert {"schema", "traceparent", "mission-id", "policy"} == first.headers.keys()
    assert len(list(read("problems", log=log))) == 8


def test_a_rejected_mission_exits_one_with_the_reason(file: Path, log: MemoryLog) -> None:
    result = ralo("submit", file, "--set", "problems.verifier.name=exakt")
    assert result.exit_code == 1
    assert "rejected: no verifier 'exakt'" in result.stderr


def test_an_id_is_taken_once(file: Path, log: MemoryLog) -> None:
    assert ralo("submit", file, "--id", "m1").exit_code == 0
    assert ralo("submit", file, "--id", "m1").exit_code == 0
    result = ralo("submit", file, "--id", "m1", "--set", "seed=1")
    assert isinstance(result.exception, MissionError)
    assert "m1 is the id of another mission (running)" in str(result.exception)
    assert len(answered("list")) == 1


def test_submit_without_a_provider(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = MemoryLog()
    alone.provision(list(TOPICS.values()))
    monkeypatch.setattr(mission, "open_log", lambda: alone)
    monkeypatch.setattr(mission, "_default_policy", lambda: "main")
    assert answered("submit", file, "--id", "m1", "--no-wait")["stage"] == "submitted"
    result = ralo("submit", file, "--id", "m1", "--timeout", "0")
    assert "no provider answered in 0 s" in str(result.exception)


def test_list_and_show_follow_a_mission(file: Path, log: MemoryLog) -> None:
    assert answered("list") == []
    for id_, policy in (("m1", "a"), ("m2", "b"), ("m3", "a")):
        answered("submit", file, "--id", id_, "--policy", policy)
    answered("pause", "m1")
    answered("cancel", "m2", "--reason", "enough")
    log.append([message(MissionResult(mission_id="m3", policy="a", outcome="target"))])
    rows = {row["mission_id"]: (row["phase"], row["outcome"]) for row in answered("list")}
    assert rows == {
        "m1": ("paused", None),
        "m2": ("cancelling", None),
        "m3": ("finished", "target"),
    }
    assert [row["mission_id"] for row in answered("list", "--policy", "b")] == ["m2"]
    listed = ralo("list").stdout
    assert "m1  a  paused              16 distinct" in listed
    assert "m3  a  finished    target  16 distinct" in listed
    details = answered("show", "m2")
    assert [order["reason"] for order in details["orders"]] == ["enough"]
    assert details["mission"]["problems"]["heldout"] == 0.25
    assert [report["stage"] for report in details["reports"]] == ["prepared"]
    assert "phase: cancelling" in ralo("show", "m2").stdout


def test_orders_reach_the_provider(file: Path, log: MemoryLog) -> None:
    answered("submit", file, "--id", "m1")
    running = {"mission_id": "m1", "action": "pause", "phase": "running"}
    assert answered("pause", "m1") == running
    assert answered("resume", "m1")["action"] == "resume"
    (*_, last) = read("missions", log=log)
    assert decode("missions", last.value).key == "m1"
    assert answered("list")[0]["phase"] == "running"


def test_orders_need_a_mission_that_is_not_over(file: Path, log: MemoryLog) -> None:
    result = ralo("pause", "m1")
    assert "no mission 'm1'" in str(result.exception)
    ralo("submit", file, "--id", "m1", "--set", "algorithm.name=ppoo")
    result = ralo("cancel", "m1")
    assert "m1 is ending: nothing to cancel" in str(result.exception)
    log.append([message(MissionResult(mission_id="m1", policy="a", outcome="rejected"))])
    result = ralo("resume", "m1")
    assert "m1 is finished (rejected): nothing to resume" in str(result.exception)


@pytest.mark.parametrize(("order", "phase"), [("end", "ending"), ("cancel", "cancelling")])
def test_what_is_to_end_is_not_paused(file: Path, log: MemoryLog, order: Any, phase: str) -> None:
    answered("submit", file, "--id", "m1")
    log.append([message(MissionControl(mission_id="m1", action=order))])
    result = ralo("pause", "m1")
    assert f"m1 is {phase}: nothing to pause" in str(result.exception)


def test_resume_takes_the_newest_that_is_paused(file: Path, log: MemoryLog) -> None:
    for id_, policy in (("m1", "a"), ("m2", "b"), ("m3", "c")):
        answered("submit", file, "--id", id_, "--policy", policy)
    answered("pause", "m1")
    assert answered("resume") == {"mission_id": "m1", "action": "resume", "phase": "paused"}
    assert answered("list", "--policy", "a")[0]["phase"] == "running"


def test_resume_says_that_a_mission_nobody_paused_goes_on(file: Path, log: MemoryLog) -> None:
    assert "no mission goes on or is paused" in str(ralo("resume").exception)
    answered("submit", file, "--id", "m1", "--policy", "a")
    answered("submit", file, "--id", "m2", "--policy", "b")
    before = len(list(read("missions", log=log)))
    said = ralo("resume")
    assert said.exit_code == 0
    assert "m2 is not paused: it goes on (running)" in said.stderr
    assert answered("resume", "m1")["phase"] == "running"
    assert len(list(read("missions", log=log))) == before


# -- missions for robots ----------------------------------------------------------------------

PATROL = """\
robots:
  rover-1: {kind: patrol, waypoints: [[1, 2], [3, 4]], laps: 2}
  rover-2: {kind: patrol, waypoints: [[5, 6]]}
"""


@pytest.fixture
def patrol(tmp_path: Path) -> Path:
    path = tmp_path / "patrol.yaml"
    path.write_text(PATROL)
    return path


def test_a_file_that_names_robots_is_a_mission_for_them(patrol: Path) -> None:
    found = load_mission(patrol, mission_id="p1")
    assert isinstance(found, RobotMission)
    assert found.policy is None
    patrol.write_text(PATROL.replace("laps", "lapse"))
    with pytest.raises(MissionFileError, match=r"patrol.yaml:2: .*lapse: no such field"):
        load_mission(patrol)


def test_a_mission_for_robots_is_listed_until_each_is_through(patrol: Path, log: MemoryLog) -> None:
    assert answered("submit", patrol, "--id", "p1")["stage"] == "submitted"
    assert answered("list")[0] | {"submitted_ms": 0} == {
        "mission_id": "p1",
        "policy": "tracker",
        "phase": "running",
        "outcome": None,
        "submitted_ms": 0,
        "reason": "0 of 2 robots are through",
    }
    for robot, outcome in (("rover-1", "done"), ("rover-2", "failed")):
        log.append([message(RobotMissionResult(mission_id="p1", robot_id=robot, outcome=outcome))])
    assert answered("show", "p1")["outcome"] == "failed"
    assert ralo("cancel", "p1").exit_code == 1


def test_orders_for_robots_are_no_mistake_to_the_provider(patrol: Path, log: MemoryLog) -> None:
    ralo("submit", patrol, "--id", "p1")
    assert answered("pause", "p1")["action"] == "pause"
    assert answered("show", "p1")["phase"] == "paused"
    ralo("cancel", "p1")
    assert answered("show", "p1")["phase"] == "cancelling"
    assert not list(read("dead-letters", log=log))
