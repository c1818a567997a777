"""What-ifs of learning: recorded samples learnt from again in a sandbox, curves side by side."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consumers.whatif.errors import BadWhatIf
from infra.cli.stack import say
from infra.cli.whatif import Progress
from infra.settings import Settings, settings

if TYPE_CHECKING:
    from rich.table import Table

    from consumers.selection import Selection
    from consumers.whatif.changes import Changed
    from consumers.whatif.outcome import Comparison, Outcome
    from consumers.whatif.recorded import Recorded
    from schemas.learning import Evaluation
    from schemas.missions import Mission


def learning(
    selection: Selection, changes: Mapping[str, Any], sandbox: str | None, as_json: bool
) -> None:
    """Play a mission's recorded samples through trainer, aggregator and evaluator; print both."""
    from consumers.whatif.recorded import gather
    from infra import sandbox as sandboxes
    from infra.connect import connect_log, connect_store

    mission_id, config = _mission_of(selection), settings()
    recorded = gather(connect_log(config), connect_store(config), mission_id, say)
    changed = change(recorded.mission, changes)
    name = sandbox or _free(sandboxes.sandboxes(config), f"whatif-{mission_id}")
    inside = sandboxes.provision(config, name)
    found, seconds = _play(recorded, changed.mission, inside)
    facts = _facts(recorded, changed, inside.namespace, seconds)
    if as_json:
        print(json.dumps({**facts, **found.to_json()}, indent=2))
    else:
        _show(found, facts)


def change(mission: Mission, changes: Mapping[str, Any]) -> Changed:
    """The mission with these changes; raises `BadWhatIf` naming the field to mend."""
    from pydantic import ValidationError

    from consumers.whatif.changes import changed

    try:
        return changed(mission, changes)
    except ValidationError as error:
        raise BadWhatIf("; ".join(_readable(error))) from None


def _readable(error: Any) -> Iterator[str]:
    from infra.cli.mission_file import near
    from schemas.missions import Mission

    prefix = [] if error.title == Mission.__name__ else ["algorithm", "settings"]
    for one in error.errors(include_url=False):
        place = [*prefix, *map(str, one["loc"])]
        unknown = one["type"] == "extra_forbidden"
        hint = "" if prefix else near(Mission, place)
        text = f"no such field{hint}" if unknown else one["msg"].removeprefix("Value error, ")
        yield f"{'.'.join(place)}: {text}"


def _mission_of(selection: Selection) -> str:
    if selection.mission is None:
        raise BadWhatIf("whose samples? Say --mission; `ralo mission list` shows them")
    if selection.where or selection.key or selection.headers:
        raise BadWhatIf("a what-if of learning takes all of a mission's samples: leave filters out")
    return selection.mission


def _free(taken: list[str], name: str) -> str:
    """The first name of its kind that no sandbox has."""
    name = "".join(c if c.isalnum() or c in "_-" else "-" for c in name)[:56]
    numbers = iter(range(2, len(taken) + 3))
    free = name
    while free in taken:
        free = f"{name}-{next(numbers)}"
    return free


def _play(recorded: Recorded, mission: Mission, inside: Settings) -> tuple[Comparison, float]:
    """Play it in the sandbox of these settings; answers both sides, and the seconds it took."""
    from consumers.whatif.outcome import compare
    from consumers.whatif.recorded import history_of
    from consumers.whatif.session import Session
    from infra.cli.processors import factory
    from infra.connect import connect_log, connect_store
    from infra.driver import Driver

    log, store, progress = connect_log(inside), connect_store(inside), Progress()
    _must_be_empty(log, inside.namespace)
    say(f"playing {len(recorded.entries):,} uploads in {inside.namespace.rstrip('.')}")

    def report(done: int, of: int, version: int) -> None:
        progress(f"{done:,} of {of:,} uploads, version {version}, {progress.left(done, of)}")

    with tempfile.TemporaryDirectory(prefix="ralo-whatif-") as folder:
        update = {"policy": mission.policy, "state_dir": Path(folder), "instance": "whatif"}
        config = inside.model_copy(update=update)
        session = Session(
            recorded,
            mission,
            log,
            lambda name: factory(name)(config),
            lambda processor: Driver(processor, log, store, "whatif"),
        )
        try:
            session.run(report)
        finally:
            session.close()
            progress.end()
    return compare(recorded, history_of(log, store, mission.policy)), progress.elapsed_s


def _must_be_empty(log: Any, namespace: str) -> None:
    from schemas.topics import GRADIENT_CHUNKS, SAMPLES, WEIGHT_VERSIONS

    for topic in (SAMPLES, GRADIENT_CHUNKS, WEIGHT_VERSIONS):
        if any(end for _, end in log.ends(topic.name).values()):
            raise BadWhatIf(
                f"sandbox {namespace.rstrip('.')} has events already, and a what-if begins at "
                "version 0: take another name, or leave it out and a free one is taken"
            )


def _facts(recorded: Recorded, changed: Changed, namespace: str, seconds: float) -> dict[str, Any]:
    from streams.learning.environment import differences, environment

    base = recorded.history.versions[-1].environment
    return {
        "mission": recorded.mission.mission_id,
        "policy": recorded.mission.policy,
        "namespace": namespace,
        "changed": list(changed.differences),
        "settings_dropped": list(changed.dropped),
        "groups_fed": sum(len(entry.samples) for entry in recorded.entries),
        "groups_left_out": sum(entry.left_out for entry in recorded.entries),
        "environment_differs": differences(base, environment(base.device)),
        "seconds": round(seconds, 1),
    }


# -- for people -----------------------------------------------------------------------------


def _show(found: Comparison, facts: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for line in facts["changed"] or ["no setting is changed"]:
        console.print(line, markup=False)
    if dropped := facts["settings_dropped"]:
        console.print(f"left out, for the other algorithm has none: {', '.join(dropped)}")
    console.print(_curves(found))
    console.print(_figures(found))
    for line in _verdict(found, facts):
        console.print(line, markup=False)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if not name else "right")
    return table


def _curves(found: Comparison) -> Table:
    table = _table("version", "accuracy: recorded", "what if", "reward: recorded", "what if")
    for version, theirs, ours in found.curve():
        name = f"{version} final" if (theirs or ours) and _is_final(theirs, ours) else f"{version}"
        table.add_row(
            name,
            _number(theirs.accuracy if theirs else None),
            _number(ours.accuracy if ours else None),
            _number(theirs.reward if theirs else None),
            _number(ours.reward if ours else None),
        )
    return table


def _is_final(theirs: Evaluation | None, ours: Evaluation | None) -> bool:
    return any(one.final for one in (theirs, ours) if one)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _figures(found: Comparison) -> Table:
    table = _table("", "recorded", "what if")
    for (name, theirs), (_, ours) in zip(_rows(found.recorded), _rows(found.whatif), strict=True):
        table.add_row(name, theirs, ours)
    return table


def _rows(side: Outcome) -> Iterator[tuple[str, str]]:
    final, norms = side.final, list(side.grad_norms.values())
    yield "accuracy", _number(final.accuracy if final else None)
    yield "reward", _number(final.reward if final else None)
    yield "newest version", f"{side.version:,}"
    yield "steps", f"{side.steps:,}"
    yield "uploads applied", f"{side.uploads:,}"
    yield "uploads refused", _listed(side.refused)
    yield "groups learnt from", f"{side.groups:,}"
    yield "groups dropped", _listed(side.dropped)
    yield "samples", f"{side.samples:,}"
    yield "gradient norm, mean", _number(sum(norms) / len(norms) if norms else None)
    yield "gradient norm, last", _number(norms[-1] if norms else None)
    yield "weights", f"{side.weights[side.version][:12]}…"


def _listed(reasons: Mapping[str, int]) -> str:
    total = sum(reasons.values())
    named = ", ".join(f"{name} {count:,}" for name, count in sorted(reasons.items()))
    return f"{total:,} ({named})" if named else "0"


def _verdict(found: Comparison, facts: Mapping[str, Any]) -> Iterator[str]:
    if found.base_is_same:
        yield f"version 0 is the recorded one: {found.whatif.weights[0][:12]}…"
    else:
        yield "version 0 is NOT the recorded one, so nothing can be compared"
    differs = found.differs_from
    if differs is None:
        yield "all versions have the recorded weights, to the last bit"
    elif facts["changed"]:
        yield f"the weights differ from version {differs} on"
    else:
        why = "; ".join(facts["environment_differs"]) or "the environment is the recorded one"
        yield f"the weights differ from version {differs} on, with the same settings: {why}"
    if facts["groups_left_out"]:
        yield f"{facts['groups_left_out']:,} groups left out: of uploads that repeated others"
    yield (
        f"{facts['groups_fed']:,} groups played in {facts['seconds']:.1f} s; the sandbox stays: "
        f"RALO_NAMESPACE={facts['namespace']} ralo audit"
    )
