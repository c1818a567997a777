"""The missions at work and what is on its way of each, for `ralo status`: soon, or not at all."""

from collections.abc import Iterable, Mapping
from typing import Any

from consumers.backlog import Backlog, backlogs, glance
from consumers.read import decoded
from infra.cli.mission_view import MissionView, RobotMissionView, View, fold
from infra.embedded.health import answers
from infra.kafka.bounded import Bounded, Stuck
from infra.log import Log, LogError
from schemas.topics import MISSION_RESULTS, MISSIONS

LIMIT_S = 1.5
"""A status that is waited for is none."""


class NotKnown(Exception):
    """The log cannot be asked now; the message says why."""


def missions_at_work(log: Log, bootstrap: str) -> list[dict[str, Any]]:
    """One row a mission without a result, in the order of the log; raises `NotKnown`.

    `in_flight` counts problems to sample, groups not accounted for and uploads not settled, `lag`
    the records that wait for each kind of processor.
    """
    # A client would go on trying for as long as a broker that starts may take.
    if not any(answers(address.strip()) for address in bootstrap.split(",")):
        raise NotKnown(f"the broker at {bootstrap} does not answer")
    try:
        return Bounded(log, "status")(LIMIT_S, _rows, log)
    except Stuck:
        raise NotKnown(f"the log did not answer within {LIMIT_S} s") from None
    except LogError as error:
        raise NotKnown(str(error)) from error


def _rows(log: Log) -> list[dict[str, Any]]:
    ends = {**log.ends(MISSIONS.name), **log.ends(MISSION_RESULTS.name)}
    records = sorted(map(decoded, glance(log, ends)), key=lambda r: r.partition.topic, reverse=True)
    views = [view for view in fold(records).values() if view.result is None]
    waiting: dict[str, Backlog] = {}
    if learning := [view for view in views if isinstance(view, MissionView)]:
        policies = {view.mission.policy for view in learning}
        waiting = backlogs(log, policies, min(view.submitted_ms for view in learning))
    return [_row(view, waiting.get(view.mission.mission_id, Backlog())) for view in views]


def _row(view: View, waiting: Backlog) -> dict[str, Any]:
    ids = {"mission_id": view.mission.mission_id, "policy": view.mission.policy or ""}
    if isinstance(view, RobotMissionView):
        at_it = set(view.mission.robots) - set(view.results)
        return ids | {"phase": view.phase, "in_flight": {"robots": len(at_it)}, "lag": {}}
    return ids | {"phase": view.phase, "in_flight": waiting.in_flight, "lag": waiting.lag}


def with_lag(
    processors: Iterable[Mapping[str, Any]], at_work: Iterable[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """The rows of processors, each with the records that wait for its kind; None: not known."""
    lags: dict[tuple[str, str], int] = {}
    for row in at_work or ():
        for kind, lag in row["lag"].items():
            lags[kind, row["policy"]] = lags.get((kind, row["policy"]), 0) + lag
    return [{**row, "lag": lags.get(_kind(row["processor"]))} for row in processors]


def _kind(processor: str) -> tuple[str, str]:
    """Kind and policy of a name such as `sampler-0@main`."""
    kind, _, policy = processor.partition("@")
    return kind.rpartition("-")[0], policy
