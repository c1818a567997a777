"""Robots as the log shows them: what a live view keeps of each."""

from collections.abc import Iterable

import pytest

from consumers.robots_view import RobotsView
from infra.cli.robots_live import chart, line_of
from schemas.acting import (
    CommandOutcome,
    Feedback,
    FusedState,
    Outcome,
    PolicyRef,
    Reading,
    Release,
    SensorFrame,
    Stage,
)
from schemas.base import Event
from schemas.records import Partition, Record

ARM, ROVER = "arm-1", "rover-1"
SHA = "0" * 64


def seen(*events: Event, robots: tuple[str, ...] = ()) -> RobotsView:
    view = RobotsView(robots)
    for offset, event in enumerate(events):
        view.observe(Record(Partition(event.topic, 0), offset, None, None, event=event))
    return view


def policy(version: int) -> PolicyRef:
    return PolicyRef(policy="arm", version=version, sha256=SHA)


def feedback(outcomes: Iterable[tuple[Outcome, float]], version: int = 0) -> Feedback:
    return Feedback(
        robot_id=ARM,
        boot_id="b",
        seq=0,
        stamp_ms=0,
        wall_ms=1e12,
        mode="NORMAL",
        applied=[0.0],
        policy=policy(version),
        outcomes=[
            CommandOutcome(
                controller_epoch=0,
                seq=seq,
                outcome=outcome,
                at=f"commands[0]@{seq}",
                at_ms=at_ms,
                deadline_ms=at_ms + 1,
                policy=policy(version),
            )
            for seq, (outcome, at_ms) in enumerate(outcomes)
        ],
    )


def rewards(*steps: tuple[float, int]) -> SensorFrame:
    readings = [
        Reading(channel="reward", seq=n, stamp_ms=20.0 * n, values=[reward, float(episode)])
        for n, (reward, episode) in enumerate(steps)
    ]
    return SensorFrame(
        robot_id=ARM, boot_id="b", seq=0, stamp_ms=0, wall_ms=1e12, readings=readings
    )


def test_commands_are_counted_by_what_became_of_them() -> None:
    view = seen(feedback([("applied", 0), ("expired", 5), ("applied", 20), ("applied", 40)]))
    arm = view.robots[ARM]
    assert (arm.applied, arm.not_applied) == (3, 1)
    assert arm.commands_hz == pytest.approx(50)
    assert arm.acting == "arm 0"


def test_only_whole_episodes_have_a_return_and_it_goes_to_the_version_that_acts() -> None:
    view = seen(
        feedback([], version=0),
        rewards((-1, 3), (-1, 4), (-2, 4)),
        feedback([], version=7),
        rewards((-5, 5), (-1, 6)),
    )
    assert view.robots[ARM].returns == {"arm 7": [-3.0, -5.0]}


def test_the_way_of_a_release_is_counted() -> None:
    stages: list[Stage] = ["OFFERED", "SWAPPED", "ROLLED_BACK"]
    view = seen(
        *(
            Release(
                release_id="r", robot_id=ARM, policy="arm", version=3, stage=stage, wall_ms=1e12
            )
            for stage in stages
        )
    )
    arm = view.robots[ARM]
    assert (arm.swaps, arm.rollbacks, arm.release) == (1, 1, "3 ROLLED_BACK")


def state(x_m: float, y_m: float) -> FusedState:
    return FusedState(
        robot_id=ROVER,
        boot_id="b",
        stamp_ms=0,
        wall_ms=1e12,
        frame_seq=0,
        filter="planar",
        names=["x_m", "y_m", "heading_rad"],
        mean=[x_m, y_m, 0.0],
        covariance=[0.0] * 6,
        source={"sensor-frames-0": (0, 1)},
    )


def test_the_map_shows_where_a_robot_was_and_is() -> None:
    view = seen(state(-3, -3), state(0, 0), state(9, 9), state(3, 3), robots=(ROVER,))
    rows = chart(view, (-4, -4, 4, 4), rows=8)
    assert rows[0] == "+" + "-" * 16 + "+"
    marks = {
        (row, column): mark
        for row, line in enumerate(rows[1:-1])
        for column, mark in enumerate(line[1:-1])
        if mark != " "
    }
    assert marks == {(7, 2): "·", (4, 8): "·", (1, 14): "1"}
    assert line_of(view.robots[ROVER]).startswith("rover-1  unknown  (3.00, 3.00) m")
