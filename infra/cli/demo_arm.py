"""`ralo demo arm`: an arm that never stops gets better as its policy is learnt and swapped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.stack import say

if TYPE_CHECKING:
    from consumers.robots_view import RobotsView, RobotView
    from infra.log import Log
    from infra.settings import Settings
    from schemas.missions import Mission

GOAL = -9.0
"""The mean return at which the demo ends well: random torques give about -42, stillness -13."""
EPISODES = 10
"""What a mean return is over at least; an episode takes a second."""


def arm(
    report: Annotated[
        Path | None, typer.Option(help="Write the figures to this JSON file.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Learn for so long at most.")] = 180.0,
) -> None:
    """Start a simulated arm, learn to move it, and swap what was learnt into it while it moves.

    What runs already is used. Ctrl-C ends the mission and stops what was started for it.
    """
    from infra.cli.demo_stack import on_a_stack

    _tell(on_a_stack(lambda config, log: _learn(config, log, seconds)), report)


def _learn(config: Settings, log: Log, seconds: float) -> dict[str, Any]:
    from infra.cli import demo_robots
    from schemas.missions import Reach, RobotMission

    examples = demo_robots.EXAMPLES
    name = demo_robots.mission_name("arm")
    # A robot of its own, for one keeps its policy over missions.
    files = demo_robots.files_for(config, examples / "robots" / "arm.yaml", [name], name)
    world = demo_robots.world_for(config, examples / "worlds" / "arm.yaml", "arms", [name])
    learning = _learning(name)
    moving = RobotMission(mission_id=f"{name}-moves", robots={name: Reach()}, policy=name)
    with (
        demo_robots.running(config, log, files, world) as (view, start),
        demo_robots.submitted(log, moving),
        demo_robots.submitted(log, learning),
    ):
        elapsed_s, resets = _until_good(log, view, start, name, seconds)
    say("reading the log")
    figures = demo_robots.figures(log, moving.mission_id, start, [name])
    told = {"policy": name, "seconds": round(elapsed_s, 1), "resets": resets}
    return figures | told | _returns(figures["robots"][name], name)


def _learning(policy: str) -> Mission:
    from infra.cli import demo_robots
    from infra.cli.mission_file import load_mission
    from schemas.missions import Mission

    path = demo_robots.EXAMPLES / "missions" / "arm-reach.yaml"
    mission = load_mission(path, mission_id=policy, overrides=[f"policy={policy}"])
    assert isinstance(mission, Mission)
    return mission


def _until_good(
    log: Log, view: RobotsView, start: Any, name: str, seconds: float
) -> tuple[float, int]:
    """Watch until what acts is good or the time is over; seconds since version 0 acted, resets."""
    from infra.cli import demo_robots, robots_live

    began: demo_robots.Deadline | None = None
    operator = demo_robots.Operator(log)

    def over(view: RobotsView) -> bool:
        nonlocal began
        operator.look(view)
        robot = view.robots[name]
        acts = robot.policy is not None and robot.policy.policy == name
        if began is None and acts:
            began = demo_robots.Deadline(seconds)
        return began is not None and (began.over() or (acts and is_good(robot)))

    robots_live.watch(log, view, start, over, extra=lambda: _line(view.robots[name]))
    return began.elapsed_s() if began else 0.0, operator.resets


def is_good(robot: RobotView) -> bool:
    """Whether the version that acts has shown, for long enough, what is wanted."""
    newest = robot.returns.get(robot.acting, [])[-EPISODES:]
    return len(newest) == EPISODES and sum(newest) / EPISODES > GOAL


def _line(robot: RobotView) -> str:
    means = [sum(r) / len(r) for r in robot.returns.values()]
    return "mean return by version: " + " ".join(f"{mean:.0f}" for mean in means[-20:])


def _returns(row: dict[str, Any], policy: str) -> dict[str, Any]:
    """The mean return of what acted first and of what acted last, and whether that is enough."""
    versions = [v for v in row["versions"] if v["policy"] == policy and v["episodes"] > 0]
    before = versions[0]["mean_return"] if versions else None
    last = (row["acting"] or {}).get("version")
    after = next((v["mean_return"] for v in versions if v["version"] == last), None)
    good = after is not None and after > GOAL
    return {"return_before": before, "return_after": after, "ok": good}


def _tell(figures: dict[str, Any], report: Path | None) -> None:
    from infra.cli import demo_robots

    demo_robots.write(figures, report)
    row = figures["robots"][figures["policy"]]
    before, after = figures["return_before"], figures["return_after"]
    if before is None or after is None:
        print("no policy came to act long enough: `ralo logs` says why")
        raise typer.Exit(1)
    print(
        f"\nmean return of the policy that acts: {before:.1f} at first, {after:.1f} at the end, "
        f"{figures['seconds']:.0f} s later\n{row['swaps']} swaps into the moving arm, "
        f"{row['rollbacks']} rolled back, {row['longest_gap_ms']:.0f} ms between two commands at "
        "most"
    )
    if not figures["ok"]:
        raise typer.Exit(1)
