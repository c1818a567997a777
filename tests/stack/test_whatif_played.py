"""A what-if of learning on a real broker and store: the whole loop recorded, then played again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import small_mission

from consumers.audit.log import audit_log
from consumers.audit.store import StoreChecker
from consumers.read import read
from consumers.selection import Selection
from consumers.whatif.errors import BadWhatIf
from infra import sandbox
from infra.cli import whatif
from infra.cli.bench_stack import delete_topics
from infra.cli.processors import factory
from infra.connect import connect_log, connect_store
from infra.driver import Driver
from infra.embedded.stack import Endpoints
from infra.envelope import message
from infra.provision import provision
from infra.settings import Settings, settings
from infra.store import MissingObject
from schemas.learning import Evaluation
from schemas.topics import SAMPLES, TOPICS

pytestmark = pytest.mark.stack

NAME = "m"
PROCESSORS = ("provider", "sampler", "trainer", "aggregator", "evaluator")


@pytest.fixture
def config(
    stack: Endpoints, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """The settings of this process: a namespace of its own, and one sandbox beside it."""
    found = {
        "STATE_DIR": str(tmp_path),
        "NAMESPACE": namespace,
        "KAFKA__BOOTSTRAP_SERVERS": stack.kafka,
        "S3__ENDPOINT": stack.s3.address,
        "S3__ACCESS_KEY": stack.s3.access_key,
        "S3__SECRET_KEY": stack.s3.secret_key,
        "S3__BUCKET": stack.s3.bucket,
        "POLICY": NAME,
    }
    for name, value in found.items():
        monkeypatch.setenv(f"RALO_{name}", value)
    settings.cache_clear()
    provision(settings())
    yield settings()
    delete_topics(connect_log(settings()))
    settings.cache_clear()


def record(config: Settings, folder: Path) -> None:
    """Four uploads of TreePO's trees, by all processors in this process."""
    log, store = connect_log(config), connect_store(config)
    how = {"name": "treepo", "settings": {"segment_tokens": 1, "first_division": [4, 4]}}
    training = {"groups_per_upload": 8, "chunk_bytes": 4096, "device": "cpu"}
    changes: dict[str, Any] = {"budget": {"problems": 32}, "evaluate_every": 2}
    mission = small_mission(NAME, folder, algorithm=how, training=training, **changes)
    drivers = [Driver(factory(name)(config), log, store, "0") for name in PROCESSORS]
    log.append([message(mission)])
    while not any(_is_final(record.event) for record in read("evaluations", log=log)):
        for _ in range(10):
            for driver in drivers:
                driver.step()
    for driver in drivers:
        driver.close()


def _is_final(event: object) -> bool:
    return isinstance(event, Evaluation) and event.final


def test_recorded_samples_are_learnt_from_again(
    config: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(config, tmp_path)
    name = config.namespace.rstrip(".")
    selection = Selection(tuple(TOPICS), mission=NAME)
    whatif.run("trainer,aggregator", selection=selection, sandbox=name, as_json=True)
    same = json.loads(capsys.readouterr().out)
    assert (same["base_is_same"], same["differs_from"]) == (True, None)
    assert same["whatif"] == same["recorded"]
    assert same["whatif"]["steps"] == 4
    inside = sandbox.settings_for(config, name)
    log = connect_log(inside)
    report = audit_log(log, StoreChecker(connect_store(inside)))
    assert report.ok, [one for one in report.invariants if one.broken]
    assert report.counts["groups_replayed"] == 32
    with pytest.raises(BadWhatIf, match="has events already"):
        whatif.run("trainer,aggregator", selection=selection, sandbox=name)
    delete_topics(log)


def test_a_sandbox_comes_and_goes(config: Settings) -> None:
    name = f"{config.namespace.rstrip('.')}-2"
    inside = sandbox.provision(config, name)
    assert name in sandbox.sandboxes(config)
    ref = connect_store(inside).put("weights/p/0/x", b"x")
    work = connect_log(inside).work_reader("g", [SAMPLES], "0")
    work.close()
    assert sandbox.remove(config, name) == 1
    assert name not in sandbox.sandboxes(config)
    with pytest.raises(MissingObject):
        connect_store(inside).get(ref)
    assert connect_log(config).ends("samples")
