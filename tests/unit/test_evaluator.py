"""The evaluator: which versions it evaluates for which mission, and what it counts as right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import (
    SPEC,
    batch_of,
    follow,
    mission_of,
    peaked_folder,
    problem_of,
    record_of,
    version_of,
)

from infra.interpreter import run_in_memory
from infra.memory.store import MemoryStore
from schemas.base import Event
from schemas.effects import Unready
from schemas.learning import Evaluation, Problem, VersionsExpired, WeightVersion
from schemas.missions import Mission, MissionReport
from schemas.partitioner import partition_for
from schemas.records import Partition
from schemas.topics import WEIGHT_VERSIONS
from streams.learning.engines import Row
from streams.learning.engines.transformers import TransformersEngine
from streams.learning.evaluator import Evaluator, evaluate
from streams.learning.models import PolicyModel

HOME = Partition("weight-versions", partition_for(b"p", WEIGHT_VERSIONS.partitions))


def length_reward(problem: Problem, completion: str, finished: bool) -> float:
    return len(completion) / 10


class World:
    """A store with one model's content under any version number, and its held-out problems."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.folder = peaked_folder(folder / "model")
        self.first = version_of(self.store, self.folder, 0)
        self.model = PolicyModel(mission_of().training)
        follow(self.model, self.first, self.store)
        self.problems = self._problems()
        lines = b"".join(problem.to_bytes() + b"\n" for problem in self.problems)
        self.heldout = self.store.put("missions/m/heldout.jsonl", lines)

    def _problems(self) -> list[Problem]:
        """Every second answer is what the model says; some of these it does not end."""
        problems = []
        for i in range(40):
            prompt = SPEC.alphabet[i % 7] + SPEC.alphabet[i // 7]
            row = Row(self.model.encode(prompt), 0, 0, 5)
            (said,) = TransformersEngine(self.model.model).generate(
                [row], 0.0, 1.0, self.model.stop_ids
            )
            (text,) = self.model.texts([said.tokens])
            problems.append(problem_of(i, prompt, text if i % 2 else "gggggg"))
        return problems

    def version(self, number: int, mission: str = "m") -> WeightVersion:
        return version_of(self.store, self.folder, number, mission_id=mission)

    def report(self, stage: str, mission: str = "m", **fields: Any) -> MissionReport:
        return MissionReport.model_validate(
            {"mission_id": mission, "policy": "p", "stage": stage, "heldout_size": 40, **fields}
            | ({"heldout": self.heldout} if stage == "prepared" else {})
        )

    def evaluator(self, *events: Event) -> Evaluator:
        evaluator = Evaluator("p", length_reward)
        evaluator.assigned([HOME])
        for event in events:
            evaluator.observe(record_of(event))
        return evaluator

    def mission(self, mission: str = "m", **fields: Any) -> list[Event]:
        fields = {"evaluate_every": 10} | fields
        return [mission_of(mission, **fields), self.report("prepared", mission)]

    def feed(self, evaluator: Evaluator, events: Sequence[Event]) -> list[Evaluation]:
        return self._run(evaluator.process(batch_of(events)))

    def tick(self, evaluator: Evaluator) -> list[Evaluation]:
        steps = evaluator.tick()
        return [] if steps is None else self._run(steps)

    def _run(self, steps: Any) -> list[Evaluation]:
        commit, outputs = run_in_memory(steps, self.store)
        assert commit == "commit"
        assert outputs.buried == []
        return [event for event in outputs.events if isinstance(event, Evaluation)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("evaluator"))


def numbers(evaluations: Sequence[Evaluation]) -> list[int]:
    return [evaluation.version for evaluation in evaluations]


def test_correct_is_the_answers_text_ended_by_the_model(world: World) -> None:
    wanted, lengths = 0, 0
    for problem in world.problems:
        row = Row(world.model.encode(problem.prompt), 0, 0, 5)
        (said,) = TransformersEngine(world.model.model).generate(
            [row], 0.0, 1.0, world.model.stop_ids
        )
        (text,) = world.model.texts([said.tokens])
        wanted += text == problem.answer and said.ended
        lengths += len(text)
    graded = evaluate(world.model, world.problems, 5, length_reward)
    assert 0 < wanted < 20, "the model must end some of its right answers and not others"
    assert (graded.correct, graded.total) == (wanted, 40)
    assert graded.reward == pytest.approx(lengths / 10 / 40)


def test_many_problems_are_decoded_in_parts(world: World) -> None:
    few = evaluate(world.model, world.problems, 5, length_reward)
    many = evaluate(world.model, world.problems * 15, 5, length_reward)
    assert (many.correct, many.total) == (15 * few.correct, 600)
    assert many.reward == pytest.approx(few.reward)


def test_a_verifier_that_raises_gives_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(problem: Problem, completion: str, finished: bool) -> float:
        raise RuntimeError("no parser")

    graded = evaluate(world.model, world.problems[:3], 5, broken)
    assert graded.reward == 0
    assert "held-out problem m-0: verifier: no parser" in caplog.text


def test_the_base_and_every_tenth_version_are_evaluated(world: World) -> None:
    evaluator = world.evaluator(*world.mission())
    seen = [e for n in range(26) for e in world.feed(evaluator, [world.version(n)])]
    assert numbers(seen) == [0, 10, 20]
    whole = evaluate(world.model, world.problems, 5, length_reward)
    assert seen[0] == Evaluation(
        policy="p",
        mission_id="m",
        version=0,
        accuracy=whole.correct / 40,
        correct=whole.correct,
        total=40,
        reward=whole.reward,
        heldout_sha256=world.heldout.sha256,
    )


def test_when_behind_the_newest_wins(world: World) -> None:
    evaluator = world.evaluator(*world.mission())
    assert numbers(world.feed(evaluator, [world.version(n) for n in range(34)])) == [0, 30]
    assert numbers(world.feed(evaluator, [world.version(n) for n in range(34, 49)])) == [48]
    assert numbers(world.feed(evaluator, [world.version(n) for n in range(49, 51)])) == [50]


def test_versions_whose_objects_may_be_swept_are_passed_over(world: World) -> None:
    evaluator = world.evaluator(*world.mission())
    world.feed(evaluator, [world.version(0)])
    expired = VersionsExpired(policy="p", versions=[10])
    assert numbers(world.feed(evaluator, [*map(world.version, range(1, 13)), expired])) == [12]
    late = world.evaluator(*world.mission(), VersionsExpired(policy="p", versions=[0]))
    assert numbers(world.feed(late, [world.version(0), world.version(3)])) == [3]


def test_versions_of_a_mission_not_yet_prepared_are_waited_for(world: World) -> None:
    evaluator = world.evaluator(mission_of())
    with pytest.raises(Unready, match="mission m is prepared"):
        world.feed(evaluator, [world.version(0)])
    evaluator.observe(record_of(world.report("prepared")))
    assert numbers(world.feed(evaluator, [world.version(0)])) == [0]


def test_what_the_topic_holds_is_not_evaluated_again(world: World) -> None:
    made = world.feed(world.evaluator(*world.mission()), [world.version(n) for n in range(11)])
    assert numbers(made) == [0, 10]
    for order in ([*world.mission(), *made], [*made, *world.mission()]):
        successor = world.evaluator(*order)
        assert world.feed(successor, [world.version(n) for n in range(11)]) == []
        assert world.tick(successor) == []
        assert numbers(world.feed(successor, [world.version(n) for n in range(11, 21)])) == [20]


def test_an_abandoned_batch_is_evaluated_again(world: World) -> None:
    evaluator = world.evaluator(*world.mission())
    assert numbers(world.feed(evaluator, [world.version(0)])) == [0]
    assert world.feed(evaluator, [world.version(0)]) == []
    evaluator.assigned([HOME])
    assert numbers(world.feed(evaluator, [world.version(0)])) == [0]


def test_the_head_is_final_once_the_mission_is_drained(world: World) -> None:
    evaluator = world.evaluator(*world.mission())
    world.feed(evaluator, [world.version(n) for n in range(14)])
    assert world.tick(evaluator) == []
    evaluator.observe(record_of(world.report("drained")))
    (final,) = world.tick(evaluator)
    assert (final.version, final.final) == (13, True)
    assert world.tick(evaluator) == []
    evaluator.observe(record_of(final))
    evaluator.assigned([HOME])
    assert world.tick(evaluator) == []


def test_the_final_evaluation_waits_for_the_version_that_the_report_names(world: World) -> None:
    """The topics are read side by side: what was published first may be read later."""
    evaluator = world.evaluator(*world.mission())
    world.feed(evaluator, [world.version(n) for n in range(13)])
    evaluator.observe(record_of(world.report("drained", version=13)))
    assert world.tick(evaluator) == []
    evaluator.observe(record_of(world.version(13)))
    (final,) = world.tick(evaluator)
    assert (final.version, final.final) == (13, True)


def test_a_final_evaluation_that_was_not_published_is_made_again(world: World) -> None:
    evaluator = world.evaluator(*world.mission(), world.report("drained"), world.version(4))
    assert numbers(world.tick(evaluator)) == [4]
    evaluator.assigned([HOME])
    (again,) = world.tick(evaluator)
    assert (again.version, again.final) == (4, True)


def test_only_the_owner_of_the_policys_partition_evaluates_the_head(world: World) -> None:
    evaluator = world.evaluator(*world.mission(), world.report("drained"), world.version(4))
    others = [Partition("weight-versions", n) for n in range(4) if n != HOME.number]
    evaluator.assigned(others)
    assert evaluator.tick() is None


def test_a_mission_that_continues_a_policy_starts_from_its_head(world: World) -> None:
    evaluator = world.evaluator(*world.mission())
    world.feed(evaluator, [world.version(n) for n in range(14)])
    evaluator.observe(record_of(world.report("drained")))
    for event in world.mission("n"):
        evaluator.observe(record_of(event))
    (final,) = world.tick(evaluator)
    (before,) = world.tick(evaluator)
    assert (final.mission_id, final.version, final.final) == ("m", 13, True)
    assert (before.mission_id, before.version, before.final) == ("n", 13, False)
    assert world.tick(evaluator) == []
    later = [e for n in range(14, 35) for e in world.feed(evaluator, [world.version(n, "n")])]
    assert [(e.mission_id, e.version) for e in later] == [("n", 23), ("n", 33)]


def test_a_continuing_mission_seen_late_starts_before_its_first_version(world: World) -> None:
    evaluator = world.evaluator(*world.mission(), *world.mission("n"))
    versions = [world.version(n) for n in range(14)] + [world.version(14, "n")]
    made = [(e.mission_id, e.version) for e in world.feed(evaluator, versions)]
    assert made == [("m", 0), ("m", 10), ("n", 13)]


def test_a_mission_without_versions_of_its_own_is_final_at_the_head(world: World) -> None:
    done = [*world.mission(), world.report("drained"), *_final(world, "m", 13)]
    evaluator = world.evaluator(*done, *world.mission("n"), world.version(13))
    assert numbers(world.tick(evaluator)) == [13]
    evaluator.observe(record_of(world.report("drained", "n")))
    (final,) = world.tick(evaluator)
    assert (final.mission_id, final.version, final.final) == ("n", 13, True)


def _final(world: World, mission: str, version: int) -> list[Event]:
    return [
        Evaluation(
            policy="p",
            mission_id=mission,
            version=version,
            accuracy=0,
            correct=0,
            total=40,
            reward=0,
            final=True,
            heldout_sha256=world.heldout.sha256,
        )
    ]


def test_a_rejected_mission_is_not_evaluated(world: World) -> None:
    rejected: Mission = mission_of("r")
    evaluator = world.evaluator(rejected, world.report("rejected", "r"), world.version(3))
    assert evaluator.tick() is None
