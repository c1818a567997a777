"""What people put into the log meanwhile: orders, and records that cannot be used."""

from collections.abc import Callable
from functools import partial

from sim_world import World

from infra.log import Message
from schemas.learning import RollbackRequest
from schemas.missions import Mission, MissionControl, Reach, RobotMission

ASKS = 0.5
"""How likely it is that somebody wants something in a seed."""
AGAIN = 0.04
"""The same of a second mission."""


def ask(world: World, mission: Mission, seconds: float) -> list[str]:
    """Have people do something within these seconds; the missions that there will be."""
    missions = [mission.mission_id]
    if world.random.random() < ASKS:
        for _ in range(world.random.randint(1, 3)):
            wish = WISHES[world.random.choice(sorted(WISHES))]
            world.time.call(world.random.uniform(0.0, seconds), partial(wish, world))
    if world.random.random() < AGAIN:
        again = mission.model_copy(update={"mission_id": "again"})
        world.time.call(world.random.uniform(0.0, seconds), lambda: world.submit(again))
        missions.append(again.mission_id)
    return missions


def robot_mission() -> RobotMission:
    """A robot that acts under the policy, so that there is somebody to offer it to."""
    return RobotMission(mission_id="reach", robots={"arm-1": Reach()}, policy="p")


def _rollback(world: World) -> None:
    to = world.random.choice((0, 0, 1, 9))
    world.fault("rollback", f"somebody wants version {to} back")
    world.submit(RollbackRequest(request_id=f"r{world.time.now_s}", policy="p", to_version=to))


def _rubbish(world: World) -> None:
    # Not to samples: there it may be what became of a group, so it settles a problem.
    topic = world.random.choice(("missions", "problems", "gradient-chunks"))
    world.fault("rubbish", f"somebody writes rubbish to {topic}")
    world.log.append([Message(topic, b"p", b"{no event")])


def _control(action: str, mission_id: str = "m") -> Callable[[World], None]:
    def wish(world: World) -> None:
        world.fault(action, f"somebody says {action} of mission {mission_id}")
        world.submit(MissionControl.model_validate({"mission_id": mission_id, "action": action}))
        if action == "pause":
            world.time.call(2.0, lambda: _control("resume")(world))

    return wish


WISHES: dict[str, Callable[[World], None]] = {
    "rollback": _rollback,
    "rubbish": _rubbish,
    "pause": _control("pause"),
    "cancel": _control("cancel"),
    "end": _control("end"),
    "unknown": _control("end", "nobody"),
}
