"""`ralo bench loop`: how the control loop keeps its periods, next to a loop that does nothing.

The actuator's loop as it runs on a robot: a simulated rover in its world process, the link in its
own, commands at 50 Hz. Beside it, in the same run, a bare loop with the same rate and sleep, and
whatever else is to keep the machine busy. The log is in the link's memory, so no broker is needed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from infra.memory.log import MemoryLog
    from infra.robot.uplink import Launch
    from schemas.acting import Command
    from streams.acting.pacing import Pacer

MISSED_MAX, P99_MAX_MS = 0.005, 5.0
"""What is promised at 200 Hz with learners beside it."""
COMMAND_HZ = 50.0
GOOD_MS = 200.0
LEARNERS_NICE = 10
WORLD_S = 60.0
SAY_EVERY_S = 5.0
LOOK_S = 0.005
ROBOT = "rover-1"


class BenchError(Exception):
    """The measurement could not be made; says why."""


def loop(
    rate: Annotated[float, typer.Option(min=100, max=1000, help="Periods a second.")] = 200.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60.0,
    beside: Annotated[
        str, typer.Option(help="What else the machine does: learners=2, or nothing.")
    ] = "learners=2",
    realtime: Annotated[
        bool, typer.Option(help="Take what the host allows: scheduling, memory, timers.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Measure missed periods and lateness of the control loop, next to a bare loop."""
    from infra.cli.stack import say

    learners = _learners(beside)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ralo-bench-")))
        _files(folder, rate)
        stack.enter_context(_child("simulate", str(folder / "world.yaml"), folder=folder))
        for _ in range(learners):
            stack.enter_context(_part("learner", folder=folder))
        say(f"{rate:g} Hz for {seconds:g} s beside {learners} learners at nice {LEARNERS_NICE}")
        _await_world(folder / "robots" / f"{ROBOT}.sock")
        arguments = (str(rate), str(seconds), str(int(realtime)))
        parts = {
            name: stack.enter_context(_part(name, *arguments, folder=folder))
            for name in ("actuator", "bare")
        }
        _say_until(time.monotonic() + seconds)
        found = {name: _answer(name, part, seconds) for name, part in parts.items()}
    report = _report(rate, seconds, learners, found)
    print(json.dumps(report) if as_json else _text(report))


def _learners(beside: str) -> int:
    name, _, count = beside.partition("=")
    if beside in ("", "nothing"):
        return 0
    if name != "learners" or not count.isdigit():
        raise BenchError(f"--beside {beside}: there is learners=N, and nothing")
    return int(count)


def _files(folder: Path, rate: float) -> None:
    world = {"name": "bench", "low": [0, 0], "high": [30, 12]}
    rovers = {ROBOT: {"start": [15, 6, 0]}}
    robot = {
        "robot_id": ROBOT,
        "driver": {"name": "simulated"},
        "control_hz": rate,
        "fusion": {"channels": {}},
        "safety": {
            "load": "busy",
            "obstacle_stop_m": 0.3,
            "geofence": {"low": [0, 0], "high": [30, 12]},
            "tilt_stop_rad": 0.5,
        },
    }
    # JSON is YAML too.
    (folder / "robots").mkdir()
    (folder / "world.yaml").write_text(json.dumps({**world, "rovers": rovers}))
    (folder / "robot.yaml").write_text(json.dumps(robot))


@contextmanager
def _child(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environ(folder),
        text=True,
    )
    with _ended(process):
        yield process


@contextmanager
def _part(name: str, *arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.cli.bench_loop", name, *arguments],
        stdout=subprocess.PIPE,
        env=_environ(folder),
        text=True,
    )
    with _ended(process):
        yield process


def _environ(folder: Path) -> Mapping[str, str]:
    return {**os.environ, "RALO_STATE_DIR": str(folder), "OMP_NUM_THREADS": "1"}


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    with process:
        try:
            yield
        finally:
            process.kill()


def _await_world(path: Path) -> None:
    until_s = time.monotonic() + WORLD_S
    while not path.exists():
        if time.monotonic() > until_s:
            raise BenchError(f"the simulated world did not start within {WORLD_S:.0f} s")
        time.sleep(0.1)


def _say_until(until_s: float) -> None:
    from infra.cli.stack import say

    while (left_s := until_s - time.monotonic()) > 0:
        time.sleep(min(left_s, SAY_EVERY_S))
        if until_s - time.monotonic() > 1:
            say(f"  {until_s - time.monotonic():.0f} s left")


def _answer(name: str, part: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    try:
        out, _ = part.communicate(timeout=seconds + 60)
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise BenchError(
            f"the {name} loop did not answer ({error!r}), status {part.poll()}"
        ) from error
    return found


def _report(
    rate: float, seconds: float, learners: int, found: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    ours = found["actuator"]
    kept = ours["missed_share"] <= MISSED_MAX and ours["p99_ms"] <= P99_MAX_MS
    return {
        "rate_hz": rate,
        "seconds": seconds,
        "learners": learners,
        "cpus": os.cpu_count(),
        "limits": {"missed_share": MISSED_MAX, "p99_ms": P99_MAX_MS},
        "kept": kept,
        **found,
    }


def _text(report: Mapping[str, Any]) -> str:
    lines = ["loop       periods   missed            p50       p99       max  (ms late)"]
    for name in ("actuator", "bare"):
        row = report[name]
        share = f"({row['missed_share']:.3%})"
        lines.append(
            f"{name:8}  {row['periods']:8,}  {row['missed']:5,} {share:>9}"
            f"  {row['p50_ms']:8.3f}  {row['p99_ms']:8.3f}  {row['max_ms']:8.3f}"
        )
    actuator = report["actuator"]
    lines.append(
        f"work in a period: p50 {actuator['work_p50_ms']:.3f} ms, "
        f"p99 {actuator['work_p99_ms']:.3f} ms; {actuator['applied']:,} commands applied, "
        f"mode {actuator['mode']} at the end"
    )
    lines.append(f"real time: {actuator['realtime'] or 'not asked for'}")
    verdict = "kept" if report["kept"] else "NOT kept"
    lines.append(f"at most {MISSED_MAX:.1%} missed and p99 at most {P99_MAX_MS:g} ms: {verdict}")
    return "\n".join(lines)


# --- the parts, each a process of its own


def main(arguments: list[str]) -> None:
    """One part of the measurement; the loops print their figures as JSON."""
    name, *rest = arguments
    if name == "learner":
        _learn()
    elif name == "link":
        _link(int(rest[0]), rest[1])
    else:
        rate, seconds, realtime = float(rest[0]), float(rest[1]), rest[2] == "1"
        run = {"actuator": _actuate, "bare": _bare}[name]
        print(json.dumps(run(rate, seconds, realtime)))


def _learn() -> None:
    """Multiply matrices, as learners do, for ever."""
    os.nice(LEARNERS_NICE)
    import torch

    torch.set_num_threads(1)
    a = torch.randn(512, 512)
    while True:
        a = torch.tanh(a @ a.T / 512)


def _pacer(name: str, rate: float, realtime: bool) -> Pacer:
    from infra.robot.realtime import take_realtime
    from streams.acting.pacing import Pacer

    return Pacer(rate, realtime=take_realtime(name) if realtime else "")


def _figures(pacer: Pacer) -> dict[str, Any]:
    late = pacer.whole
    return {
        "periods": pacer.periods,
        "missed": pacer.missed,
        "missed_share": pacer.missed / pacer.periods,
        "p50_ms": late.quantile(0.5),
        "p99_ms": late.quantile(0.99),
        "max_ms": late.max_ms,
        "realtime": pacer.realtime,
    }


def _bare(rate: float, seconds: float, realtime: bool) -> dict[str, Any]:
    """The same sleep and no work."""
    pacer = _pacer("bare", rate, realtime)
    for _ in range(int(rate * seconds)):
        pacer.wait()
    return _figures(pacer)


def _actuate(rate: float, seconds: float, realtime: bool) -> dict[str, Any]:
    """The actuator's loop as it is, but for its link's log."""
    from infra.cli.robot_processes import build_loop, driver_of, keep_time, usable
    from infra.robot.orders import LocalOrders, robot_folder
    from infra.robot.spool import Spool
    from infra.robot.uplink import UpLink
    from infra.settings import settings

    config = settings()
    robot = usable(config.state_dir / "robot.yaml")
    folder = robot_folder(config, robot.robot_id)
    driver = driver_of(robot, config)
    driver.connect()
    link = UpLink(_launch(robot.robot_id, folder))
    spool = Spool(folder)
    pacer = _pacer(ROBOT, rate, realtime)
    loop = _Timed(build_loop(robot, driver, link, spool, pacer, LocalOrders(folder)))
    keep_time(loop, pacer, _After(seconds))  # type: ignore[arg-type]
    figures = {**_figures(pacer), **loop.figures()}
    loop.stop()
    link.close(1.0)
    return figures


class _After:
    """An event that sets itself, without a thread beside the loop."""

    def __init__(self, seconds: float) -> None:
        self._until_s = time.monotonic() + seconds

    def is_set(self) -> bool:
        return time.monotonic() >= self._until_s


class _Timed:
    """A control loop, each of its periods timed."""

    def __init__(self, loop: Any) -> None:
        from streams.acting.pacing import Lateness

        self._loop, self._work = loop, Lateness()

    def period(self) -> None:
        began_s = time.perf_counter()
        self._loop.period()
        self._work.add((time.perf_counter() - began_s) * 1000)

    def stop(self) -> None:
        self._loop.stop()

    def figures(self) -> dict[str, Any]:
        return {
            "work_p50_ms": self._work.quantile(0.5),
            "work_p99_ms": self._work.quantile(0.99),
            "work_max_ms": self._work.max_ms,
            "mode": self._loop.actuator.safety.mode,
            "applied": self._loop.actuator.begun,
        }


def _launch(robot_id: str, folder: Path) -> Launch:
    """The link as it is, on a log in its own memory, with somebody who commands."""
    import dataclasses

    from infra.robot.order import LinkOrder

    cpus = sorted(os.sched_getaffinity(0))

    def launch(end: socket.socket, next_offset: int | None) -> subprocess.Popen[bytes]:
        order = json.dumps(dataclasses.asdict(LinkOrder(robot_id, str(folder), next_offset, cpus)))
        return subprocess.Popen(
            [sys.executable, "-m", "infra.cli.bench_loop", "link", str(end.fileno()), order],
            pass_fds=[end.fileno()],
            stdout=subprocess.DEVNULL,
        )

    return launch


def _link(fd: int, text: str) -> None:
    from infra.memory.cluster import MemoryCluster
    from infra.memory.log import MemoryLog
    from infra.robot.link import LinkProcess
    from infra.robot.order import LinkOrder
    from schemas.topics import TOPICS

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = LinkOrder(**json.loads(text))
    os.sched_setaffinity(0, order.cpus)
    # A broker answers as soon as something is there; this one is looked at now and then.
    log = MemoryLog(cluster=MemoryCluster(wait=lambda limit_s: time.sleep(min(limit_s, LOOK_S))))
    log.provision(list(TOPICS.values()))
    threading.Thread(target=_command, args=[log, order.robot_id], daemon=True).start()
    LinkProcess(order, log, socket.socket(fileno=fd)).run()


def _command(log: MemoryLog, robot_id: str) -> None:
    """Drive the robot in circles, as soon as it has said which boot it is in."""
    from infra.envelope import message
    from infra.robot.delivery import last_feedback
    from schemas.acting import ControllerClaim

    while (said := last_feedback(log, robot_id)) is None:
        time.sleep(0.05)
    claim = ControllerClaim(robot_id=robot_id, controller_id="bench")
    epoch = log.append([message(claim)])[0].offset
    seq = 0
    while True:
        log.append([message(_circle(robot_id, said.boot_id, epoch, seq))])
        seq += 1
        time.sleep(1 / COMMAND_HZ)


def _circle(robot_id: str, boot_id: str, epoch: int, seq: int) -> Command:
    from schemas.acting import Command, PolicyRef

    # The simulated rover's clock is the machine's.
    now_ms = time.monotonic() * 1000
    return Command(
        robot_id=robot_id,
        boot_id=boot_id,
        controller_epoch=epoch,
        seq=seq,
        stamp_ms=now_ms,
        deadline_ms=now_ms + GOOD_MS,
        frame_seq=0,
        set_point=[0.4, 0.4],
        policy=PolicyRef(policy="tracker", version=0, sha256="0" * 64),
        source={},
    )


if __name__ == "__main__":
    main(sys.argv[1:])
