"""The MuJoCo model of a world with rovers, as MJCF text: our own rover, walls, obstacles, beacons.

Chassis, walls and obstacles collide with each other; wheels and casters touch the floor alone.
A rover's frame is at the middle of its axle, x forward.
"""

import math
from collections.abc import Iterator

from schemas.worlds import Box, Cylinder, Rover, World

SCAN_HEIGHT_M = 0.15
"""Above the floor: within every chassis, so rovers see each other."""

_WALL_M = 0.1
_HEIGHT_M = 0.5
_FOVY_DEG = 45
"""In degrees, whatever the compiler's unit of angles is."""
_KV = 5.0
_TORQUE_MAX = 2.5
"""With this much it brakes hard, and does not tip over its wheels."""

WHEEL_GROUP = 2
"""Geoms of this group no ray of the scan meets: a rover would see its own wheels."""


def arena(world: World, step_ms: float, movable: bool = False) -> str:
    """The whole model; `movable` obstacles are mocap bodies, which an environment may set anew."""
    return f"""<mujoco model="{world.name}">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{step_ms / 1000}" integrator="implicitfast" cone="elliptic"/>
  <visual>
    <global offwidth="1280" offheight="1280"/>
    <headlight ambient=".5 .5 .5" diffuse=".1 .1 .1" specular="0 0 0"/>
  </visual>
  <asset>
    <texture name="grid" type="2d" builtin="checker" width="256" height="256"
      rgb1=".86 .87 .88" rgb2=".80 .81 .83"/>
    <material name="floor" texture="grid" texrepeat="1 1" texuniform="true"/>
  </asset>
  <default>
    <default class="floor"><geom contype="1" conaffinity="0"/></default>
    <default class="solid"><geom contype="2" conaffinity="2" friction=".6 .005 .0001"/></default>
    <default class="tyre">
      <geom contype="0" conaffinity="1" group="{WHEEL_GROUP}" friction="1.2 .005 .0001"/>
    </default>
  </default>
  <worldbody>
    <light pos="{_middle(world)} 12" dir=".2 .3 -1" directional="true" diffuse=".4 .4 .4"/>
    {_top_camera(world)}
    <geom class="floor" type="plane" size="0 0 1" material="floor"/>
    {"".join(_walls(world))}
    {"".join(_obstacles(world, movable))}
    {"".join(_beacons(world))}
    {"".join(_rover(name, i, world) for i, name in enumerate(world.rovers))}
  </worldbody>
  <actuator>{"".join(_motors(name, world.body(name)) for name in world.rovers)}</actuator>
  <sensor>{"".join(_sensors(name) for name in world.rovers)}</sensor>
</mujoco>"""


def _middle(world: World) -> str:
    return f"{(world.low[0] + world.high[0]) / 2} {(world.low[1] + world.high[1]) / 2}"


def _top_camera(world: World) -> str:
    span = max(world.high[0] - world.low[0], world.high[1] - world.low[1])
    height = span / 2 / math.tan(math.radians(_FOVY_DEG / 2)) * 1.05
    return f'<camera name="top" pos="{_middle(world)} {height}" fovy="{_FOVY_DEG}"/>'


def _walls(world: World) -> Iterator[str]:
    (x0, y0), (x1, y1) = world.low, world.high
    half = ((x1 - x0) / 2, (y1 - y0) / 2)
    out = _WALL_M / 2
    for name, x, y, dx, dy in (
        ("west", x0 - out, (y0 + y1) / 2, out, half[1] + _WALL_M),
        ("east", x1 + out, (y0 + y1) / 2, out, half[1] + _WALL_M),
        ("south", (x0 + x1) / 2, y0 - out, half[0] + _WALL_M, out),
        ("north", (x0 + x1) / 2, y1 + out, half[0] + _WALL_M, out),
    ):
        yield (
            f'<geom name="wall/{name}" class="solid" type="box" pos="{x} {y} {_HEIGHT_M / 2}" '
            f'size="{dx} {dy} {_HEIGHT_M / 2}" rgba=".45 .47 .5 1"/>'
        )


def _obstacles(world: World, movable: bool) -> Iterator[str]:
    for i, obstacle in enumerate(world.obstacles):
        x, y = obstacle.at
        yield (
            f'<body name="obstacle/{i}" pos="{x} {y} {_HEIGHT_M / 2}" '
            f'mocap="{"true" if movable else "false"}">{_shape(obstacle, i)}</body>'
        )


def _shape(obstacle: Cylinder | Box, i: int) -> str:
    looks = f'name="obstacle/{i}" class="solid" rgba=".75 .42 .25 1"'
    if isinstance(obstacle, Cylinder):
        return f'<geom {looks} type="cylinder" size="{obstacle.radius_m} {_HEIGHT_M / 2}"/>'
    dx, dy = obstacle.size_m
    turn = f'axisangle="0 0 1 {obstacle.heading_rad}"'
    return f'<geom {looks} type="box" size="{dx / 2} {dy / 2} {_HEIGHT_M / 2}" {turn}/>'


def _beacons(world: World) -> Iterator[str]:
    for number, (x, y) in world.beacons.items():
        yield (
            f'<site name="beacon/{number}" pos="{x} {y} {_HEIGHT_M}" type="sphere" size=".12" '
            'rgba=".2 .5 .9 1"/>'
        )


_COLOURS = (".15 .55 .35 1", ".55 .25 .6 1", ".85 .65 .1 1", ".2 .4 .75 1", ".8 .25 .3 1")


def _rover(name: str, i: int, world: World) -> str:
    """One rover; its tyres are as large as they really are, not as odometry believes."""
    body, (x, y, heading) = world.body(name), world.rovers[name].start
    r, half = body.wheel_radius_m, body.track_m / 2
    real = [r * (1 + error) * (1 - body.slip) for error in body.wheel_error]
    return f"""
    <body name="{name}" pos="{x} {y} {r}" euler="0 0 {heading}">
      <freejoint name="{name}"/>
      <site name="{name}" pos="0 0 0"/>
      <geom name="{name}.chassis" type="box" size=".22 {half + 0.04} .06" pos="-.06 0 .03"
        mass="{body.mass_kg * 0.9}" contype="2" conaffinity="3" friction=".6 .005 .0001"
        rgba="{_COLOURS[i % len(_COLOURS)]}"/>
      <geom type="box" size=".05 .03 .02" pos=".08 0 .11" mass="0" contype="0" conaffinity="0"
        group="{WHEEL_GROUP}" rgba=".95 .95 .95 1"/>
      <geom class="tyre" size=".03" pos="-.24 0 {0.03 - r}" mass=".01" condim="1" priority="1"/>
      {_wheel(f"{name}.left", half, real[0], r, body)}
      {_wheel(f"{name}.right", -half, real[1], r, body)}
    </body>"""


def _wheel(name: str, y: float, real: float, nominal: float, body: Rover) -> str:
    # A sphere for the floor rolls on one point; the drum is what one sees. The axle is lowered or
    # raised so that a wheel that is too large or too small stands on the floor as well.
    return f"""
      <body name="{name}" pos="0 {y} {real - nominal}">
        <joint name="{name}" type="hinge" axis="0 1 0" armature=".002" damping=".02"/>
        <geom class="tyre" type="sphere" size="{real}" mass="{body.mass_kg * 0.05}" rgba="0 0 0 0"/>
        <geom type="cylinder" size="{real} .02" euler="{math.pi / 2} 0 0" mass="0" contype="0"
          conaffinity="0" group="{WHEEL_GROUP}" rgba=".1 .1 .1 1"/>
      </body>"""


def _motors(name: str, body: Rover) -> str:
    fast = 1.5 * (body.v_max_mps + body.yaw_rate_max_radps * body.track_m) / body.wheel_radius_m
    return "".join(
        f'<velocity name="{name}.{side}" joint="{name}.{side}" kv="{_KV}" '
        f'ctrlrange="{-fast} {fast}" forcerange="{-_TORQUE_MAX} {_TORQUE_MAX}"/>'
        for side in ("left", "right")
    )


def _sensors(name: str) -> str:
    return (
        f'<gyro name="{name}.gyro" site="{name}"/>'
        f'<accelerometer name="{name}.accelerometer" site="{name}"/>'
        f'<framequat name="{name}.quat" objtype="site" objname="{name}"/>'
        f'<jointvel name="{name}.left" joint="{name}.left"/>'
        f'<jointvel name="{name}.right" joint="{name}.right"/>'
    )
