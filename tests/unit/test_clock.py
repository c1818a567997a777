"""Clocks jump by what the file says for the process, and only then."""

import os
import time
from pathlib import Path

from infra.clock import Clock, read, write


def test_without_a_file_the_clocks_are_the_systems() -> None:
    before = time.monotonic()
    assert before <= Clock(None).monotonic() <= time.monotonic()
    assert abs(Clock(None).wall() - time.time()) < 1


def test_a_process_jumps_by_what_the_file_says_for_its_pid(tmp_path: Path) -> None:
    path = tmp_path / "clocks.json"
    write(path, {str(os.getpid()): 3600.0, "1": -5.0})
    clock = Clock(path)
    assert 3599 < clock.monotonic() - time.monotonic() <= 3600
    assert 3599 < clock.wall() - time.time() <= 3600


def test_a_file_that_is_not_there_or_torn_moves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "clocks.json"
    assert read(path) == {}
    path.write_text("{")
    clock = Clock(path)
    assert abs(clock.wall() - time.time()) < 1
