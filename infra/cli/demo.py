"""`ralo demo`: a language model gets better on problems nobody here wrote, in minutes.

`ralo demo arm` and `ralo demo rovers` are demos of their own, beside this one.
"""

import contextlib
import json
import os
import platform
import sys
import time
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli import PLAIN, live, on
from infra.cli.demo_arm import arm
from infra.cli.demo_rovers import rovers
from infra.cli.demo_stack import bring_up, undisturbed
from infra.cli.stack import say
from infra.connect import connect_log, connect_store
from infra.log import LogError
from infra.settings import Settings, settings
from producers.missions import publish
from schemas.missions import Mission, MissionControl, MissionResult, parse_mission

if TYPE_CHECKING:
    from consumers.audit import AuditReport
    from consumers.progress import Progress
    from infra.log import Log

MISSIONS = Path(__file__).resolve().parents[2] / "examples" / "missions"


class Algorithm(StrEnum):
    """The algorithms that the demo has settings for."""

    grpo = "grpo"
    treepo = "treepo"


app = typer.Typer(**PLAIN)
app.command()(arm)
app.command()(rovers)

FILES = {Algorithm.grpo: "spell.yaml", Algorithm.treepo: "spell-treepo.yaml"}


@app.callback(invoke_without_command=True)
def demo(
    context: typer.Context,
    report: Annotated[
        Path | None, typer.Option(help="Write the figures to this JSON file.")
    ] = None,
    algorithm: Annotated[Algorithm, typer.Option(help="How to learn.")] = Algorithm.grpo,
    samplers: Annotated[
        int | None, typer.Option(min=1, help="Sampler processes; by default as `ralo scale` says.")
    ] = None,
    trainers: Annotated[
        int | None, typer.Option(min=1, help="Trainer processes; by default as `ralo scale` says.")
    ] = None,
    versions: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many weight versions.")
    ] = None,
) -> None:
    """Start everything, teach a tiny GPT-2 to spell backward, show it learn, balance the books.

    What runs already is used. Ctrl-C pauses the mission and stops what was started for it; `ralo
    up` and `ralo mission resume` go on from the last version.
    """
    if context.invoked_subcommand is not None:
        return
    began = time.monotonic()
    config = settings()
    mission = _mission(algorithm, versions, config.policy if on.is_elsewhere() else None)
    undo = contextlib.ExitStack()
    try:
        bring_up(config, {"sampler": samplers, "trainer": trainers}, undo)
        log = connect_log(config)
        start = live.ends(log)
        undo.callback(_pause, log, mission)
        publish(log, mission)
        say(f"submitted mission {mission.mission_id}; preparing problems and model")
        setup_s = time.monotonic() - began
        progress = live.watch(log, mission.mission_id, start)
    except KeyboardInterrupt:
        with undisturbed():
            say("\ninterrupted")
            undo.close()
        raise typer.Exit(130) from None
    books = _audit(config, log, mission)
    figures = _figures(log, mission, progress, books) | {"setup_seconds": round(setup_s, 1)}
    if report is not None:
        report.write_text(json.dumps(figures, indent=2) + "\n")
    _tell(figures, mission, books, report)
    if not books.ok or progress.stage not in ("target", "budget"):
        raise typer.Exit(1)


def _mission(algorithm: Algorithm, versions: int | None, policy: str | None) -> Mission:
    import yaml

    document = yaml.safe_load((MISSIONS / FILES[algorithm]).read_text())
    name = f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    if versions is not None:
        document["budget"] = {"versions": versions}
    return parse_mission({**document, "mission_id": name, "policy": policy or name})


def _pause(log: "Log", mission: Mission) -> None:
    up = "" if on.is_elsewhere() else "./ralo up && "
    say(f"pausing the mission: {up}{_ralo()} mission resume {mission.mission_id} goes on")
    control = MissionControl(mission_id=mission.mission_id, action="pause", reason="Ctrl-C")
    try:
        publish(log, control)
    except LogError as error:
        say(f"it is not paused, `ralo up` alone will go on: {error}")


def _audit(config: Settings, log: "Log", mission: Mission) -> "AuditReport":
    from consumers.audit.log import audit_log
    from consumers.audit.store import StoreChecker

    say("balancing the books")
    return audit_log(log, StoreChecker(connect_store(config)), policy=mission.policy)


def _figures(
    log: "Log", mission: Mission, progress: "Progress", books: "AuditReport"
) -> dict[str, Any]:
    result = _result(log, mission)
    seconds = progress.elapsed_s
    return {
        "mission": mission.mission_id,
        "algorithm": mission.algorithm.name,
        "outcome": progress.stage,
        "reason": progress.reason,
        "seconds": round(seconds, 1),
        "heldout_before": result.heldout_before,
        "heldout_after": result.heldout_after,
        "problems": progress.problems,
        "samples": progress.samples,
        "weight_versions": progress.versions,
        "samples_per_s": round(progress.samples / seconds, 1) if seconds else None,
        "versions_per_s": round(progress.versions / seconds, 2) if seconds else None,
        "dropped_groups": sum(progress.dropped.values()),
        "refused_uploads": sum(progress.refused.values()),
        "unused_share": books.unused_share,
        "audit": {
            "lost": books.lost,
            "duplicated": books.duplicated,
            "bad_refs": books.bad_refs,
            "ok": books.ok,
        },
        "heldout": [(point.version, point.value) for point in progress.heldout],
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
    }


def _result(log: "Log", mission: Mission) -> MissionResult:
    from consumers.read import read

    for record in read("mission-results", log=log, mission=mission.mission_id):
        if isinstance(record.event, MissionResult):
            return record.event
    raise RuntimeError(f"mission {mission.mission_id} has no result")


def _tell(
    figures: dict[str, Any], mission: Mission, books: "AuditReport", report: Path | None
) -> None:
    before, after = figures["heldout_before"], figures["heldout_after"]
    if _failed(figures):
        print(f"the mission ended as {figures['outcome']}: {figures['reason']}", file=sys.stderr)
        return
    print(
        f"\nheld-out words spelt backward without a mistake: {before:.0%} before, {after:.0%} after"
        f"\n{figures['weight_versions']:,} weight versions from {figures['samples']:,} samples in "
        f"{figures['seconds']:.0f} s ({figures['samples_per_s']:,.0f} samples/s, "
        f"{figures['versions_per_s']:.1f} versions/s)"
        f"\nbooks: lost {books.lost}, duplicated {books.duplicated}, bad references "
        f"{books.bad_refs}"
    )
    if report is not None:
        print(f"figures: {report}")
    policy = mission.policy
    print(
        "\nTry next:"
        f"\n  {_ralo()} ask cat --policy {policy}"
        f"\n  {_ralo()} ask cat --policy {policy} --version 0"
        f"\n  {_ralo()} weights list --policy {policy}"
        f"\n  {_ralo()} audit"
        f"\n  {'docker compose' if on.is_elsewhere() else _ralo()} down"
    )


def _ralo() -> str:
    return "./ralo --on compose" if on.is_elsewhere() else "./ralo"


def _failed(figures: dict[str, Any]) -> bool:
    return figures["heldout_before"] is None or figures["heldout_after"] is None
