"""The physics of a world's rovers: one MuJoCo model, in which they collide and see each other."""

import math
from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from producers.robots import mjcf
from schemas.worlds import World

CONTACT_PAUSE_S = 0.5
"""Touching the same thing again within this time is the same contact."""


class Arena:
    """The model, stepped; its rovers by name."""

    def __init__(self, world: World, step_ms: float | None = None, movable: bool = False) -> None:
        self.world, self.step_ms = world, step_ms or world.step_ms
        self.model = mujoco.MjModel.from_xml_string(mjcf.arena(world, self.step_ms, movable))
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        self.rovers = {name: RoverBody(self, name) for name in world.rovers}
        self._hard = np.array([self._is_hard(i) for i in range(self.model.ngeom)])

    def _is_hard(self, geom: int) -> bool:
        return bool(self.model.geom_contype[geom] & 2)

    def step(self, count: int = 1) -> None:
        """Advance the physics by so many steps; contacts and mean accelerations are of the last."""
        mujoco.mj_step(self.model, self.data, count)
        for rover in self.rovers.values():
            rover.note()
        if self.data.ncon:
            self._note_contacts()

    def _note_contacts(self) -> None:
        pairs = self.data.contact.geom[: self.data.ncon]
        hard = self._hard[pairs].all(axis=1)
        if hard.any():
            for pair in pairs[hard]:
                for rover in self.rovers.values():
                    rover.touch(pair, self.data.time)

    def settle(self, seconds: float = 0.25) -> None:
        """Let everything come to rest on the floor, as if nothing had happened yet."""
        self.step(round(seconds * 1000 / self.step_ms))
        for rover in self.rovers.values():
            rover.forget()

    def reset(self) -> None:
        """Everything as at the start."""
        mujoco.mj_resetData(self.model, self.data)
        for rover in self.rovers.values():
            rover.forget()
        mujoco.mj_forward(self.model, self.data)


class RoverBody:
    """One rover in an arena: what moves it, where it is, what it could measure without errors."""

    def __init__(self, arena: Arena, name: str) -> None:
        self.name, self.body = name, arena.world.body(name)
        self._arena, model = arena, arena.model
        self._id = model.body(name).id
        joint = model.joint(name)
        self._at, self._moves = int(joint.qposadr[0]), int(joint.dofadr[0])
        self._motors = [model.actuator(f"{name}.{side}").id for side in ("left", "right")]
        self._sensed = slice(model.sensor(f"{name}.gyro").adr[0], None)
        self._sensed = slice(self._sensed.start, self._sensed.start + 12)
        self._chassis = model.geom(f"{name}.chassis").id
        self._seen = np.array([group != mjcf.WHEEL_GROUP for group in range(6)], np.uint8)
        self._fan = np.array(self.body.scan_rad)
        self.forget()

    def forget(self) -> None:
        """No contacts so far, nothing measured."""
        self.contacts, self._touched = 0, dict[int, float]()
        self._sum, self._count = np.zeros(6), 0

    def place(self, x: float, y: float, heading: float) -> None:
        """Put it there at rest; call `mujoco.mj_forward` after."""
        q = self._arena.data.qpos[self._at : self._at + 7]
        q[:] = (x, y, self.body.wheel_radius_m, math.cos(heading / 2), 0, 0, math.sin(heading / 2))

    def drive(self, v_mps: float, yaw_rate_radps: float) -> None:
        """Have the motors turn the wheels as for this speed, by what odometry believes of them."""
        turn, r = yaw_rate_radps * self.body.track_m / 2, self.body.wheel_radius_m
        self._arena.data.ctrl[self._motors] = ((v_mps - turn) / r, (v_mps + turn) / r)

    def pose(self) -> tuple[float, float, float]:
        """Truth: x, y, heading."""
        x, y, _, w, i, j, k = self._arena.data.qpos[self._at : self._at + 7].tolist()
        return x, y, math.atan2(2 * (w * k + i * j), 1 - 2 * (j * j + k * k))

    def twist(self) -> tuple[float, float]:
        """Truth: forward speed and yaw rate."""
        vx, vy, _, _, _, wz = self._arena.data.qvel[self._moves : self._moves + 6].tolist()
        heading = self.pose()[2]
        return vx * math.cos(heading) + vy * math.sin(heading), wz

    def note(self) -> None:
        """Add this step to the mean that the IMU reports, as its filter does."""
        self._sum += self._arena.data.sensordata[self._sensed][:6]
        self._count += 1

    def imu(self) -> list[float]:
        """Angular velocity and specific force, means since the last call; orientation now."""
        sensed = self._arena.data.sensordata[self._sensed]
        mean = self._sum / self._count if self._count else sensed[:6]
        self._sum, self._count = np.zeros(6), 0
        return [*mean.tolist(), *sensed[6:10].tolist()]

    def odometry(self) -> list[float]:
        """Forward speed and yaw rate by the wheels."""
        left, right = self._arena.data.sensordata[self._sensed][10:12].tolist()
        r = self.body.wheel_radius_m
        return [(left + right) * r / 2, (right - left) * r / self.body.track_m]

    def scan(self) -> list[float]:
        """Distances from the axle's middle to what stands around, in the fan's directions."""
        model, data = self._arena.model, self._arena.data
        x, y, heading = self.pose()
        rays = np.zeros((len(self._fan), 3))
        rays[:, 0], rays[:, 1] = np.cos(self._fan + heading), np.sin(self._fan + heading)
        met, distance = np.empty(len(rays), np.int32), np.empty(len(rays))
        eye, far = np.array([x, y, mjcf.SCAN_HEIGHT_M]), self.body.scan_max_m
        mujoco.mj_multiRay(
            model, data, eye, rays.ravel(), self._seen, 1, self._id, met, distance, None,
            len(rays), far,
        )  # fmt: skip
        nearest: NDArray[np.float64] = np.where(distance < 0, far, np.minimum(distance, far))
        out: list[float] = nearest.tolist()
        return out

    def touch(self, pair: Sequence[int], time_s: float) -> None:
        """Count a contact of the two geoms, where one is this rover's and it is a new one."""
        first, second = int(pair[0]), int(pair[1])
        if self._chassis not in (first, second):
            return
        other = second if first == self._chassis else first
        before = self._touched.get(other)
        self._touched[other] = time_s
        if before is None or time_s - before > CONTACT_PAUSE_S:
            self.contacts += 1
