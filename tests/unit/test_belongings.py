"""A purge takes all that is ours, and nothing else; a sweep only what nobody holds."""

import gc
from collections.abc import Sequence
from pathlib import Path

import pytest
from loop_world import Loop

from infra import supervision
from infra.belongings import scratch_folder, sweep_scratch
from infra.cli.processors import factory
from infra.embedded.stack import Stack
from infra.instance import claim
from infra.settings import Settings
from infra.supervisor import views_port
from schemas.learning import WeightVersion

OURS = [
    "kafka/samples-0/00000000000000000000.log",
    "kafka.broken-1/meta.properties",
    "kafka.properties",
    "minio/ralo/weights/shard",
    "minio.json",
    "stack.json",
    "stack.json.broken-1",
    "supervisor.json",
    "supervisor.lock",
    "processors.json",
    "logs/kafka.log.1",
    "logs/minio.log",
    "orchestrator/v1/tables/",
]
THEIRS = [
    "notes.txt",
    "kafka.txt",
    "minio-backup/shard",
    "logs/mine.log",
    "scratch/thesis-1/chapter",
    "scratch/thesis-2/2/chapter",
    "slots/machine",
    "orchestrator/score.pdf",
]


def touch(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A state directory after some work, as far as no server is needed for it."""
    config = Settings(state_dir=tmp_path / "state", policy="spell")
    claim(config, "sampler.spell").lock.close()
    supervision.write_scale(config, {"sampler": 2})
    views_port(config)
    for name in ("supervisor", "provider-0", "sampler-0@spell", "sampler-borrowed@spell"):
        log = supervision.log_file(config, name)
        log.parent.mkdir(exist_ok=True)
        log.write_text("x")
    factory("aggregator")(config)
    touch(config.state_dir, OURS)
    return config


def test_a_purge_leaves_an_empty_directory(config: Settings) -> None:
    assert files(scratch_folder(config, "spell", "0"))
    said = list[str]()
    Stack(config).purge(said.append)
    assert list(config.state_dir.iterdir()) == []
    assert f"deleting {config.state_dir / 'logs'}" in said and len(said) == len(set(said))


def test_a_purge_leaves_what_is_not_ours(config: Settings) -> None:
    touch(config.state_dir, THEIRS)
    Stack(config).purge(print)
    assert files(config.state_dir) == sorted(THEIRS)


def test_servers_that_run_elsewhere_keep_what_was_embedded_here(
    config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = config.kafka.model_copy(update={"bootstrap_servers": "elsewhere:9092"})
    Stack(config.model_copy(update={"kafka": kafka})).purge(print)
    assert (config.state_dir / "kafka").is_dir() and not (config.state_dir / "minio").exists()


def test_a_sweep_keeps_what_is_wanted_or_held(tmp_path: Path) -> None:
    config = Settings(state_dir=tmp_path)
    aggregators = {
        policy: factory("aggregator")(config.model_copy(update={"policy": policy}))
        for policy in ("done", "held", "open")
    }
    assert list(sweep_scratch(config, keep=())) == []
    del aggregators["done"], aggregators["open"]
    assert list(sweep_scratch(config, keep=["open"])) == [tmp_path / "scratch" / "done-0" / "0"]
    assert sorted(p.name for p in (tmp_path / "scratch").iterdir()) == ["held-0", "open-0"]


@pytest.mark.slow
def test_an_aggregator_goes_on_exactly_without_what_was_swept(tmp_path: Path) -> None:
    hashes = []
    for name in ("kept", "swept"):
        (tmp_path / name).mkdir()
        loop = Loop(tmp_path / name)
        loop.submit(loop.mission("m1"))
        loop.drivers.pop("aggregator").close()
        gc.collect()
        if name == "swept":
            config = Settings(state_dir=tmp_path / name)
            assert list(sweep_scratch(config, keep=()))
            assert files(config.state_dir / "scratch") == []
        loop.start("aggregator")
        loop.submit(loop.mission("m2"))
        versions = loop.events(WeightVersion)
        assert {v.mission_id for v in versions} == {"m1", "m2"}
        refs = [ref for v in versions for ref in (*v.shards.values(), *v.optimizer.values())]
        hashes.append([ref.sha256 for ref in refs])
    assert hashes[0] == hashes[1]
