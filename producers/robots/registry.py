"""Drivers by name: the entry points `ralo.drivers`, functions of a robot's file and of a folder.

The folder is where worlds on this machine have their sockets. The driver that they answer knows
what it is, its `spec`; it is not connected yet.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from pydantic import ValidationError

from schemas.robot_file import RobotFile
from schemas.robots import Driver, DriverError

GROUP = "ralo.drivers"
Factory = Callable[[RobotFile, Path], Driver]


def make_driver(robot: RobotFile, robots_dir: Path) -> Driver:
    """The driver that a robot's file names, not connected; raises `DriverError`."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    name = robot.driver.name
    if name not in found:
        raise DriverError(f"driver.name: {name}: there are {', '.join(sorted(found)) or 'none'}")
    factory: Factory = found[name].load()
    try:
        return factory(robot, robots_dir)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, ('driver', 'args', *e['loc'])))}: {e['msg']}"
            for e in error.errors(include_url=False, include_input=False)
        )
        raise DriverError(wrong) from error
