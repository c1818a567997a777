"""The controller: what it commands, from what, under which policy, and what it says of missions."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from release_world import (
    ARM,
    CONFIG,
    POLICY,
    ROBOT,
    files,
    offer,
    robot_file,
    state,
    workshop,
)
from test_imports import imported

from infra.memory.store import MemoryStore
from schemas.acting import (
    Command,
    Feedback,
    FusedState,
    Mode,
    PolicyRef,
    Release,
)
from schemas.base import Event
from schemas.control import ControllerSpec
from schemas.missions import (
    MissionControl,
    Patrol,
    Reach,
    RobotMission,
    RobotMissionReport,
    RobotMissionResult,
)
from schemas.records import Partition, Record
from schemas.robots import ChannelSpec, DriverSpec, SetPointField
from streams.acting.control.controller import Controller
from streams.acting.control.tracker import tracker_ref
from streams.acting.release.folder import PolicyFolder
from streams.acting.release.machine import Releases

EPOCH = 17
ROVER = DriverSpec(
    name="rover",
    channels=[ChannelSpec(name="scan", kind="scan", fields=["range_m@0"], rate_hz=10)],
    set_point=[
        SetPointField(name="v_mps", low=-0.5, high=1.0),
        SetPointField(name="yaw_rate_radps", low=-2, high=2),
    ],
    rest=[0.0, 0.0],
)


class World:
    """A controller and the log that it reads and writes, without a broker."""

    def __init__(self, folder: Path, driver: DriverSpec = ARM, **spec: Any) -> None:
        self.folder, self.driver, self.spec = folder, driver, spec
        self.store = MemoryStore()
        self.log: list[Record] = []
        self.epoch = EPOCH
        self.start()

    def start(self) -> None:
        file = robot_file(**self.spec)
        if self.driver is ROVER:
            update = {"controller": ControllerSpec(tracker="waypoints", **self.spec)}
            file = file.model_copy(update=update)
        policy = file.controller.policy
        self.tracker = tracker_ref(file.controller)
        self.releases = None
        if policy is not None:
            shop = workshop(PolicyFolder(self.folder), self.store.get, driver=self.driver)
            self.releases = Releases(ROBOT, policy, self.tracker, shop, lambda: 0.0)
        self.controller = Controller(file, self.driver, self.epoch, self.releases)
        for record in self.log:
            if not isinstance(record.event, FusedState):
                self.controller.replay(record)

    def record(self, event: Event) -> Record:
        offset = sum(r.partition.topic == event.topic for r in self.log)
        stamp_ms = 1000
        record = Record(Partition(event.topic, 0), offset, b"", b"", {}, stamp_ms, event)
        self.log.append(record)
        return record

    def take(self, event: Event) -> list[Event]:
        """A new record; what the controller publishes is in the log then, and comes back."""
        out = list(self.controller.take(self.record(event)))
        for said in list(out):
            if not isinstance(said, Command):
                more = self.take(said)
                assert isinstance(said, Release) or more == []
                out += more
        return out


@pytest.fixture
def arm(tmp_path: Path) -> World:
    return World(tmp_path / "policy")


@pytest.fixture
def rover(tmp_path: Path) -> World:
    return World(tmp_path / "policy", ROVER)


def commands(events: Iterable[Event]) -> list[Command]:
    return [event for event in events if isinstance(event, Command)]


def place(seq: int, x: float, y: float = 0.0, **fields: Any) -> FusedState:
    """A fused state of the rover."""
    given: dict[str, Any] = {
        "filter": "planar",
        "names": ["x_m", "y_m", "heading_rad", "v_mps", "yaw_rate_radps"],
        "mean": [x, y, 0.0, 0.3, 0.0],
        "held": {"scan": [8.0]},
        "wall_ms": 1000.0 + 20 * seq,
    }
    return state(seq, **{**given, **fields})


def patrol(name: str = "m", **fields: Any) -> RobotMission:
    part = Patrol(waypoints=[(1.0, 0.0), (2.0, 0.0)], **fields)
    return RobotMission(mission_id=name, robots={ROBOT: part})


def reach(name: str = "m", **fields: Any) -> RobotMission:
    return RobotMission(mission_id=name, robots={ROBOT: Reach(**fields)}, policy=POLICY)


def feedback(mode: Mode = "NORMAL", epoch: int | None = None) -> Feedback:
    return Feedback(
        robot_id=ROBOT,
        boot_id="b",
        seq=0,
        stamp_ms=0,
        wall_ms=0,
        mode=mode,
        applied=[0, 0],
        controller_epoch=epoch,
    )


# -- commands ---------------------------------------------------------------------------------


def test_each_state_is_answered_by_a_command_that_says_whence_and_until_when(arm: World) -> None:
    first, second = (commands(arm.take(state(n)))[0] for n in (5, 6))
    assert (first.controller_epoch, first.seq, second.seq) == (EPOCH, 0, 1)
    assert (second.frame_seq, second.stamp_ms, second.boot_id) == (6, 120.0, "b")
    assert second.deadline_ms == 120.0 + arm.controller._spec.horizon_ms
    assert second.set_point == ARM.rest
    assert second.policy == arm.tracker and second.policy.version == 0
    assert first.source == {"fused-states-0": (0, 1)}
    assert second.source == {"fused-states-0": (1, 2)}


def test_a_state_that_was_there_before_is_no_new_one(arm: World) -> None:
    assert commands(arm.take(state(5)))
    assert not commands(arm.take(state(5)))
    assert not commands(arm.take(state(4)))
    assert commands(arm.take(state(0, boot_id="another")))


def test_at_a_rate_the_newest_state_is_answered_and_each_once(tmp_path: Path) -> None:
    world = World(tmp_path, rate_hz=25.0)
    assert world.controller.tick_ms == 40.0
    assert not world.take(state(1)) and not world.take(state(2))
    [command] = commands(world.controller.tick(0.0))
    assert command.frame_seq == 2
    assert command.source == {"fused-states-0": (0, 2)}
    assert not list(world.controller.tick(40.0))
    world.take(state(3))
    [command] = commands(world.controller.tick(80.0))
    assert command.source == {"fused-states-0": (2, 3)}


@pytest.mark.parametrize("mode", ["DEGRADED", "HOLD", "SAFE_STOP"])
def test_commands_go_on_so_that_a_reset_finds_a_fresh_one(arm: World, mode: Mode) -> None:
    arm.take(feedback(mode))
    assert commands(arm.take(state(1)))


def test_a_terminated_robot_gets_no_commands_and_its_mission_has_failed(arm: World) -> None:
    arm.take(reach())
    arm.take(feedback("TERMINATED"))
    [result] = arm.take(state(1))
    assert isinstance(result, RobotMissionResult)
    assert (result.outcome, result.reason) == ("failed", "the robot was terminated")
    assert arm.take(state(2)) == []


def test_it_is_silent_once_another_controller_has_the_robot(arm: World) -> None:
    assert commands(arm.take(state(1)))
    arm.take(feedback(epoch=EPOCH))
    assert commands(arm.take(state(2)))
    arm.take(feedback(epoch=EPOCH + 1))
    assert not arm.take(state(3))


# -- the learnt policy ------------------------------------------------------------------------


def drive(world: World, first: int, count: int) -> list[Event]:
    found: list[Event] = []
    for seq in range(first, first + count):
        found += world.take(state(seq, episode=seq // 5))
    return found


def test_a_released_policy_acts_where_a_mission_says_so_and_its_hash_is_in_the_commands(
    arm: World,
) -> None:
    arm.take(offer(arm.store, 0))
    before = drive(arm, 0, 30)
    assert {c.policy for c in commands(before)} == {arm.tracker}
    arm.take(reach())
    during = drive(arm, 30, 30)
    assert arm.releases is not None and arm.releases.acting is not None
    assert {c.policy for c in commands(during)} == {arm.releases.acting.ref}
    assert all(c.set_point != ARM.rest and c.mission_id == "m" for c in commands(during))
    arm.take(MissionControl(mission_id="m", action="cancel"))
    after = drive(arm, 60, 3)
    assert {c.policy for c in commands(after)} == {arm.tracker}
    assert [e.outcome for e in after if isinstance(e, RobotMissionResult)] == ["cancelled"]


def test_a_release_is_said_before_the_first_command_that_it_makes(arm: World) -> None:
    arm.take(reach())
    arm.take(offer(arm.store, 0))
    events = drive(arm, 0, 40)
    swapped = next(
        i for i, e in enumerate(events) if isinstance(e, Release) and e.stage == "SWAPPED"
    )
    first = next(
        i
        for i, e in enumerate(events)
        if isinstance(e, Command) and e.policy.version >= 0 and e.policy.policy == POLICY
    )
    assert swapped < first
    assert events[-1] == commands(events)[-1]


def test_what_is_said_next_does_not_wait_for_a_state(arm: World) -> None:
    arm.take(reach())
    arm.take(offer(arm.store, 0))
    for seq in range(40):
        told = [e.stage for e in arm.take(state(seq)) if isinstance(e, Release)]
        if "STAGED" in told:
            assert told == ["STAGED", "WAIT_SAFE"]
            return
    raise AssertionError("it was never staged")


def test_a_swap_waits_for_the_end_of_an_episode_where_the_robot_moves(arm: World) -> None:
    arm.take(reach())
    arm.take(offer(arm.store, 0))
    swaps = []
    for seq in range(40):
        for event in arm.take(state(seq, episode=seq // 11)):
            if isinstance(event, Release) and event.stage == "SWAPPED":
                swaps.append(seq)
    assert swaps == [11]


def test_noise_depends_on_the_commands_number_and_epoch_alone(tmp_path: Path) -> None:
    content = files(0, EXPLORES)
    points: list[Any] = []
    for epoch in (1, 1, 2):
        world = World(tmp_path / f"{len(points)}")
        world.epoch = epoch
        world.start()
        world.take(reach())
        world.take(offer(world.store, 0, content))
        found = [c for c in commands(drive(world, 0, 30)) if c.policy.policy == POLICY]
        points.append([c.set_point for c in found])
    assert points[0] == points[1]
    assert points[0] != points[2]


EXPLORES = CONFIG.model_copy(update={"explores": True})


def test_a_mission_under_a_policy_that_the_robot_does_not_follow_fails(arm: World) -> None:
    arm.take(reach().model_copy(update={"policy": "other"}))
    events = arm.take(state(1))
    [result] = [e for e in events if isinstance(e, RobotMissionResult)]
    assert result.outcome == "failed"
    assert "its policy is other, arm-1 follows reach" in result.reason


# -- missions ---------------------------------------------------------------------------------


def test_a_patrol_is_driven_point_by_point_and_has_one_result(rover: World) -> None:
    rover.take(patrol(laps=2))
    said: list[Event] = []
    path = [0.0, 0.5, 0.9, 1.5, 1.9, 1.5, 1.1, 1.8, 2.0, 2.0]
    for seq, x in enumerate(path):
        said += rover.take(place(seq, x))
    reports = [e.waypoints for e in said if isinstance(e, RobotMissionReport)]
    assert reports == [1, 2, 3, 4]
    [result] = [e for e in said if isinstance(e, RobotMissionResult)]
    assert (result.outcome, result.waypoints) == ("done", 4)
    assert result.distance_m == pytest.approx(0.3 * 0.02 * 7, abs=1e-3)
    assert result.seconds == pytest.approx(0.02 * 7)
    assert commands(said)[-1].set_point == ROVER.rest
    assert commands(said)[0].set_point[0] > 0.3


def test_a_controller_that_starts_anew_goes_on_from_the_waypoint(rover: World) -> None:
    rover.take(patrol())
    for seq, x in enumerate((0.0, 1.0, 1.5)):
        rover.take(place(seq, x))
    rover.start()
    events = rover.take(place(3, 1.5))
    assert not [e for e in events if not isinstance(e, Command)]
    assert commands(events)[0].set_point[0] > 0
    [report, result] = [e for e in rover.take(place(4, 2.0)) if not isinstance(e, Command)]
    assert isinstance(report, RobotMissionReport) and report.waypoints == 2
    assert isinstance(result, RobotMissionResult) and result.outcome == "done"
    rover.start()
    assert [type(e) for e in rover.take(place(5, 1.0))] == [Command]


def test_a_result_that_did_not_reach_the_log_is_said_again(rover: World) -> None:
    rover.take(patrol())
    for seq, x in enumerate((1.0, 2.0)):
        rover.take(place(seq, x))
    rover.log = [r for r in rover.log if not isinstance(r.event, RobotMissionResult)]
    rover.start()
    found = [e for e in rover.take(place(2, 5.0)) if isinstance(e, RobotMissionResult)]
    assert [(e.outcome, e.waypoints) for e in found] == [("done", 2)]


def test_missions_are_done_one_after_another(rover: World) -> None:
    for name in ("a", "b"):
        rover.take(patrol(name))
    rover.take(patrol("a"))
    said: list[Event] = []
    for seq, x in enumerate((0.0, 1.0, 2.0, 1.5, 1.0, 2.0, 2.0)):
        said += rover.take(place(seq, x))
    results = [e.mission_id for e in said if isinstance(e, RobotMissionResult)]
    assert results == ["a", "b"]
    assert commands(said)[0].mission_id == "a"


def test_a_robot_that_does_not_know_where_it_is_rests_and_reaches_nothing(rover: World) -> None:
    rover.take(patrol())
    unsure = [0.0] * 15
    unsure[5] = 0.6**2  # of y: after the five of x's row
    found = rover.take(place(0, 1.0, covariance=unsure))
    assert [e.set_point for e in found if isinstance(e, Command)] == [ROVER.rest]
    assert len(found) == 1
    found = rover.take(place(1, 1.0, covariance=[0.01] * 15))
    assert [e.waypoints for e in found if isinstance(e, RobotMissionReport)] == [1]


def test_a_pause_rests_and_a_resume_goes_on(rover: World) -> None:
    rover.take(patrol())
    assert commands(rover.take(place(0, 0.0)))[0].set_point[0] > 0
    rover.take(MissionControl(mission_id="m", action="pause"))
    assert commands(rover.take(place(1, 0.1)))[0].set_point == ROVER.rest
    rover.take(MissionControl(mission_id="m", action="resume"))
    assert commands(rover.take(place(2, 0.1)))[0].set_point[0] > 0


def test_a_mission_of_some_time_ends_with_it(arm: World) -> None:
    arm.take(reach(seconds=1.0))
    assert len(arm.take(state(1, wall_ms=1500.0))) == 1
    found = [e for e in arm.take(state(2, wall_ms=2100.0)) if isinstance(e, RobotMissionResult)]
    assert [e.outcome for e in found] == ["done"]


def test_a_patrol_needs_a_pose(arm: World) -> None:
    arm.take(patrol())
    [result] = [e for e in arm.take(state(1)) if isinstance(e, RobotMissionResult)]
    assert result.outcome == "failed" and "pose" in result.reason


def test_other_robots_missions_are_not_its_own(rover: World) -> None:
    rover.take(RobotMission(mission_id="x", robots={"other": Patrol(waypoints=[(9.0, 9.0)])}))
    [command] = rover.take(place(1, 0.0))
    assert isinstance(command, Command) and command.set_point == ROVER.rest


def test_a_tracker_that_the_robot_cannot_follow_is_refused(tmp_path: Path) -> None:
    file = robot_file(tracker="waypoints")
    with pytest.raises(ValueError, match="waypoints needs the set-points v_mps"):
        Controller(file, ARM, EPOCH)


def test_the_trackers_hash_is_that_of_its_settings() -> None:
    refs = {tracker_ref(ControllerSpec()), tracker_ref(ControllerSpec(tracker="waypoints"))}
    assert len(refs) == 2
    assert all(isinstance(ref, PolicyRef) and ref.policy == "tracker" for ref in refs)
    assert json.loads(refs.pop().model_dump_json())["version"] == 0


@pytest.mark.slow
def test_a_controllers_process_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    modules = (
        "infra.cli.robot_processes, infra.connect, infra.live_loop, infra.robot.fetching, "
        "streams.acting.control.controller, streams.acting.release.machine, "
        "producers.robots.registry, producers.robots.drivers"
    )
    found = imported(tmp_path, "-c", f"import {modules}")
    assert {"numpy", "streams"} <= found
    assert not found & {"torch", "transformers", "faust", "mujoco", "gymnasium", "datasets"}
