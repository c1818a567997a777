"""`ralo robot` and `ralo run actuator` where they need no log: files, and orders by the disk."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from acting_world import World
from typer.testing import CliRunner

from infra.cli.robot import app
from infra.cli.run import EXIT_CONFIG, run
from infra.instance import try_lock
from infra.robot import realtime
from infra.robot.orders import LocalOrders, give, robot_folder, take_back
from infra.robot.spool import Spool
from infra.settings import settings
from schemas.acting import OperatorOrder
from streams.acting.loop import ClockWentBack

ROBOT = {
    "robot_id": "r1",
    "driver": {"name": "simulated"},
    "fusion": {"channels": {"odometry": {"kind": "odometry", "std": [0.05, 0.05]}}},
    "safety": {"obstacle_stop_m": 0.3},
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RALO_STATE_DIR", str(tmp_path))
    settings.cache_clear()
    yield
    settings.cache_clear()


def file(folder: Path, **changes: object) -> str:
    path = folder / "r1.yaml"
    path.write_text(yaml.safe_dump({**ROBOT, **changes}))
    return str(path)


def check(folder: Path, **changes: object) -> str:
    found = CliRunner().invoke(app, ["check", file(folder, **changes)])
    return found.stdout if found.exit_code == 0 else str(found.exception)


def test_a_sound_file_says_what_holds_the_robot(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["check", file(tmp_path), "--json"])
    document = json.loads(found.stdout)
    assert document["set_point"] == ["v_mps", "yaw_rate_radps"]
    assert document["places"]["safety"] == "robot"
    assert document["holds_after_s"]["the controller"] == pytest.approx(0.525)
    assert "scan" in document["holds_after_s"]
    assert "is sound" in check(tmp_path)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"placement": {"at": {"safety": "cloud"}}}, "safety off the robot"),
        ({"placement": {"profile": "robot_edge"}}, "does not exist yet"),
        ({"driver": {"name": "tractor"}}, "driver.name: tractor: there are"),
        ({"driver": {"name": "simulated", "args": {"wheels": 3}}}, "driver.args.wheels"),
        (
            {"driver": {"name": "simulated", "args": {"kind": "arm"}}},
            "the obstacle watch needs a channel of kind scan",
        ),
        ({"safety": {"silence_hold_s": 0}}, "safety.silence_hold_s"),
        ({"control_hz": 5}, "control_hz"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_field(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    assert says in check(tmp_path, **changes)


def test_what_runs_a_robot_wants_its_file(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(typer.Exit) as ended:
        run("actuator", robot=None, policy=None, patience_s=0)
    assert ended.value.exit_code == EXIT_CONFIG and "--robot FILE" in caplog.text


def test_a_robot_has_one_actuator(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = robot_folder(settings(), "r1")
    folder.mkdir(parents=True)
    lock = try_lock(folder / "actuator.lock")
    assert lock is not None
    with lock, pytest.raises(typer.Exit) as ended:
        run("actuator", robot=Path(file(tmp_path)), policy=None, patience_s=0)
    assert ended.value.exit_code == EXIT_CONFIG and "has an actuator" in caplog.text


# --- orders by the disk


class Actuating(threading.Thread):
    """A control loop with the real spool and orders, until told to stop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.world, self.spool = World(), Spool(folder)
        self.world.loop._spool = self.spool
        self.world.loop._local_orders = LocalOrders(folder)
        self.quit = threading.Event()

    def run(self) -> None:
        while not self.quit.is_set():
            self.world.run(50)
        self.spool.close()


@pytest.fixture
def actuating() -> Iterator[Actuating]:
    made = Actuating(robot_folder(settings(), "r1"))
    made.start()
    yield made
    made.quit.set()
    made.join()


def ralo(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, list(arguments))
    return found.exit_code, found.stdout


@pytest.mark.slow
def test_orders_need_no_log_on_the_robot_itself(actuating: Actuating) -> None:
    code, said = ralo("stop", "r1", "--reason", "a child on the floor")
    assert (code, "NORMAL → SAFE_STOP" in said, "a child on the floor" in said) == (0, True, True)
    code, said = ralo("reset", "r1", "--json")
    assert code == 0 and json.loads(said)["after"] == "NORMAL"
    code, said = ralo("terminate", "r1", "--yes")
    assert code == 0 and "→ TERMINATED" in said
    code, said = ralo("reset", "r1")
    assert code == 1 and "a terminated robot stays so" in said


def test_to_terminate_is_asked_for_first(actuating: Actuating) -> None:
    assert ralo("terminate", "r1")[0] == 1
    assert actuating.world.mode == "NORMAL"


def test_orders_are_read_in_order_and_once(tmp_path: Path) -> None:
    before = order("old")
    give(tmp_path, before)
    orders = LocalOrders(tmp_path)
    give(tmp_path, order("b"))
    give(tmp_path, order("a"))
    (tmp_path / "orders" / "torn.json").write_text("{")
    assert [(o.order_id, past) for o, past in orders()] == [
        ("old", True),
        ("b", False),
        ("a", False),
    ]
    assert orders() == [] and not take_back(tmp_path, before)
    give(tmp_path, before)
    assert take_back(tmp_path, before) and orders() == []


def order(order_id: str) -> OperatorOrder:
    return OperatorOrder(robot_id="r1", order_id=order_id, action="stop")


# --- what the host allows, and clocks


def test_what_the_host_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.sched_setscheduler", refuse)
    monkeypatch.setattr(realtime, "_memory_limit", lambda: 8 << 20)
    monkeypatch.setattr(realtime, "_resident_bytes", lambda: 50 << 20)
    monkeypatch.setattr(realtime, "_timer_slack", lambda: "timer slack 1 ns")
    assert realtime.take_realtime("r1") == (
        "no SCHED_FIFO (operation not permitted), no memory lock (the limit is 8192 KiB), "
        "timer slack 1 ns"
    )


@pytest.mark.parametrize("count, pinned", [(1, False), (2, False), (4, True)])
def test_a_loop_is_pinned_where_cores_are_left(
    monkeypatch: pytest.MonkeyPatch, count: int, pinned: bool
) -> None:
    took: list[set[int]] = []
    monkeypatch.setattr("os.sched_setscheduler", lambda *_: None)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(count)))
    monkeypatch.setattr("os.sched_setaffinity", lambda _, cpus: took.append(cpus))
    said = [realtime._fifo(f"rover-{n}") for n in range(20)]
    assert all(("pinned" in text) == pinned for text in said)
    assert set[int]().union(*took) == (set(range(1, count)) if pinned else set())


def test_a_clock_that_goes_back_ends_this_life() -> None:
    world = World()
    world.run(100)
    world.rover.clock_ms -= 0.5
    world.loop.period()
    world.rover.clock_ms -= 5000
    with pytest.raises(ClockWentBack, match="the robot's clock went from"):
        world.loop.period()
