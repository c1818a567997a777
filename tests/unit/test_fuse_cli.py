"""`ralo fuse` and `ralo bench fusion`: files in, states and figures out, what is wrong where."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from infra.cli import app
from infra.cli.rover_frames import ROVER, rover_frames
from schemas.topics import FUSED_STATES, decode
from streams.acting.fusion import fuse

COUNT = 120

Files = tuple[Path, Path, Path]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A fusion part, recorded frames, and where states go."""
    config, frames = tmp_path / "fusion.yaml", tmp_path / "frames.jsonl"
    config.write_text(yaml.safe_dump(ROVER.model_dump(mode="json")))
    frames.write_bytes(b"".join(f.to_bytes() + b"\n" for f in rover_frames(COUNT)))
    return config, frames, tmp_path / "states.jsonl"


def ralo(verb: str, *arguments: object) -> tuple[int, str, str]:
    """The verb's exit status, output and error."""
    result = CliRunner().invoke(app, [verb, *map(str, arguments)])
    return result.exit_code, result.stdout, str(result.exception or "")


def test_it_writes_the_states_that_the_filter_makes(files: Files) -> None:
    code, out, _ = ralo("fuse", *files)
    assert code == 0
    assert f"{COUNT} frames of 1 robots became {COUNT} states" in out
    lines = files[2].read_bytes().splitlines()
    assert [decode(FUSED_STATES.name, line) for line in lines] == [
        *fuse(rover_frames(COUNT), ROVER)
    ]


def test_it_scores_by_the_truth_in_the_frames(files: Files) -> None:
    code, out, _ = ralo("fuse", *files, "--truth", files[1], "--json")
    summary = json.loads(out)
    assert code == 0
    assert (summary["frames"], summary["states"], summary["robots"]) == (COUNT, COUNT, 1)
    assert summary["channels"]["imu"]["applied"] == COUNT
    assert summary["truth"]["rover/1"]["points"] == COUNT
    assert 0 < summary["truth"]["rover/1"]["rmse_m"] < 0.5


def test_a_robots_file_will_do(files: Files, tmp_path: Path) -> None:
    robot = {
        "robot_id": "rover",
        "driver": {"name": "rover"},
        "fusion": ROVER.model_dump(mode="json"),
    }
    config = tmp_path / "robot.yaml"
    config.write_text(yaml.safe_dump(robot))
    assert ralo("fuse", config, *files[1:])[0] == 0


def test_a_broken_line_is_named_and_nothing_is_written(files: Files) -> None:
    lines = files[1].read_bytes().splitlines()
    lines[41] = lines[41].replace(b'"seq":41', b'"seq":"forty"', 1)
    files[1].write_bytes(b"\n".join(lines))
    code, _, error = ralo("fuse", *files)
    assert code == 1
    assert error.startswith(f"{files[1]}:42: seq: ")
    assert not files[2].exists()
    assert [p.name for p in files[2].parent.glob("*.part")] == []


def test_a_reading_that_makes_no_sense_is_named_by_its_line(files: Files) -> None:
    lines = files[1].read_text().splitlines()
    frame = json.loads(lines[8])
    next(r for r in frame["readings"] if r["channel"] == "range")["values"] = [9.0, 1.0]
    lines[8] = json.dumps(frame)
    files[1].write_text("\n".join(lines))
    code, _, error = ralo("fuse", *files)
    assert code == 1
    assert f"{files[1]}:9: reading 2 of `range`: beacon 9 is not among fusion.beacons" in error


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"filter": "flat"}, "filter: Input should be 'planar', 'spatial' or 'joints'"),
        ({"process_std": {"v": 1.0}}, "fusion.process_std knows no `v`"),
        ({"beacons": {}}, "fusion.channels.range needs fusion.beacons"),
    ],
)
def test_a_config_that_cannot_work_is_named(
    files: Files, change: dict[str, object], says: str
) -> None:
    files[0].write_text(yaml.safe_dump({**ROVER.model_dump(mode="json"), **change}))
    code, _, error = ralo("fuse", *files)
    assert code == 1
    assert error.startswith(f"{files[0]}: ")
    assert says in error


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_file_is_named(files: Files, missing: int) -> None:
    files[missing].unlink()
    code, _, error = ralo("fuse", *files)
    assert (code, error) == (1, f"{files[missing]}: No such file or directory")


def test_no_frames_and_no_truth_are_errors(files: Files, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert "empty.jsonl has no frames" in ralo("fuse", files[0], empty, files[2])[2]
    assert "no truth to score" in ralo("fuse", *files, "--truth", empty)[2]


def test_the_bench_measures_ours_and_filterpys_on_the_same_frames() -> None:
    from infra.cli.bench_fusion import compared

    figures = compared(frames=300, seed=0)
    ours, theirs = figures["ours"], figures["filterpy"]
    assert ours["rmse_m"] == pytest.approx(theirs["rmse_m"], rel=0.05), "they are the same filter"
    assert figures["ours_over_filterpy"] > 0
    assert ours["rovers_at_200_hz"] == int(ours["frames_per_s"] // 200)
    assert json.dumps(figures)
