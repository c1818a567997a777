"""Where the processors of a robot run, by profile; what must stay on the robot stays there."""

from collections.abc import Mapping

from schemas.robot_file import Place, Placement

ON_ROBOT = ("actuator", "safety")
REASON = "a stop must not wait for a network, so loop and safety run beside the driver"
PROFILES: Mapping[str, Mapping[str, Place]] = {
    "single_robot": {
        "actuator": "robot",
        "safety": "robot",
        "fusion": "robot",
        "controller": "robot",
        "recorder": "robot",
    },
}
"""The profiles that exist: broker and all processors on the robot's own machine."""


class PlacementError(ValueError):
    """A robot's file puts a processor where it cannot run; says why and what can be done."""


def places(placement: Placement) -> dict[str, Place]:
    """Where each processor runs; raises `PlacementError`."""
    away = {name: place for name, place in placement.at.items() if place != "robot"}
    if moved := [name for name in ON_ROBOT if name in away]:
        raise PlacementError(f"placement.at: {' and '.join(moved)} off the robot: {REASON}")
    if placement.profile not in PROFILES:
        raise PlacementError(
            f"placement.profile {placement.profile!r} does not exist yet; there is "
            f"{', '.join(PROFILES)}: broker and all processors on the robot's own machine"
        )
    if away:
        named = ", ".join(f"{name}: {place}" for name, place in away.items())
        raise PlacementError(
            f"placement.at: {named}: profile {placement.profile} has one machine, the "
            "robot's; profiles with several do not exist yet"
        )
    return dict(PROFILES[placement.profile])
