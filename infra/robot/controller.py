"""Puts a robot's controller together: its epoch, its folder, its releases."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

from infra.envelope import message
from infra.faults import crash_points
from infra.log import Log
from infra.settings import Settings, SettingsError
from infra.store import MissingObject, ObjectStore, StoreUnavailable
from schemas.acting import ControllerClaim
from schemas.live import LiveProcessor
from schemas.robot_file import RobotFile
from schemas.robots import DriverSpec
from schemas.tensors import ObjectRef
from streams.acting.control.controller import Controller
from streams.acting.control.tracker import tracker_ref
from streams.acting.release.admission import Fetch
from streams.acting.release.folder import PolicyFolder
from streams.acting.release.machine import Releases

FETCH_TRIES = 10
FETCH_EVERY_S = 1.0


def make_controller(
    robot: RobotFile, driver: DriverSpec, config: Settings, log: Log, store: ObjectStore
) -> LiveProcessor:
    """The controller of a robot, which claims the robot; raises `LogError`, `SettingsError`."""
    spec = robot.controller
    releases = None
    if spec.policy is not None:
        point = crash_points(os.environ.get("RALO_CRASH_AT"))
        releases = Releases(
            robot.robot_id,
            spec.policy,
            spec.release,
            driver,
            spec.observation,
            tracker_ref(spec),
            PolicyFolder(config.state_dir / "robots" / robot.robot_id / "policy", point),
            patient_fetch(store),
            ThreadPoolExecutor(1, "releases"),
            wall_ms,
            point,
        )
    try:
        return Controller(robot, driver, claim(log, robot, config), releases)
    except ValueError as error:
        raise SettingsError(f"robot {robot.robot_id}: {error}") from error


def claim(log: Log, robot: RobotFile, config: Settings) -> int:
    """Take the robot over: the epoch of this controller is where that lies in the log."""
    name = f"{config.instance or 'controller'}.{os.getpid()}"
    taken = ControllerClaim(robot_id=robot.robot_id, controller_id=name)
    [record] = log.append([message(taken)])
    return record.offset


def patient_fetch(store: ObjectStore, tries: int = FETCH_TRIES) -> Fetch:
    """Gets objects from a store, again where it is away; for a thread that may wait."""

    def fetch(ref: ObjectRef) -> bytes:
        for left in reversed(range(tries)):
            try:
                return store.get(ref)
            except (MissingObject, StoreUnavailable):
                if not left:
                    raise
                time.sleep(FETCH_EVERY_S)
        raise ValueError("a fetch is tried once at least")

    return fetch


def wall_ms() -> float:
    """UTC in milliseconds, to be shown to people."""
    return time.time() * 1000
