"""Starts a robot's link as a process of its own."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from infra.robot.order import LinkOrder
from infra.robot.uplink import Launch


def launcher(robot_id: str, folder: Path) -> Launch:
    """How to start the link of this robot, on all cores that are allowed now."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def launch(end: socket.socket, next_offset: int | None) -> subprocess.Popen[bytes]:
        order = LinkOrder(robot_id, str(folder), next_offset, cpus)
        text = json.dumps(dataclasses.asdict(order))
        return subprocess.Popen(
            [sys.executable, "-m", "infra.robot.link", str(end.fileno()), text],
            stdin=subprocess.DEVNULL,
            pass_fds=[end.fileno()],
            start_new_session=True,
        )

    return launch
