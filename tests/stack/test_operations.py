"""What users do with a running loop: publish with any producer, roll back, export, recompute."""

import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from running import Loop, running, small_mission, until

from consumers.read import complete, read
from consumers.weights import export, history
from infra.embedded.stack import Endpoints
from schemas.learning import (
    DeadLetter,
    Evaluation,
    GradientUpload,
    Problem,
    RollbackRequest,
    SampleGroup,
    WeightVersion,
)
from schemas.missions import MissionReport
from schemas.records import Record

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(900)]

NAME = "ops"


@pytest.fixture(scope="module")
def finished(stack: Endpoints) -> Iterator[Loop]:
    """A loop whose mission, published by a plain producer, was rolled back once and has ended."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        changes: dict[str, Any] = {
            "budget": {"problems": 1600},
            "rollout": {"group_size": 8},
            "algorithm": {"settings": {"entropy": 0.02}},
            "training": {"learning_rate": 0.005, "groups_per_upload": 8},
            # However fast the loop is, the version to roll back to is still there.
            "keep": {"last": 1000},
        }
        mission = small_mission(NAME, folder, **changes)
        with running(stack, f"o{uuid.uuid4().hex[:8]}.", folder) as loop:
            malformed = json.loads(mission.to_bytes())
            malformed["training"]["lerning_rate"] = 1
            producer = Producer({"bootstrap.servers": stack.kafka})
            topic = f"{loop.config.namespace}missions"
            producer.produce(topic, json.dumps(malformed).encode())
            producer.produce(topic, mission.to_bytes())
            producer.flush()
            until(lambda: len(loop.versions(NAME)) > 40, 300, loop.last_words)
            loop.submit(RollbackRequest(request_id="r1", policy=NAME, to_version=10, reason="try"))
            loop.until_result(NAME, 400)
            yield loop


def test_a_malformed_mission_is_one_dead_letter_that_says_what_is_wrong(finished: Loop) -> None:
    letters = [r.event for r in read("dead-letters", log=finished.log)]
    assert [type(letter) for letter in letters] == [DeadLetter]
    assert "lerning_rate" in letters[0].detail
    assert letters[0].at == "missions[0]@0"


def test_a_rollback_is_a_new_version_that_everyone_adopts(finished: Loop) -> None:
    versions = finished.versions(NAME)
    (rolled,) = [v for v in versions if v.kind == "rollback"]
    target = versions[10]
    assert (rolled.parent, rolled.previous) == (10, rolled.version - 1)
    assert rolled.shards == target.shards and rolled.optimizer == target.optimizer
    assert rolled.lineage[0] == 10
    later = [v for v in versions if v.version > rolled.version]
    assert all(rolled.version in v.lineage or v.parent == rolled.version for v in later[:5])
    groups = [r.event for r in read("samples", log=finished.log, policy=NAME)]
    assert any(isinstance(g, SampleGroup) and g.version >= rolled.version for g in groups)
    uploads = [r.event for r in read("gradient-chunks", log=finished.log, policy=NAME)]
    adopted = [u for u in uploads if isinstance(u, GradientUpload)]
    assert adopted[-1].base_version > rolled.version
    dropped = [d.reason for u in adopted for d in u.dropped]
    refused = [f.reason for v in versions for f in v.refused]
    events = [r.event for r in read("weight-versions", log=finished.log, policy=NAME)]
    refused += [
        f.reason
        for e in events
        if not isinstance(e, WeightVersion)
        for f in getattr(e, "refused", [])
    ]
    # What was on its way when the branch was abandoned was counted, by trainer or aggregator.
    assert "abandoned" in dropped + refused


def test_the_books_balance_after_it_all(finished: Loop) -> None:
    report = finished.audit()
    assert report.ok, {i.name: i.first for i in report.invariants if i.broken}
    assert report.in_flight.problems == report.in_flight.uploads == 0


def test_no_heldout_question_is_ever_trained_on(finished: Loop) -> None:
    reports = [r.event for r in read("missions", log=finished.log, mission=NAME)]
    (prepared,) = [e for e in reports if isinstance(e, MissionReport) and e.stage == "prepared"]
    assert prepared.heldout is not None
    lines = finished.store.get(prepared.heldout).splitlines()
    heldout = {Problem.model_validate_json(line).question for line in lines}
    problems = (r.event for r in read("problems", log=finished.log, mission=NAME))
    trained = {p.question for p in problems if isinstance(p, Problem)}
    assert len(heldout) == prepared.heldout_size > 0 and not heldout & trained


def test_plain_transformers_answers_as_the_evaluator_counted(
    finished: Loop, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    final = [
        r.event
        for r in read("evaluations", log=finished.log, policy=NAME)
        if isinstance(r.event, Evaluation) and r.event.final
    ]
    versions = history(read("weight-versions", log=finished.log, policy=NAME), NAME)
    folder = tmp_path / "exported"
    export(finished.store, versions.version(final[-1].version), folder, lambda name: None)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reports = [r.event for r in read("missions", log=finished.log, mission=NAME)]
    ref = next(e.heldout for e in reports if isinstance(e, MissionReport) and e.heldout)
    correct = 0
    for line in finished.store.get(ref).splitlines():
        problem = Problem.model_validate_json(line)
        prompt = tokenizer(problem.prompt, return_tensors="pt")
        output = model.generate(**prompt, max_new_tokens=3, do_sample=False)[0]
        tokens = output[prompt["input_ids"].shape[1] :].tolist()
        ended = tokenizer.eos_token_id in tokens
        correct += ended and tokenizer.decode(tokens, skip_special_tokens=True) == problem.answer
    assert correct == final[-1].correct


def test_a_version_and_its_uploads_are_recomputed_bit_equal_in_a_fresh_process(
    finished: Loop,
) -> None:
    """The newest version, and the gradients from before and after the rollback."""
    newest = finished.versions(NAME)[-1]
    uploads = [r for r in read("gradient-chunks", log=finished.log, policy=NAME) if _learnt(r)]
    chosen = [uploads[0], uploads[len(uploads) // 2], uploads[-1]]
    script = (
        "import json, torch; torch.set_num_threads(1)\n"
        "from infra.settings import settings\n"
        "from infra.connect import connect_log, connect_store\n"
        "from consumers.read import read\n"
        "from consumers.recompute import recompute_upload, recompute_version\n"
        "log, store = connect_log(settings()), connect_store(settings())\n"
        "topics = ('missions', 'samples', 'gradient-chunks', 'weight-versions')\n"
        "records = [r for t in topics for r in read(t, log=log)]\n"
        f"version = recompute_version(records, store, {newest.version})\n"
        f"uploads = [recompute_upload(records, store, at) for at in {[r.at for r in chosen]}]\n"
        "print(json.dumps([version, uploads]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=finished.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    version, chunks = json.loads(done.stdout)
    assert version == {n: r.sha256 for n, r in {**newest.shards, **newest.optimizer}.items()}
    wholes = [complete(r.event, finished.store) for r in chosen]
    assert chunks == [[ref.sha256 for ref in upload.chunks] for upload in wholes]
    bases = [upload.base_version for upload in wholes]
    assert all(hashes for hashes in chunks) and bases[0] < 10 < bases[2]


def _learnt(record: Record) -> bool:
    return isinstance(record.event, GradientUpload) and record.event.count("chunks") > 0
