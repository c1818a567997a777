"""`ralo ask`: asks a trained version a question."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.histories import history_for
from infra.settings import settings

if TYPE_CHECKING:
    from schemas.missions import Mission


def ask(
    text: Annotated[str, typer.Argument(help="What the mission's prompt is made with: cat.")],
    version: Annotated[int | None, typer.Option(min=0, help="The newest by default.")] = None,
    policy: Annotated[
        str | None, typer.Option(help="RALO_POLICY by default, or the one that learnt last.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Ask a trained version a question; prints its answer alone."""
    found = history_for(policy)
    event = found.kept(max(found.versions) if version is None else version)
    mission = _mission(event.mission_id)
    if mission.acts:
        from consumers.weights import NoSuchVersion

        raise NoSuchVersion(
            f"policy {event.policy} acts in {mission.problems.name}, it has no words: its returns "
            f"are in `ralo mission show {mission.mission_id}`, its files come with "
            f"`ralo weights export {event.version} FOLDER`"
        )
    if sys.stderr.isatty():
        print(f"loading version {event.version} of {event.policy}", file=sys.stderr)
    import torch

    from consumers.answers import ask as answer_of
    from infra.connect import connect_store

    torch.set_num_threads(settings().torch_threads)
    answer = answer_of(connect_store(settings()), event, mission, text)
    print(json.dumps(asdict(answer), ensure_ascii=False) if as_json else answer.answer)


def _mission(mission_id: str) -> Mission:
    """The mission that made the version: how it put its problems; of a repeated id the first."""
    from consumers.read import read
    from consumers.weights import NoSuchVersion
    from schemas.missions import Mission

    for record in read("missions", mission=mission_id):
        if isinstance(record.event, Mission):
            return record.event
    raise NoSuchVersion(f"mission {mission_id!r}, which made this version, is not in the log")
