"""What `ralo bench latency` makes of times that were measured."""

from collections import deque

import pytest

from infra.cli.bench_latency import _figures, _text
from infra.cli.latency_chains import (
    EXAMPLES,
    ROBOT,
    WORLD,
    BenchError,
    Chain,
    Work,
    drive,
    measured_work,
)
from infra.robots import read_robot
from producers.robots.worlds import read_world

WORK = Work(1000, 2000, 400, 0.5, 0.25)


def chain(name: str, took_ms: list[float | None]) -> Chain:
    """A chain whose commands came back after so long, or did not."""
    found = Chain(name, lambda number: None, lambda timeout_s: ())
    for number, ms in enumerate(took_ms):
        found.sent_ns[number] = 10**9 * number
        if ms is not None:
            found.back_ns[number] = 10**9 * number + round(ms * 1e6)
    return found


def test_quantiles_are_of_the_frames_that_count() -> None:
    figures = chain("ralo", [99.0, *(float(ms) for ms in range(1, 101))]).figures(first=1)
    assert (figures["p50_ms"], figures["p99_ms"], figures["max_ms"]) == (51.0, 100.0, 100.0)
    assert (figures["frames"], figures["without_command"]) == (100, 0)


def test_frames_without_a_command_are_counted() -> None:
    figures = chain("ralo", [1.0, None, 3.0]).figures(first=0)
    assert (figures["frames"], figures["without_command"], figures["max_ms"]) == (3, 1, 3.0)
    with pytest.raises(BenchError, match="bare: no command came back for 2 frames"):
        chain("bare", [None, None]).figures(first=0)


def test_a_chain_waits_for_its_last_frame() -> None:
    assert not chain("ralo", [1.0, None, 3.0]).waits()
    assert chain("ralo", [1.0, None]).waits()


def test_the_first_command_for_a_frame_counts() -> None:
    import threading

    ended, came = threading.Event(), deque([[(0, 5)], [(0, 9), (1, 7)]])

    def received(timeout_s: float) -> list[tuple[int, int]]:
        if not came:
            ended.set()
            return []
        return came.popleft()

    found = Chain("ralo", lambda number: None, received)
    found.listen(ended)
    assert found.back_ns == {0: 5, 1: 7}


def test_the_ratio_is_that_of_the_medians() -> None:
    figures = _figures(chain("ralo", [3.0] * 9), chain("bare", [2.0] * 9), 0, 50.0, WORK)
    assert (figures["ratio_p50"], figures["ratio_p99"]) == (1.5, 1.5)
    assert "fusion computes for 0.50 ms and the controller for 0.25 ms" in _text(figures)
    assert "ralo over bare: 1.50 at the median (at most 2)" in _text(figures)


def test_payloads_are_as_large_as_what_the_processes_send() -> None:
    """Of a second of driving: a frame, the state after it and the command after that."""
    world = read_world(WORLD)
    frames = drive(world, 50, 50.0)
    assert [frame.seq for frame in frames] == list(range(50))
    assert {frame.robot_id for frame in frames} == {ROBOT}
    robot = read_robot(EXAMPLES / "robots" / "rover.yaml")
    work = measured_work(robot.model_copy(update={"robot_id": ROBOT}), world, frames)
    assert work.frame_bytes == round(sum(len(f.to_bytes()) for f in frames) / 50)
    assert 500 < work.state_bytes < 10_000 and 200 < work.command_bytes < 2000
    assert work.fusion_ms > 0 and work.controller_ms > 0
