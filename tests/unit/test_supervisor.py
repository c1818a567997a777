import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import robots, supervision
from infra.embedded import process
from infra.embedded.process import ProcessId
from infra.log import LogUnavailable
from infra.memory.log import MemoryLog
from infra.settings import Settings
from infra.supervisor import ActiveMissions, Supervisor
from schemas.base import Event
from schemas.missions import (
    Budget,
    Mission,
    MissionControl,
    MissionReport,
    MissionResult,
    Patrol,
    ProblemSource,
    RobotMission,
    RobotMissionResult,
)
from schemas.records import Partition, Record
from schemas.topics import TOPICS

SUPERVISE = """
import sys, threading, time
from pathlib import Path

def sleep(kind):
    time.sleep(60)

if __name__ == "__main__":
    from infra.interrupts import signals_stop
    from infra.memory.log import MemoryLog
    from infra.settings import Settings
    from infra.supervisor import Supervisor
    from schemas.topics import TOPICS

    log = MemoryLog()
    log.provision(list(TOPICS.values()))
    config = Settings(state_dir=Path(sys.argv[1]))
    with signals_stop() as stop:
        Supervisor(config, log, sleep, []).run(stop)
"""


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A supervisor of processes that do nothing."""
    script = tmp_path / "supervise.py"
    script.write_text(SUPERVISE)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)]) as supervisor:
        yield supervisor
        supervisor.kill()


def _running(folder: Path) -> list[ProcessId]:
    """The processes on record, once all have been started."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        rows = supervision.processors_status(Settings(state_dir=folder))
        if rows and all(row["state"] == "running" for row in rows):
            return [ProcessId(r["pid"], r["started_s"]) for r in _rows(folder).values()]
    raise AssertionError(f"not started: {rows}")


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads((folder / "processors.json").read_text())
    return rows


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_no_process_outlives_its_supervisor(
    supervised: "subprocess.Popen[bytes]", tmp_path: Path, how: signal.Signals
) -> None:
    processes = _running(tmp_path)
    assert len(processes) == 2
    supervised.send_signal(how)
    supervised.wait(20)
    assert all(process.wait_gone(identity, 10) for identity in processes)


def mission(id_: str = "m", policy: str = "p") -> Mission:
    source, budget = ProblemSource(name="x"), Budget(problems=9)
    return Mission(mission_id=id_, policy=policy, problems=source, budget=budget)


def order(action: Any) -> MissionControl:
    return MissionControl(mission_id="m", action=action)


def report(stage: Any) -> MissionReport:
    return MissionReport(mission_id="m", policy="p", stage=stage)


def result(outcome: Any = "ended") -> MissionResult:
    return MissionResult(mission_id="m", policy="p", outcome=outcome)


ROVER = {"robot_id": "rover-1", "driver": {"name": "simulated"}, "fusion": {"channels": {}}}


def at_work(*events: Event) -> set[str]:
    return observed(*events).policies()


def observed(*events: Event) -> ActiveMissions:
    active = ActiveMissions()
    for offset, event in enumerate(events):
        record = Record(Partition(event.topic, 0), offset, event.key.encode(), event.to_bytes())
        active.observe(record)
    return active


@pytest.mark.parametrize(
    ("events", "works"),
    [
        ([], True),
        ([order("pause")], False),
        ([order("pause"), order("resume")], True),
        # What is on its way drains, and is evaluated, whether it was paused or not.
        ([order("pause"), order("cancel")], True),
        ([order("pause"), order("end")], True),
        ([order("end"), order("pause")], True),
        ([report("prepared"), order("pause"), report("drained")], True),
        ([report("prepared"), order("pause"), report("rejected")], True),
        ([report("prepared"), report("rejected")], True),
        ([report("prepared"), report("rejected"), result("rejected")], False),
        ([report("rejected")], False),
        ([order("pause"), order("cancel"), result("cancelled")], False),
        ([order("cancel"), report("drained"), result()], False),
    ],
)
def test_a_mission_has_its_processors_until_nothing_is_left_to_do(
    events: list[Event], works: bool
) -> None:
    assert at_work(mission(), *events) == ({"p"} if works else set())


def test_a_policy_works_while_one_of_its_missions_does() -> None:
    both = [mission("m"), mission("n"), mission("o", policy="q")]
    assert at_work(*both, order("pause")) == {"p", "q"}
    assert at_work(mission("m"), mission("m", policy="q")) == {"p"}


def test_what_is_no_event_stops_no_supervisor() -> None:
    active = ActiveMissions()
    active.observe(Record(Partition("missions", 0), 0, b"m", b"{"))
    assert active.policies() == set()


def test_a_gate_is_wanted_while_a_robot_has_a_mission_under_its_policy() -> None:
    patrol = Patrol(waypoints=[(1.0, 2.0)])
    led = RobotMission(mission_id="led", robots={"a": patrol, "b": patrol}, policy="arm")
    tracked = RobotMission(mission_id="tracked", robots={"c": patrol})
    done = [
        RobotMissionResult(mission_id="led", robot_id=robot, outcome="done") for robot in ("a", "b")
    ]
    assert observed(tracked).piloting() == set()
    assert observed(led, tracked, done[0]).piloting() == {"arm"}
    assert observed(led, tracked, *done).piloting() == set()


def test_robots_and_worlds_that_are_kept_are_programs_of_their_own(tmp_path: Path) -> None:
    config = Settings(state_dir=tmp_path)
    file = tmp_path / "rover.yaml"
    file.write_text(yaml.safe_dump(ROVER))
    robots.keep(config, [file], [tmp_path / "yard.yaml"])
    log = MemoryLog()
    log.provision(list(TOPICS.values()))
    supervisor = Supervisor(config, log, lambda kind: None, [])
    wanted = {child.name: child.arguments for child in supervisor._robots()}
    assert wanted == {
        "world-yard": ("simulate", str(tmp_path / "yard.yaml")),
        "actuator@rover-1": ("run", "actuator", "--robot", str(file)),
        "fusion@rover-1": ("run", "fusion", "--robot", str(file)),
        "controller@rover-1": ("run", "controller", "--robot", str(file)),
    }
    assert robots.release(config) == ["rover-1"]
    assert supervisor._robots() == []


class _AwayAtFirst(MemoryLog):
    """Answers from the third time on."""

    asked = 0

    def ends(self, topic: str) -> dict[Partition, tuple[int, int]]:
        self.asked += 1
        if self.asked < 3:
            raise LogUnavailable("the broker does not answer")
        return super().ends(topic)


def test_a_supervisor_that_is_started_while_the_broker_is_away_waits(tmp_path: Path) -> None:
    log = _AwayAtFirst()
    log.provision(list(TOPICS.values()))
    supervisor = Supervisor(Settings(state_dir=tmp_path), log, lambda kind: None, [])
    supervisor.step()
    assert log.asked > 3


def test_a_robots_file_that_is_wrong_is_refused_by_the_name_of_its_field(tmp_path: Path) -> None:
    file = tmp_path / "rover.yaml"
    file.write_text(yaml.safe_dump({**ROVER, "control_hz": 5}))
    with pytest.raises(robots.RobotFileError, match=r"rover.yaml: control_hz: .*100"):
        robots.keep(Settings(state_dir=tmp_path), [file])
    with pytest.raises(robots.RobotFileError, match="No such file"):
        robots.keep(Settings(state_dir=tmp_path), [tmp_path / "none.yaml"])
    assert robots.read_kept(Settings(state_dir=tmp_path)).robots == {}
