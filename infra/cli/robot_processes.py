"""Where a robot's processes are put together: actuator, fusion and controller, each by its file.

The actuator imports no client of broker or store, nor anything that computes with arrays: it is to
be back within a second of its end.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from infra.patience import GaveUp, Patience
from infra.robot.orders import LocalOrders, robot_folder
from infra.robots import RobotFileError, read_robot
from infra.settings import Settings, SettingsError
from schemas.robot_file import RobotFile
from schemas.robots import Driver, DriverError, DriverSpec
from streams.acting.placement import PlacementError, places

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from infra.log import Log
    from infra.robot.spool import Spool
    from infra.robot.uplink import UpLink
    from streams.acting.fusion import SensorFusion
    from streams.acting.loop import ControlLoop
    from streams.acting.pacing import Pacer
    from streams.acting.release.machine import Releases

logger = logging.getLogger("ralo.run")

Stop = threading.Event
CLOSE_S = 6.0
_PAUSE_S = 0.2


def usable(path: Path) -> RobotFile:
    """The robot in a file, its placement checked; raises `SettingsError`."""
    try:
        robot = read_robot(path)
        places(robot.placement)
    except (RobotFileError, PlacementError) as error:
        text = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise SettingsError(text) from error
    return robot


def driver_of(robot: RobotFile, config: Settings) -> Driver:
    """The robot's driver, not connected; raises `SettingsError`."""
    from producers.robots.registry import make_driver

    try:
        return make_driver(robot, config.state_dir / "robots")
    except DriverError as error:
        raise SettingsError(f"robot {robot.robot_id}: {error}") from error


# --- actuator


def run_actuator(robot: RobotFile, config: Settings, stop: Stop, patience_s: float) -> int:
    """Run a robot's control loop until told to stop; its exit status."""
    from infra.instance import try_lock
    from infra.robot.launch import launcher
    from infra.robot.realtime import take_realtime
    from infra.robot.spool import Spool
    from infra.robot.uplink import UpLink
    from streams.acting.loop import ClockWentBack
    from streams.acting.pacing import Pacer

    folder = robot_folder(config, robot.robot_id)
    folder.mkdir(parents=True, exist_ok=True)
    lock = try_lock(folder / "actuator.lock")
    if lock is None:
        raise SettingsError(f"robot {robot.robot_id} has an actuator that runs: stop it first")
    driver = driver_of(robot, config)
    check_watches(robot, driver)
    if not _connect(driver, robot.robot_id, stop, patience_s):
        return 0
    spool, link = Spool(folder), UpLink(launcher(robot.robot_id, folder))
    pacer = Pacer(robot.control_hz, realtime=take_realtime(robot.robot_id))
    loop = build_loop(robot, driver, link, spool, pacer, LocalOrders(folder))
    logger.info("%s: %g Hz, %s", robot.robot_id, robot.control_hz, pacer.realtime)
    try:
        keep_time(loop, pacer, stop)
    except ClockWentBack as error:
        raise GaveUp(f"{robot.robot_id}: {error}") from error
    finally:
        loop.stop()
        if left := link.close(CLOSE_S):
            logger.warning("%s: the log does not have %d feedback events", robot.robot_id, left)
        spool.close()
        lock.close()
    return 0


def keep_time(loop: ControlLoop, pacer: Pacer, stop: Stop) -> None:
    """Period after period, until told to stop; raises `ClockWentBack`."""
    from infra.robot.realtime import Garbage

    garbage = Garbage()
    while not stop.is_set():
        pacer.wait()
        loop.period()
        garbage.between(pacer.left_s)


def build_loop(
    robot: RobotFile,
    driver: Driver,
    link: UpLink,
    spool: Spool,
    pacer: Pacer,
    orders: LocalOrders,
) -> ControlLoop:
    """The control loop of a new life of this robot, in the mode in which the last one ended."""
    from producers.robots.frames import FramePacker
    from streams.acting.actuator import Actuator
    from streams.acting.limits import Limits
    from streams.acting.loop import ControlLoop
    from streams.acting.monitor import SafetyMonitor

    boot_id, spec = uuid.uuid4().hex[:12], robot.safety
    monitor = SafetyMonitor(spec, driver.spec, spool.mode)
    limits = Limits(driver.spec, spec.degraded_factor, spec.brake_mps2)
    actuator = Actuator(robot.robot_id, boot_id, monitor, limits, next_offset=0)
    packer = FramePacker(robot.robot_id, boot_id, robot.frame_hz)
    return ControlLoop(
        actuator,
        driver,
        link,
        spool,
        packer,
        orders,
        pacer.health,
        robot.control_hz,
        robot.feedback_hz,
    )


def check_watches(robot: RobotFile, driver: Driver) -> None:
    """Refuse a safety watch that the driver has no channel for; raises `SettingsError`."""
    from streams.acting.watches import WatchError, watches

    try:
        watches(robot.safety, driver.spec)
    except WatchError as error:
        raise SettingsError(f"robot {robot.robot_id}: {error}") from error


def _connect(driver: Driver, robot_id: str, stop: Stop, patience_s: float) -> bool:
    """Connect, again while the robot does not answer; False when told to stop. Raises `GaveUp`."""
    vain = Patience(robot_id, patience_s).wait("its driver")
    while not stop.is_set():
        try:
            driver.connect()
            return True
        except DriverError as error:
            vain(error)
            time.sleep(_PAUSE_S)
    return False


# --- fusion and controller


def run_fusion(robot: RobotFile, config: Settings, stop: Stop, patience_s: float) -> int:
    """Run a robot's sensor fusion until told to stop; its exit status."""
    from infra.connect import connect_log
    from infra.live_loop import run_live

    run_live(check_fusion(robot), connect_log(config), stop, patience_s)
    return 0


def check_fusion(robot: RobotFile) -> SensorFusion:
    """The fusion of this robot; raises `SettingsError` where it cannot work."""
    from streams.acting.fusion import FusionError, SensorFusion

    try:
        return SensorFusion({robot.robot_id: robot.fusion})
    except FusionError as error:
        raise SettingsError(f"robot {robot.robot_id}: {error}") from error


def run_controller(robot: RobotFile, config: Settings, stop: Stop, patience_s: float) -> int:
    """Claim a robot and run its controller until told to stop; its exit status."""
    from concurrent.futures import ThreadPoolExecutor

    from infra.connect import connect_log
    from infra.live_loop import run_live
    from streams.acting.control.controller import Controller

    log = connect_log(config)
    driver = driver_of(robot, config).spec
    with _sole(robot, config), ThreadPoolExecutor(1, "release") as executor:
        releases = None
        if robot.controller.policy:
            releases = _releases(robot, driver, config, executor, stop)
        epoch = _claim(robot.robot_id, log, patience_s)
        try:
            controller = Controller(robot, driver, epoch, releases)
        except ValueError as error:
            raise SettingsError(f"robot {robot.robot_id}: {error}") from error
        run_live(controller, log, stop, patience_s)
    return 0


def _sole(robot: RobotFile, config: Settings) -> IO[str]:
    """The lock of the robot's folder of policies; raises `SettingsError`."""
    from infra.instance import try_lock

    folder = robot_folder(config, robot.robot_id)
    folder.mkdir(parents=True, exist_ok=True)
    lock = try_lock(folder / "controller.lock")
    if lock is None:
        raise SettingsError(f"robot {robot.robot_id} has a controller on this machine already")
    return lock


def _releases(
    robot: RobotFile, driver: DriverSpec, config: Settings, executor: Executor, stop: Stop
) -> Releases:
    """The way of weight versions into this robot, from where its folder says it is."""
    from infra.connect import connect_store
    from infra.faults import crash_points
    from infra.robot.fetching import patient_fetch
    from streams.acting.control.tracker import tracker_ref
    from streams.acting.release.candidate import Workshop
    from streams.acting.release.folder import PolicyFolder
    from streams.acting.release.machine import Releases

    point = crash_points(os.environ.get("RALO_CRASH_AT"))
    store = executor.submit(connect_store, config)
    folder = PolicyFolder(robot_folder(config, robot.robot_id) / "policies", point)
    spec, fetch = robot.controller, patient_fetch(store.result, sleep=stop.wait)
    shop = Workshop(spec.release, driver, spec.observation, folder, fetch, executor, point)
    assert spec.policy is not None, "asked for only where a policy is followed"
    return Releases(
        robot.robot_id, spec.policy, tracker_ref(spec), shop, lambda: time.time() * 1000
    )


def _claim(robot_id: str, log: Log, patience_s: float) -> int:
    """Claim the robot; the epoch is where the claim lies."""
    from infra.envelope import message
    from schemas.acting import ControllerClaim

    claim = ControllerClaim(robot_id=robot_id, controller_id=uuid.uuid4().hex[:12])
    patience = Patience("controller", patience_s)
    records = patience.until_available("the broker", lambda: log.append([message(claim)]))
    epoch: int = records[0].offset
    logger.info("%s: controller epoch %d", robot_id, epoch)
    return epoch


RUNS: Mapping[str, Callable[[RobotFile, Settings, Stop, float], int]] = {
    "actuator": run_actuator,
    "fusion": run_fusion,
    "controller": run_controller,
}
"""What runs a robot, each a process."""
