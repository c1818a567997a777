"""`ralo simulate`: recordings as files, frames on the log, and what does not go together."""

import json
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

from infra.cli import simulate_load
from infra.memory.log import MemoryLog
from producers.robots.rendering import CannotRender
from schemas.acting import SensorFrame
from schemas.robot_file import RobotFile
from schemas.topics import SENSOR_FRAMES, decode
from schemas.worlds import World

EXAMPLES = Path(__file__).parents[2] / "examples"
FAST = (
    "import sys, producers.robots.simulated, producers.robots.registry, producers.robots.frames; "
    "print(*{name.partition('.')[0] for name in sys.modules})"
)
RENDER = (
    "import yaml, sys; from producers.robots.rendering import *; "
    "from producers.robots.worlds import read_world; from pathlib import Path; "
    "sys.stdout.buffer.write(View(read_world(Path(sys.argv[1]))).png({}))"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", "simulate", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
def test_a_recording_is_frames_truth_and_figures(tmp_path: Path) -> None:
    frames, truth = tmp_path / "f.jsonl", tmp_path / "t.jsonl"
    patrol = str(EXAMPLES / "worlds" / "patrol.yaml")
    ran = run(
        *(patrol, "--speed", "0", "--seconds", "2", "--json"),
        *("--record", str(frames), "--truth", str(truth)),
    )
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert "times real time" in ran.stderr and "steps/s" in ran.stderr
    found = [decode("sensor-frames", line.encode()) for line in frames.read_text().splitlines()]
    assert len(found) == summary["frames"] > 250
    assert {f.robot_id for f in found if isinstance(f, SensorFrame)} == {
        f"rover-{n}" for n in (1, 2, 3)
    }
    assert summary["steps"] == 800 and summary["steps_hz"] > 0
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert len(lines) == 300 and {"robot_id", "stamp_ms", "x_m", "heading_rad"} <= lines[0].keys()


@pytest.mark.slow
def test_a_served_world_is_recorded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = tmp_path / "f.jsonl"
    monkeypatch.setenv("RALO_STATE_DIR", str(tmp_path))
    arm = str(EXAMPLES / "worlds" / "arm.yaml")
    ran = run(arm, "--seconds", "1", "--record", str(frames), "--json")
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert summary["periods"] * 10 + summary["lost_ms"] == pytest.approx(1000, abs=120)
    assert "periods missed" in ran.stderr
    found = [decode("sensor-frames", line.encode()) for line in frames.read_text().splitlines()]
    readings = [r for f in found if isinstance(f, SensorFrame) for r in f.readings]
    assert {r.channel for r in readings} == {"joints", "target", "reward"}
    assert {r.stamp_ms % 20 for r in readings} == {0.0}, "steps lie where frames expect them"
    assert not list((tmp_path / "robots").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--speed", "0.5", str(EXAMPLES / "worlds" / "arm.yaml")], "1 is real time, 0 as fast"),
        ([], "give a world's YAML file"),
        (["nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--load", "world.yaml"], "--load makes its rovers up"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments: list[str], says: str) -> None:
    ran = run(*arguments)
    assert ran.returncode == 1 and says in ran.stderr and "Traceback" not in ran.stderr


def test_a_load_publishes_frames_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    log, stop = MemoryLog(), threading.Event()
    log.provision([SENSOR_FRAMES])
    monkeypatch.setattr("infra.connect.connect_log", lambda _: log)
    summary = simulate_load.publish_load(stop, 4, 200.0, 50.0, 0.5, 0)
    reader = log.live_reader({p: first for p, (first, _) in log.ends("sensor-frames").items()})
    found = [decode("sensor-frames", r.value) for r in reader.poll(10_000, 0.0)]
    frames = [event for event in found if isinstance(event, SensorFrame)]
    assert len(frames) == summary["frames"] >= 4 * 10
    assert summary["lost"] == 0 and summary["readings"] == sum(len(f.readings) for f in frames)
    for n in range(1, 5):
        seqs = [f.seq for f in frames if f.robot_id == f"load-{n}"]
        assert seqs == list(range(len(seqs)))
    assert len({f.boot_id for f in frames}) == 1


def test_a_load_stops_when_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    log, stop = MemoryLog(), threading.Event()
    log.provision([SENSOR_FRAMES])
    monkeypatch.setattr("infra.connect.connect_log", lambda _: log)
    stop.set()
    assert simulate_load.publish_load(stop, 2, 200.0, 50.0, None, 0)["frames"] == 0


@pytest.mark.parametrize("name", ["rover", "arm"])
def test_the_examples_are_robots_of_the_example_worlds(name: str) -> None:
    import yaml

    robot = RobotFile.model_validate(
        yaml.safe_load((EXAMPLES / "robots" / f"{name}.yaml").read_text())
    )
    worlds = [
        World.model_validate(yaml.safe_load((EXAMPLES / "worlds" / f"{file}.yaml").read_text()))
        for file in ("patrol", "arm")
    ]
    (home,) = [w for w in worlds if robot.robot_id in {*w.rovers, *w.arms}]
    if name == "rover":
        assert {k: list(v) for k, v in home.beacons.items()} == dict(robot.fusion.beacons)
        assert robot.safety.geofence is not None
        assert (robot.safety.geofence.low, robot.safety.geofence.high) == (home.low, home.high)


def test_a_world_that_is_none_is_refused_by_field(tmp_path: Path) -> None:
    from producers.robots.worlds import WorldError, read_world

    path = tmp_path / "w.yaml"
    for text, says in [
        ("name: w\nrovers: {r: {start: [20, 1, 0]}}", r"rovers\.r\.start: outside"),
        ("name: w\nrovers: {r: {start: [1, 1, 0]}}\narms: {r: {}}", "r: one robot_id for a rover"),
        ("name: w\nwind: 3", "wind: Extra inputs"),
        ("{", "is no YAML"),
    ]:
        path.write_text(text)
        with pytest.raises(WorldError, match=says):
            read_world(path)


def test_the_client_of_a_world_imports_nothing_heavy() -> None:
    ran = subprocess.run([sys.executable, "-c", FAST], capture_output=True, text=True, check=True)
    names = set(ran.stdout.split())
    assert "producers" in names
    assert not names & {"mujoco", "numpy", "gymnasium", "confluent_kafka", "torch"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["patrol", "arm"])
def test_a_world_is_drawn_from_above_or_it_is_said_why_not(name: str) -> None:
    world = str(EXAMPLES / "worlds" / f"{name}.yaml")
    ran = subprocess.run([sys.executable, "-c", RENDER, world], capture_output=True, timeout=90)
    if ran.returncode:
        assert CannotRender.__name__ in ran.stderr.decode()
        assert "no picture from the simulator: egl: " in ran.stderr.decode()
        return
    assert struct.unpack(">II", ran.stdout[16:24]) == (480, 480)
    (length,) = struct.unpack(">I", ran.stdout[33:37])
    rows = zlib.decompress(ran.stdout[41 : 41 + length])
    assert len(rows) == 480 * (1 + 3 * 480)
    assert len(set(rows)) > 20, "it is not of one colour"
