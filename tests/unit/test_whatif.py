"""What-ifs of learning, in memory: recorded by the whole loop, played again with other settings."""

import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from loop_world import POLICY, Loop

from consumers.audit.log import audit_log
from consumers.audit.store import StoreChecker
from consumers.read import read
from consumers.whatif.changes import changed
from consumers.whatif.errors import BadWhatIf
from consumers.whatif.outcome import Comparison, compare
from consumers.whatif.recorded import gather, history_of
from consumers.whatif.session import Session
from infra.cli.processors import factory
from infra.cli.whatif_learning import change
from infra.driver import Driver
from infra.envelope import message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from infra.overlay import OverlayStore
from infra.settings import Settings
from schemas.effects import Processor
from schemas.learning import GradientUpload
from schemas.topics import TOPICS


class Bench:
    """A recorded run and what-ifs of it, each in a sandbox of its own."""

    def __init__(self, loop: Loop, folder: Path) -> None:
        self.loop, self.folder = loop, folder
        self._sandboxes = count()

    def play(self, mission_id: str = "m", **settings: Any) -> Comparison:
        """The comparison; `log` and `store` are those of the sandbox afterwards."""
        namespace = f"sandbox.w{next(self._sandboxes)}."
        self.log = MemoryLog(namespace, self.loop.log.cluster)
        self.log.provision(list(TOPICS.values()))
        self.store = OverlayStore(self.loop.store, f"{namespace}/")
        recorded = gather(self.loop.log, self.loop.store, mission_id)
        mission = changed(recorded.mission, settings).mission
        config = Settings(policy=POLICY, state_dir=self.folder / namespace)
        session = Session(
            recorded, mission, self.log, lambda name: factory(name)(config), self._drive
        )
        session.run()
        session.close()
        return compare(recorded, history_of(self.log, self.store, POLICY))

    def _drive(self, processor: Processor) -> Driver:
        ticks = count(0, 0.25)
        return Driver(
            processor,
            self.log,
            self.store,
            "0",
            patience_s=30,
            clock=lambda: next(ticks),
            sleep=lambda s: None,
        )


def record(folder: Path, **mission: Any) -> Bench:
    """A loop that has run one mission to its end."""
    loop = Loop(folder)
    loop.start("evaluator")
    loop.submit(loop.mission("m", **mission))
    return Bench(loop, folder)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Six uploads of TreePO's trees, recorded once for all tests."""
    settings = {"entropy": 0.05, "segment_tokens": 1, "first_division": [4, 4]}
    algorithm = {"name": "treepo", "settings": settings}
    folder = tmp_path_factory.mktemp("recorded")
    return record(folder, problems=24, algorithm=algorithm, evaluate_every=2)


def test_the_same_settings_give_the_same_weights(bench: Bench) -> None:
    found = bench.play()
    assert found.differs_from is None
    assert found.whatif.version == found.recorded.version > 4
    assert found.whatif.to_json() == found.recorded.to_json()
    assert found.whatif.final is not None
    assert found.whatif.final.final


def test_another_algorithm_learns_from_the_same_samples(bench: Bench) -> None:
    found = bench.play(algorithm="grpo")
    assert found.base_is_same
    assert found.differs_from == 1
    assert found.whatif.version == found.recorded.version
    assert found.whatif.samples == found.recorded.samples
    assert found.whatif.grad_norms != found.recorded.grad_norms
    versions = {v.algorithm.name for v in history_of(bench.log, bench.store, POLICY).versions}
    assert versions == {"grpo"}
    curve = list(found.curve())
    assert [version for version, _, _ in curve] == [0, 2, 4, 6]
    assert all(theirs and ours for _, theirs, ours in curve)


def test_the_original_is_as_it_was(bench: Bench) -> None:
    objects = dict(bench.loop.store.objects)
    ends = {name: bench.loop.log.ends(name) for name in TOPICS}
    bench.play(training={"learning_rate": 0.01})
    assert {name: bench.loop.log.ends(name) for name in TOPICS} == ends
    now = bench.loop.store.objects
    assert {key: now[key] for key in objects} == objects
    assert all(key.startswith("sandbox.w") for key in now.keys() - objects.keys())


def test_a_sandbox_passes_the_audit(bench: Bench) -> None:
    bench.play(algorithm="grpo")
    report = audit_log(bench.log, StoreChecker(bench.store))
    assert report.ok, [i for i in report.invariants if i.broken]
    assert report.counts["groups_replayed"] == report.counts["groups_learnt"] == 24


def test_copies_keep_their_place_time_and_origin(bench: Bench) -> None:
    bench.play()
    theirs = {r.at: r for r in read("samples", log=bench.loop.log)}
    ours = list(read("samples", log=bench.log))
    assert len(ours) == len(theirs) == 24
    for copy in ours:
        original = theirs[copy.headers["replay-of"].decode()]
        assert copy.partition == original.partition
        assert (copy.key, copy.value) == (original.key, original.value)
        assert copy.timestamp_ms == original.timestamp_ms


def test_steps_of_two_uploads_number_versions_anew(bench: Bench) -> None:
    found = bench.play(training={"uploads_per_step": 2})
    assert found.recorded.steps == 6
    assert (found.whatif.steps, found.whatif.uploads) == (3, 6)
    assert not found.whatif.dropped
    assert found.whatif.final is not None
    report = audit_log(bench.log, StoreChecker(bench.store))
    assert report.ok, [i for i in report.invariants if i.broken]


@pytest.mark.slow
def test_trainers_that_were_behind_are_shown_what_they_saw(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.start("evaluator")
    second = Driver(factory("trainer")(Settings(policy=POLICY)), loop.log, loop.store, "1")
    aggregator = loop.drivers.pop("aggregator")
    loop.drivers["second"] = second
    mission = loop.mission("m", problems=40, training={"staleness_max": 3}, max_in_flight=16)
    loop.log.append([message(mission)])
    for _ in range(25):
        loop.run()
        aggregator.step()
    loop.drivers["aggregator"] = aggregator
    loop.run()
    bench = Bench(loop, tmp_path)
    uploads = loop.events(GradientUpload)
    bases = [upload.base_version for upload in uploads]
    assert any(base < index for index, base in enumerate(bases)), bases
    found = bench.play()
    assert found.differs_from is None
    assert found.whatif.to_json() == found.recorded.to_json()
    assert [u.base_version for u in uploads] == [
        r.event.base_version
        for r in read("gradient-chunks", log=bench.log)
        if isinstance(r.event, GradientUpload)
    ]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"training": {"learnin_rate": 1}}, "training.learnin_rate: no such field; did you mean"),
        ({"algorithm": {"settings": {"entropi": 1}}}, "algorithm.settings.entropi: no such field"),
        ({"training": {"learning_rate": -1}}, "training.learning_rate: Input should be greater"),
        ({"rollout": {"temperature": 2}}, "rollout: the recorded samples have settled that"),
        ({"training": {"groups_per_upload": 2}}, "training.groups_per_upload: the recorded"),
    ],
)
def test_what_cannot_be_changed_is_named(bench: Bench, settings: Any, says: str) -> None:
    with pytest.raises(BadWhatIf, match=re.escape(says)):
        change(bench.loop.mission("m"), settings)


def test_another_algorithm_keeps_the_settings_that_it_has(bench: Bench) -> None:
    mission = gather(bench.loop.log, bench.loop.store, "m").mission
    changed = change(mission, {"algorithm": "grpo"})
    assert changed.mission.algorithm.settings == {"entropy": 0.05}
    assert changed.dropped == ("segment_tokens", "first_division")
    assert changed.differences == ("algorithm.name: treepo -> grpo",)


def test_a_missing_object_is_named_before_anything_is_played(bench: Bench) -> None:
    store = MemoryStore()
    with pytest.raises(BadWhatIf, match=r"object bases/m/.* is not whole"):
        gather(bench.loop.log, store, "m")


def test_an_unknown_mission_is_named(bench: Bench) -> None:
    with pytest.raises(BadWhatIf, match="no learning mission 'x' in the log; there are: m"):
        gather(bench.loop.log, bench.loop.store, "x")


def test_a_second_mission_begins_where_the_first_ended(tmp_path: Path) -> None:
    bench = record(tmp_path, problems=8)
    bench.loop.submit(bench.loop.mission("n", problems=12, seed=5))
    found = bench.play("n")
    assert found.differs_from is None
    assert found.whatif.to_json() == found.recorded.to_json()
    other = bench.play("n", training={"learning_rate": 0.1})
    assert other.differs_from == 3
