"""The package that docs/extending.md shows, installed as the page says and used by name."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from tiny import problem_of

from infra.cli.on import ROOT
from producers.problems.verifiers import scorer
from producers.robots.registry import make_driver
from schemas.acting import Reading, SensorFrame
from schemas.learning import Rollout, Verifier
from schemas.robot_file import RobotFile
from streams.acting.fusion import fuse
from streams.learning.algorithms import algorithm, code_sha256, names

PAGE = (ROOT / "docs/extending.md").read_text()


def _block(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    project = tomllib.loads(_block("toml"))["project"]
    (tmp_path / "own_streams.py").write_text(_block("python"))
    info = tmp_path / f"own_streams-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_streams", None)


def test_a_foreign_algorithm_is_known_checked_and_run() -> None:
    assert "rloo" in names()
    groups = [
        [Rollout(tokens=[1], logprobs=[0.0], reward=r, stop="eos", seed=0) for r in rewards]
        for rewards in ([1.0, 0.0, 0.0], [1.0, 1.0])
    ]
    advantages = algorithm("rloo", {"scale": 2.0}).advantages(groups)
    assert advantages.values == [[2.0, -1.0, -1.0], [0.0, 0.0]]
    assert advantages.signal == [True, False]
    with pytest.raises(ValidationError, match="scael"):
        algorithm("rloo", {"scael": 2.0})
    assert code_sha256("rloo") != code_sha256("grpo")


def test_a_foreign_verifier_scores() -> None:
    problem = problem_of(0, "abc", "cba").model_copy(
        update={"verifier": Verifier(name="first-letter")}
    )
    score = scorer()
    assert [score(problem, text, True) for text in ("cxx", "abc")] == [1.0, 0.0]
    assert score(problem, "cba", False) == 0.0


def test_a_foreign_driver_runs_in_the_control_loop(tmp_path: Path) -> None:
    document = {
        "robot_id": "table-1",
        "driver": {"name": "turntable"},
        "fusion": {"channels": {"angle": {"kind": "heading", "std": [0.01]}}},
    }
    robot = RobotFile.model_validate(document)
    driver = make_driver(robot, tmp_path)
    assert [channel.name for channel in driver.spec.channels] == ["angle"]
    driver.connect()
    assert driver.apply([5.0]) == [2.0]
    readings: list[Reading] = []
    while len(readings) < 3:
        readings += driver.read()
    driver.close()
    assert [reading.seq for reading in readings] == list(range(len(readings)))
    assert readings[2].values == pytest.approx([0.06])
    frame = SensorFrame(
        robot_id="table-1", boot_id="b", seq=0, stamp_ms=1e9, wall_ms=1e12, readings=readings
    )
    (state,) = fuse([frame.model_copy(update={"stamp_ms": readings[-1].stamp_ms})], robot.fusion)
    assert dict(zip(state.names, state.mean, strict=True))["heading_rad"] == pytest.approx(
        readings[-1].values[0], abs=0.01
    )
