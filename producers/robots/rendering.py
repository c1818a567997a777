"""Pictures of a world from above, where this machine can draw without a screen.

MuJoCo draws by EGL or by OSMesa, whichever it is told before it is imported. So whether it can is
tried in a process of its own, which may fail or crash without harm.
"""

import functools
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.worlds import World

BACKENDS = ("egl", "osmesa")
_PROBE = (
    "import mujoco; m = mujoco.MjModel.from_xml_string('<mujoco/>'); "
    "r = mujoco.Renderer(m, 16, 16); r.update_scene(mujoco.MjData(m)); r.render(); r.close()"
)
_PROBE_S = 30.0

Pixels = NDArray[np.uint8]


class CannotRender(Exception):
    """This machine cannot draw; says why."""


@functools.cache
def backend() -> str:
    """The first backend that can draw here; raises `CannotRender`."""
    chosen, reasons = os.environ.get("MUJOCO_GL"), []
    for name in (chosen,) if chosen in BACKENDS else BACKENDS:
        if (reason := _failure(name)) is None:
            return name
        reasons.append(f"{name}: {reason}")
    raise CannotRender(f"no picture from the simulator: {'; '.join(reasons)}")


def _failure(name: str) -> str | None:
    """Why a backend cannot draw; None where it can."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": name},
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if tried.returncode == 0:
        return None
    said = tried.stderr.strip().splitlines()
    return said[-1] if said else f"ended with status {tried.returncode}"


class View:
    """A world from above, with its robots wherever they are said to be.

    Make it before mujoco is imported otherwise: what MuJoCo draws by is decided then.
    Raises `CannotRender`.
    """

    def __init__(self, world: World, width: int = 480, height: int = 480) -> None:
        prepare()
        self._scene = _ArenaScene(world) if world.rovers else _ArmScene(world)
        self._renderer = _renderer(self._scene.model, width, height)

    def picture(self, at: Mapping[str, Sequence[float]]) -> Pixels:
        """uint8 [height, width, 3]; rovers at (x, y, heading), an arm at (q1, q2, target x, y)."""
        self._scene.place(at)
        self._renderer.update_scene(self._scene.data, self._scene.camera)
        pixels: Pixels = self._renderer.render()
        return pixels

    def png(self, at: Mapping[str, Sequence[float]]) -> bytes:
        """The same as a PNG file."""
        return png(self.picture(at))

    def close(self) -> None:
        """Let go of the graphics."""
        self._renderer.close()


class _ArenaScene:
    def __init__(self, world: World) -> None:
        from producers.robots.arena import Arena

        self._arena = Arena(world)
        self.model, self.data, self.camera = self._arena.model, self._arena.data, "top"

    def place(self, at: Mapping[str, Sequence[float]]) -> None:
        import mujoco

        for name, rover in self._arena.rovers.items():
            if name in at:
                rover.place(*at[name][:3])
        mujoco.mj_forward(self.model, self.data)


class _ArmScene:
    """The first arm of a world: arms stand in worlds of their own."""

    def __init__(self, world: World) -> None:
        import mujoco

        from producers.robots.reacher import Reacher

        self._name, arm = next(iter(world.arms.items()))
        reacher = Reacher(arm)
        self.model, self.data = reacher.model, reacher.data
        self.camera = mujoco.MjvCamera()
        self.camera.lookat[:] = (0.0, 0.0, 0.0)
        self.camera.distance, self.camera.elevation, self.camera.azimuth = 0.85, -90.0, 90.0

    def place(self, at: Mapping[str, Sequence[float]]) -> None:
        import mujoco

        if self._name in at:
            self.data.qpos[:] = at[self._name][:4]
        mujoco.mj_forward(self.model, self.data)


def _renderer(model: Any, width: int, height: int) -> Any:
    import mujoco

    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # whatever the backend's binding raises
        raise CannotRender(f"no picture from the simulator: {error}") from error


def prepare() -> str:
    """Have MuJoCo draw by a backend that can, in this process; raises `CannotRender`."""
    name = backend()
    if "mujoco" in sys.modules and os.environ.get("MUJOCO_GL") != name:
        raise CannotRender(
            f"mujoco was imported before it was told to draw by {name}: set MUJOCO_GL={name}"
        )
    os.environ["MUJOCO_GL"] = name
    return name


def png(pixels: Pixels) -> bytes:
    """The picture as a PNG file: 8 bits a channel, RGB, no filter (ISO/IEC 15948)."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
