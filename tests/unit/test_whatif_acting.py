"""What-ifs of fusion and control: a rover's patrol in virtual time, recorded, then fused again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from robot_chain import ChainedRobot, example_mission, example_robot, example_world, run

from consumers.selection import Range, Selection, parse_range
from consumers.whatif.acting import (
    RobotLog,
    compare_commands,
    compare_states,
    decide_again,
    events,
    fuse_again,
    read_robot_log,
)
from consumers.whatif.errors import BadWhatIf
from infra.cli import whatif
from infra.envelope import message
from infra.log import Message
from infra.memory.log import MemoryLog
from producers.robots.simulation import Simulation
from schemas.acting import FusedState
from schemas.base import Event
from schemas.records import Record
from schemas.robot_file import RobotFile
from schemas.topics import TOPICS

ID = "rover-1"
SECONDS = 6


class Recording(ChainedRobot):
    """A robot all of whose events go to a log, at the simulation's time."""

    log: MemoryLog

    def _record(self, event: Event, wall_ms: float) -> Record:
        record = super()._record(event, wall_ms)
        made = message(event)
        stamped = Message(made.topic, made.key, made.value, made.headers, int(wall_ms))
        self.log.append([stamped])
        return record


@pytest.fixture(scope="module")
def file() -> RobotFile:
    return example_robot("rover", ID)


@pytest.fixture(scope="module")
def log(file: RobotFile) -> MemoryLog:
    """Six seconds of a patrol."""
    log = MemoryLog()
    log.provision(list(TOPICS.values()))
    simulation = Simulation(example_world("patrol"))
    robot = Recording(file, simulation)
    robot.log = log
    robot.tell(example_mission("patrol-one"))
    for _ in run(simulation, {ID: robot}, SECONDS):
        pass
    return log


@pytest.fixture(scope="module")
def recorded(log: MemoryLog) -> RobotLog:
    return read_robot_log(log, ID, Range(), commands=True)


def gated(file: RobotFile, gate: float) -> RobotFile:
    """The same robot with another gate on positions."""
    document: dict[str, Any] = file.model_dump(mode="json")
    document["fusion"]["channels"]["position"]["gate"] = gate
    return RobotFile.model_validate(document)


@pytest.mark.slow
def test_the_same_settings_give_the_same_states(recorded: RobotLog, file: RobotFile) -> None:
    again = fuse_again(recorded.frames, ID, file.fusion)
    found = compare_states(recorded, again)
    assert found.same == len(again) == found.recorded.states == len(recorded.states) > 200
    assert found.apart_m == 0
    assert found.whatif == found.recorded
    assert found.recorded.rmse_m is not None
    assert found.recorded.points > 200


def test_another_gate_rejects_more_and_is_scored_by_the_truth(
    recorded: RobotLog, file: RobotFile
) -> None:
    again = fuse_again(recorded.frames, ID, gated(file, 0.3).fusion)
    found = compare_states(recorded, again)
    assert found.same < len(again)
    assert found.apart_m > 0
    theirs, ours = found.recorded, found.whatif
    assert ours.channels["position"]["rejected"] > theirs.channels["position"]["rejected"]
    assert ours.channels["imu"] != {}
    assert ours.rmse_m != theirs.rmse_m
    assert ours.points == theirs.points


def test_the_same_states_give_the_same_commands(
    recorded: RobotLog, file: RobotFile, log: MemoryLog
) -> None:
    driver = Simulation(example_world("patrol")).robots[ID].spec
    again = decide_again(recorded, file, driver, events(recorded.states, FusedState))
    found = compare_commands(recorded.commands, again)
    assert found.same == found.recorded == found.whatif == len(recorded.commands) > 200
    assert (found.differ, found.first) == (0, None)


def test_other_states_give_other_commands_of_which_the_first_is_named(
    recorded: RobotLog, file: RobotFile
) -> None:
    driver = Simulation(example_world("patrol")).robots[ID].spec
    states = fuse_again(recorded.frames, ID, gated(file, 0.3).fusion)
    found = compare_commands(recorded.commands, decide_again(recorded, file, driver, states))
    assert found.same + found.differ == found.recorded
    assert found.differ > 0
    assert found.first in {record.at for record in recorded.commands}
    assert len(found.largest) == 2
    assert max(found.largest) > 0


def test_a_learnt_policy_is_not_decided_again(recorded: RobotLog, file: RobotFile) -> None:
    learnt = file.controller.model_copy(update={"policy": "p"})
    driver = Simulation(example_world("patrol")).robots[ID].spec
    with pytest.raises(BadWhatIf, match="acts under the policy p"):
        decide_again(recorded, file.model_copy(update={"controller": learnt}), driver, [])


def test_a_range_without_frames_is_refused(log: MemoryLog) -> None:
    with pytest.raises(BadWhatIf, match="rover-2: no sensor frames of it"):
        read_robot_log(log, "rover-2", Range(), commands=False)


@pytest.fixture
def config(
    log: MemoryLog, file: RobotFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The robot's file; the log is that of the settings."""
    from infra.settings import settings

    settings.cache_clear()
    monkeypatch.setenv("RALO_STATE_DIR", str(tmp_path))
    monkeypatch.setattr("infra.connect.connect_log", lambda config: log)
    path = tmp_path / "robots" / f"{ID}.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(file.model_dump(mode="json")))
    yield path
    settings.cache_clear()


def test_the_verb_compares_by_the_robots_own_file(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selection = Selection(tuple(TOPICS), parse_range("start"), key=ID)
    gate = "fusion.channels.position.gate=0.3"
    whatif.run("fusion,controller", selection=selection, settings=[gate], as_json=True)
    found = json.loads(capsys.readouterr().out)["robots"][ID]
    assert found["changed"] == ["fusion.channels.position.gate: 0.999 -> 0.3"]
    assert found["fusion"]["states_same"] < found["fusion"]["whatif"]["states"]
    assert found["commands"]["differ"] > 0
    assert found["commands_on_recorded_states"]["differ"] == 0


def test_the_verb_takes_a_file_with_other_settings(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    document = yaml.safe_load(config.read_text())["fusion"]
    document["channels"]["position"]["gate"] = 0.3
    other.write_text(yaml.safe_dump(document))
    selection = Selection(tuple(TOPICS), parse_range("start"))
    whatif.run("fusion", selection=selection, config_file=other)
    out = capsys.readouterr().out
    assert "fusion.channels.position.gate: 0.999 -> 0.3" in out
    assert "RMSE from the truth, m" in out


def test_a_range_inside_a_boot_is_said_to_be_one(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whatif.run("fusion", selection=Selection(tuple(TOPICS), parse_range("-100"), key=ID))
    assert "of a boot: there the filter starts anew" in capsys.readouterr().out
    whatif.run("fusion", selection=Selection(tuple(TOPICS), parse_range("start"), key=ID))
    assert "of a boot" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("through", "setting", "says"),
    [
        ("sampler", "a=1", "--through sampler: one can replay through `trainer,aggregator`"),
        ("fusion", "fusion.chanels.a=1", "fusion.chanels: Extra inputs"),
        ("fusion", "fusion.window_s=-1", "fusion.window_s: Input should be greater than 0"),
    ],
)
def test_what_makes_no_sense_is_named(config: Path, through: str, setting: str, says: str) -> None:
    selection = Selection(tuple(TOPICS), parse_range("start"), key=ID)
    with pytest.raises(BadWhatIf, match=says):
        whatif.run(through, selection=selection, settings=[setting])
