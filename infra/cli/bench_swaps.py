"""`ralo bench swaps`: policies swapped into a robot while its controller is killed at every stage.

The controller is `ralo run controller`, a process of its own on a real log and store; the robot is
in virtual time, so that a thousand swaps take minutes. At each named point of the swap machine the
process ends by SIGKILL (`RALO_CRASH_AT`); what acted is then judged from the log alone.
"""

import contextlib
import json as json_module
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.bench_stack import delete_topics, say, stack_of
from infra.settings import (
    KafkaSettings,
    S3Settings,
    Settings,
    kafka_bootstrap,
    s3_endpoint,
)

if TYPE_CHECKING:
    from infra.cli.swap_books import SwapBooks

POINTS: Mapping[str, tuple[str, ...]] = {
    "OFFERED": ("offered", "file_written", "file_renamed"),
    "FETCHED": ("fetched",),
    "STAGED": ("staged",),
    "WAIT_SAFE": ("wait_safe",),
    "SWAPPED": ("swapping", "written", "renamed", "swapped"),
    "PROBATION": ("probation",),
    "COMMITTED": ("committing", "committed"),
    "ROLLED_BACK": ("rolling_back", "rolled_back", "given_up"),
}
"""Where a process is killed, by the stage that it is about to reach or in."""
ROBOT = "bench-arm"
PROBATION_STEPS = 10
ROBOT_FILE: Mapping[str, Any] = {
    "robot_id": ROBOT,
    "driver": {"name": "arm", "args": {"arm": {"episode_steps": 10}, "real_time": False}},
    "fusion": {"filter": "joints", "channels": {}},
    "controller": {
        "policy": "bench-reach",
        "horizon_ms": 200.0,
        "release": {
            "shadow_steps": 3,
            "probation_steps": PROBATION_STEPS,
            "wait_safe_steps": 100,
            "return_steps": 5,
            "return_drop_max": 3.0,
            "slow_speed_max": 0.0,
        },
    },
    "safety": {"silence_hold_s": 5.0, "load": "busy"},
}
WAY_LIMIT_S = 60.0
SAY_EVERY_S = 5.0


class SwapsError(Exception):
    """The bench cannot go on; says why."""


def swaps(
    swaps: Annotated[int, typer.Option(min=1, help="Swaps to make.")] = 1000,
    kills: Annotated[int, typer.Option(min=0, help="SIGKILLs at each stage.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the order of the kills.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Swap policies into a running robot, killing its controller at every stage.

    Uses the broker and store that run, or its own for as long as it takes. Exit status 1 where a
    policy acted that was not whole, or not released.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with contextlib.ExitStack() as undo:
        run = SwapRun(_own(undo), swaps, kills, seed, say)
        undo.callback(run.clean)
        figures = run.run()
    print(json_module.dumps(figures, indent=2) if json else _text(figures))
    if figures["breaches"]:
        raise typer.Exit(1)


def _own(undo: contextlib.ExitStack) -> Settings:
    """Settings with a namespace and a folder for this bench alone."""
    config = stack_of(undo)
    folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="ralo-bench-")))
    return elsewhere(config, folder, f"bench-{uuid.uuid4().hex[:8]}.")


def elsewhere(config: Settings, folder: Path, namespace: str) -> Settings:
    """The same broker and store, under a namespace and with a state folder of one's own."""
    s3 = s3_endpoint(config)
    store = {
        "endpoint": s3.address,
        "access_key": s3.access_key,
        "secret_key": s3.secret_key,
        "bucket": s3.bucket,
        "secure": s3.secure,
        "region": s3.region,
    }
    kafka = KafkaSettings(bootstrap_servers=kafka_bootstrap(config), extra=config.kafka.extra)
    own = {"state_dir": folder, "namespace": namespace, "kafka": kafka}
    return config.model_copy(update={**own, "s3": S3Settings.model_validate(store)})


class SwapRun:
    """Offers, a robot that steps, and a controller that is killed and started again."""

    def __init__(
        self, config: Settings, swaps: int, kills: int, seed: int, say: Callable[[str], None]
    ) -> None:
        from infra.connect import connect_log, connect_store
        from infra.robots import read_robot
        from producers.robots.registry import make_driver
        from schemas.topics import PROVISIONED

        self._config, self._swaps, self._say = config, swaps, say
        self._log, self._store = connect_log(config), connect_store(config)
        self._store.ensure_bucket()
        self._log.provision(PROVISIONED)
        self._prefix = f"bench/{config.namespace}"
        self._file = config.state_dir / "robot.yaml"
        self._file.write_text(json_module.dumps(ROBOT_FILE))
        self._robot_file = read_robot(self._file)
        self._driver: Any = make_driver(self._robot_file, config.state_dir / "robots")
        self._chance = random.Random(seed)
        self._plan = self._planned(kills)
        self._killed: Counter[str] = Counter()
        self._life: subprocess.Popen[bytes] | None = None
        self._lives = self._made = 0
        self._stage = ""
        self._kill_at: float | None = None

    def _planned(self, kills: int) -> list[tuple[str, str]]:
        """Where each life is to end: stage and point, those of a stage in turn, all shuffled."""
        plan = [
            (stage, f"{points[i % len(points)]}:{self._passing(points[i % len(points)])}")
            for stage, points in POINTS.items()
            for i in range(kills)
        ]
        plan += [("any", "")] * kills
        self._chance.shuffle(plan)
        return plan

    def _passing(self, point: str) -> int:
        """At which passing of a point the process dies."""
        return self._chance.randint(1, PROBATION_STEPS) if point == "probation" else 1

    # -- the run ------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Make the swaps and the kills; the figures, the books' breaches among them."""
        from infra.cli.swap_books import swap_books
        from infra.cli.swap_offers import make_offer
        from infra.cli.swap_robot import SwapRobot
        from infra.envelope import message

        began = said = time.monotonic()
        robot = SwapRobot(self._robot_file, self._driver, self._log)
        self._log.append([message(_mission())])
        version = 0
        try:
            while self._made < self._swaps or self._plan or self._stage:
                offer = make_offer(self._store, self._prefix, ROBOT, version)
                self._log.append([message(offer)])
                self._until_over(robot, offer.release_id)
                version += 1
                if time.monotonic() - said > SAY_EVERY_S:
                    said = time.monotonic()
                    deaths = sum(self._killed.values())
                    self._say(f"{self._made} swaps, {deaths} kills, {len(self._plan)} to come")
        finally:
            robot.close()
            self._end_life()
        seconds = time.monotonic() - began
        return self._figures(swap_books(self._log, self._store, ROBOT), robot, version, seconds)

    def _until_over(self, robot: Any, release_id: str) -> None:
        """Step the robot until a release has come to its end."""
        began = time.monotonic()
        while True:
            self._keep_alive()
            for release in robot.step():
                mine = release.release_id == release_id
                self._made += mine and release.stage == "SWAPPED"
                if mine and release.stage in ("COMMITTED", "ROLLED_BACK"):
                    return
            if time.monotonic() - began > WAY_LIMIT_S:
                words = (self._config.state_dir / "controller.log").read_text()[-2000:]
                raise SwapsError(
                    f"release {release_id} is at no end after {WAY_LIMIT_S:.0f} s: {words}"
                )

    # -- the controller -----------------------------------------------------------------------

    def _keep_alive(self) -> None:
        """Start the controller, again where it has died; kill the one whose time has come."""
        if self._life is not None and self._kill_at and time.monotonic() > self._kill_at:
            self._life.kill()
            self._life.wait()
        if self._life is not None and self._life.poll() is None:
            return
        if self._life is not None:
            self._note_death(self._life.returncode)
        self._start()

    def _note_death(self, status: int) -> None:
        if status != -signal.SIGKILL:
            words = (self._config.state_dir / "controller.log").read_text()[-2000:]
            raise SwapsError(f"the controller ended by itself with status {status}: {words}")
        self._killed[self._stage] += 1

    def _start(self) -> None:
        self._stage, point = self._plan.pop() if self._plan else ("", "")
        self._kill_at = None
        if self._stage == "any":
            self._kill_at = time.monotonic() + self._chance.uniform(0.8, 3.0)
        command = [sys.executable, "-m", "infra.cli", "run", "controller", "--robot"]
        with (self._config.state_dir / "controller.log").open("ab") as words:
            self._life = subprocess.Popen(
                [*command, str(self._file)],
                env={**os.environ, **environ(self._config), "RALO_CRASH_AT": point},
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
            )
        self._lives += 1

    def _end_life(self) -> None:
        if self._life is not None and self._life.poll() is None:
            self._life.kill()
            self._life.wait()

    def clean(self) -> None:
        """Leave nothing behind: the topics of this namespace, the objects, the robot's folder."""
        self._end_life()
        self._store.delete(list(self._store.keys(self._prefix)))
        delete_topics(self._log)
        shutil.rmtree(self._config.state_dir / "robots", ignore_errors=True)

    def _figures(
        self, books: "SwapBooks", robot: Any, offers: int, seconds: float
    ) -> dict[str, Any]:
        return {
            "swaps": self._made,
            "offers": offers,
            "kills": dict(self._killed),
            "lives": self._lives,
            "seconds": round(seconds, 1),
            "control_steps": robot.steps,
            "steps_without_command": robot.unanswered,
            "counts": dict(books.counts),
            "rolled_back_for": dict(books.reasons),
            "breaches": books.breaches,
        }


def environ(config: Settings) -> dict[str, str]:
    """The variables that give a process these settings' folder, namespace, broker and store."""
    s3 = s3_endpoint(config)
    found = {
        "RALO_STATE_DIR": str(config.state_dir),
        "RALO_NAMESPACE": config.namespace,
        "RALO_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap(config),
        "RALO_S3__ENDPOINT": s3.address,
        "RALO_S3__ACCESS_KEY": s3.access_key,
        "RALO_S3__SECRET_KEY": s3.secret_key,
        "RALO_S3__BUCKET": s3.bucket,
        "RALO_S3__SECURE": str(s3.secure).lower(),
        "RALO_S3__REGION": s3.region,
    }
    return {name: value for name, value in found.items() if value}


def _mission() -> Any:
    from infra.cli.swap_offers import POLICY
    from schemas.missions import Reach, RobotMission

    return RobotMission(mission_id="bench", robots={ROBOT: Reach()}, policy=POLICY)


def _text(figures: Mapping[str, Any]) -> str:
    kills = ", ".join(f"{stage} {count}" for stage, count in sorted(figures["kills"].items()))
    lines = [
        f"{figures['swaps']:,} swaps of {figures['offers']:,} offers in {figures['seconds']:.0f} s",
        f"SIGKILLs: {kills or 'none'}",
        f"control steps: {figures['control_steps']:,}, without a command "
        f"{figures['steps_without_command']:,}",
        f"policies that acted: {figures['counts'].get('policies that acted', 0):,}",
        f"breaches: {len(figures['breaches'])}",
        *figures["breaches"][:10],
    ]
    return "\n".join(lines)
