"""The gate: which version is offered to whom, and that no restart offers it twice."""

from itertools import count
from typing import Any

import numpy as np
import pytest
from release_world import POLICY, ROBOT, Arm, files

from consumers.read import read
from infra.driver import Driver
from infra.envelope import message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from schemas.acting import Release
from schemas.base import Event
from schemas.learning import Environment, Evaluation, Layout, VersionsExpired, WeightVersion
from schemas.missions import AlgorithmSpec, Reach, RobotMission, RobotMissionResult
from schemas.topics import TOPICS
from streams.acting.control.policy import load_policy
from streams.acting.release.gate import Gate

SHA = "0" * 64


class World:
    """One gate on a log in memory."""

    def __init__(self) -> None:
        self.log, self.store = MemoryLog(), MemoryStore()
        self.log.provision(list(TOPICS.values()))
        self.driver: Driver | None = None
        self.start()

    def start(self) -> None:
        """Start the gate, or start it again from the log alone."""
        if self.driver:
            self.driver.close()
        ticks = count(0, 0.25)
        self.driver = Driver(
            Gate(POLICY, lambda: 0.0),
            self.log,
            self.store,
            "0",
            patience_s=30,
            clock=lambda: next(ticks),
            sleep=lambda s: None,
        )
        self.settle()

    def settle(self) -> None:
        assert self.driver is not None
        idle = 0
        while idle < 5:
            idle = 0 if self.driver.step() else idle + 1

    def say(self, *events: Event) -> None:
        self.log.append([message(event) for event in events])
        self.settle()

    def version(self, number: int, content: dict[str, bytes] | None = None) -> WeightVersion:
        content = files(number) if content is None else content
        refs = {name: self.store.put(f"w/{number}/{name}", data) for name, data in content.items()}
        return WeightVersion(
            policy=POLICY,
            version=number,
            kind="step" if number else "base",
            mission_id="learn",
            algorithm=AlgorithmSpec(),
            code_sha256=SHA,
            files={"config.json": refs["config.json"]},
            shards={"model.safetensors": refs["model.safetensors"]},
            layout=Layout(parameters=1, chunk_elements=1, sha256=SHA),
            environment=Environment(torch="2", threads=1, cpu_capability="x"),
        )

    def offers(self) -> list[Release]:
        found = [record.event for record in read("releases", log=self.log)]
        return [event for event in found if isinstance(event, Release)]

    def numbers(self, robot: str = ROBOT) -> list[int]:
        return [offer.version for offer in self.offers() if offer.robot_id == robot]


def evaluation(number: int, reward: float, policy: str = POLICY) -> Evaluation:
    return Evaluation(
        policy=policy,
        mission_id="learn",
        version=number,
        accuracy=0,
        correct=0,
        total=1,
        reward=reward,
        heldout_sha256=SHA,
    )


def mission(name: str = "act", *robots: str, policy: str = POLICY) -> RobotMission:
    parts = {robot: Reach() for robot in robots or (ROBOT,)}
    return RobotMission.model_validate(
        {"mission_id": name, "robots": parts, "policy": policy}, by_name=True
    )


@pytest.fixture
def world() -> World:
    return World()


def test_version_0_is_offered_at_once_to_the_robots_that_act_under_the_policy(world: World) -> None:
    world.say(world.version(0))
    assert world.offers() == []
    world.say(mission("act", "arm-1", "arm-2"), mission("other", "arm-3", policy="q"))
    assert sorted((o.robot_id, o.version, o.score) for o in world.offers()) == [
        ("arm-1", 0, None),
        ("arm-2", 0, None),
    ]


def test_what_is_the_best_so_far_is_offered_and_nothing_else(world: World) -> None:
    world.say(mission(), world.version(0))
    for number, reward in enumerate([-40.0, -20.0, -25.0, -20.0, -9.0], start=0):
        world.say(world.version(number), evaluation(number, reward))
    world.say(evaluation(9, 0.0, policy="q"))
    assert world.numbers() == [0, 1, 4]
    assert [offer.score for offer in world.offers()] == [None, -20.0, -9.0]


def test_of_many_evaluations_at_once_the_best_is_offered(world: World) -> None:
    world.say(
        mission(),
        *(world.version(n) for n in range(4)),
        evaluation(1, -3.0),
        evaluation(2, -1.0),
        evaluation(3, -2.0),
    )
    assert world.numbers()[-1] == 2
    assert 3 not in world.numbers() and 1 not in world.numbers()


def test_a_robot_that_comes_later_is_offered_the_best_there_is(world: World) -> None:
    world.say(*(world.version(n) for n in range(3)), evaluation(1, -1.0), evaluation(2, -2.0))
    world.say(mission())
    assert world.numbers() == [1]


def test_a_robot_whose_mission_is_over_is_offered_nothing(world: World) -> None:
    world.say(mission(), world.version(0))
    world.say(RobotMissionResult(mission_id="act", robot_id=ROBOT, outcome="done"))
    world.say(world.version(1), evaluation(1, 1.0))
    assert world.numbers() == [0]


def test_what_has_expired_is_not_offered(world: World) -> None:
    world.say(*(world.version(n) for n in range(3)), evaluation(1, -1.0), evaluation(2, -2.0))
    world.say(VersionsExpired(policy=POLICY, versions=[0, 1]))
    world.say(mission())
    assert world.numbers() == [2]


@pytest.mark.parametrize("fault", ["abort_next", "fail_next_commit", "lose_next_commit_reply"])
def test_a_doubtful_end_or_a_restart_offers_nothing_twice(world: World, fault: str) -> None:
    world.say(mission(), world.version(0))
    setattr(world.log.faults, fault, 1)
    world.say(world.version(1), evaluation(1, 1.0))
    world.start()
    world.start()
    assert world.numbers() == [0, 1]
    assert len({offer.release_id for offer in world.offers()}) == 2


def test_a_version_that_is_no_policy_is_not_offered(world: World) -> None:
    broken = files(1, actor_0_bias=np.full(8, np.nan, np.float32))
    world.say(mission(), world.version(0))
    world.say(world.version(1, broken), evaluation(1, 5.0))
    assert world.numbers() == [0]


def test_its_golden_inputs_are_answered_by_the_policy_itself_and_get_it_in(
    world: World, tmp_path: Any
) -> None:
    world.say(mission(), world.version(0))
    [offer] = world.offers()
    assert offer.golden is not None
    answers = load_policy(POLICY, 0, files(0)).mean(np.array(offer.golden.inputs, np.float32))
    np.testing.assert_array_equal(np.array(offer.golden.outputs, np.float32), answers)
    arm = Arm(tmp_path, world.store)
    arm.start()
    arm.offer(offer)
    arm.steps(30, -0.1)
    assert arm.stages(0)[-1] == "COMMITTED"
