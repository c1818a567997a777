"""The learning loop where every field that may move out of an event does."""

from pathlib import Path
from typing import Any

import pytest
from learning_steps import POLICY, mission
from learning_world import World, world

from consumers.read import complete, read
from consumers.recompute import NotReproduced, recompute_version
from consumers.weights import differing_tensors, export, history, summary
from schemas.learning import (
    CloseStep,
    GradientUpload,
    RollbackRequest,
    UploadsRefused,
    VersionsExpired,
    WeightVersion,
)
from schemas.records import Record
from streams.learning import janitor, keys

BOUND = "streams.learning.spill.INLINE_BYTES"


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BOUND, 0)


def learn(at: World) -> None:
    """Steps, an overlap, a rollback, what it abandons, and a step that is closed."""
    for i in range(4):
        at.upload(0, (i, i + 1))
    at.upload(0, (3, 4))
    at.send(RollbackRequest(request_id="r", policy=POLICY, to_version=1))
    at.upload(1, (4, 5))
    at.upload(3, (5, 6))
    at.upload(3, (6, 7))
    at.upload(3, (7, 8))
    at.send(CloseStep(policy=POLICY, mission_id="m"))


def fresh(folder: Path) -> World:
    at = World(folder, mission(uploads_per_step=2))
    at.run()
    learn(at)
    return at


def told(at: World) -> list[dict[str, Any]]:
    """What the versions say, but for what follows from where their fields lie."""
    found = []
    for event in at.versions():
        whole = complete(event, at.store)
        document = whole.model_dump(exclude={"parent_sha256", "shards", "optimizer"})
        for applied in document["uploads"]:
            del applied["record_sha256"]
        refs = {**whole.shards, **whole.optimizer}
        found.append({**document, "sha256": {name: ref.sha256 for name, ref in refs.items()}})
    return found


def records(at: World) -> list[Record]:
    topics = ("missions", "gradient-chunks", "weight-versions")
    return [record for topic in topics for record in read(topic, log=at.log)]


def test_where_the_fields_lie_changes_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fresh(tmp_path / "plain")
    plain.run()
    assert not any(e.spilled for e in plain.events(WeightVersion, GradientUpload))
    assert not [key for key in plain.store.keys("") if "fields-" in key or "manifest" in key]
    monkeypatch.setattr(BOUND, 0)
    moved = fresh(tmp_path / "moved")
    moved.run()
    assert [v.version for v in moved.versions()] == [0, 1, 2, 3, 4, 5]
    for event in moved.events(WeightVersion, GradientUpload):
        assert event.spilled and not any(getattr(event, name) for name in event.spills)
    assert told(moved) == told(plain)
    refused = [r.reason for e in moved.events(UploadsRefused) for r in e.refused]
    assert refused == [r.reason for e in plain.events(UploadsRefused) for r in e.refused]


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("moment", ["after_put", "sent_outputs", "committed"])
def test_a_successor_knows_what_was_moved(tmp_path: Path, moment: str) -> None:
    undisturbed = fresh(tmp_path / "undisturbed")
    undisturbed.run()
    at = fresh(tmp_path / "killed")
    kills = at.run_killed(moment, range(1, 60, 3))
    assert kills >= 2
    assert told(at) == told(undisturbed)


@pytest.mark.usefixtures("everything")
def test_every_step_is_made_again_to_the_last_bit(tmp_path: Path) -> None:
    at = fresh(tmp_path)
    at.run()
    for event in at.versions():
        if event.kind == "step":
            whole = complete(event, at.store)
            named = {**whole.shards, **whole.optimizer}
            found = recompute_version(records(at), at.store, event.version)
            assert found == {name: ref.sha256 for name, ref in named.items()}
    spilled = at.versions()[1].spilled
    assert spilled
    at.store.objects[spilled.key] = b"{}"
    with pytest.raises(NotReproduced, match=r"object weights/main/1-.*sha256"):
        recompute_version(records(at), at.store, 1)


@pytest.mark.usefixtures("everything")
def test_versions_are_compared_and_exported_whole(tmp_path: Path) -> None:
    at = fresh(tmp_path / "world")
    at.run()
    known = history(read("weight-versions", log=at.log), POLICY)
    row = summary(known.version(1), expired=False)
    assert (row["uploads"], row["refused"], row["size_bytes"]) == (2, 0, None)
    a, b = known.version(0), known.version(1)
    assert len(list(differing_tensors(at.store, a, b, lambda item: None))) == 4
    written = export(at.store, b, tmp_path / "out", lambda item: None)
    assert {*complete(b, at.store).shards} < {path.name for path in written}
    manifest = WeightVersion.model_validate_json((tmp_path / "out/ralo-version.json").read_bytes())
    assert manifest == complete(b, at.store)


@pytest.mark.usefixtures("everything")
def test_a_list_of_chunks_that_is_spoilt_is_refused(tmp_path: Path) -> None:
    at = world(tmp_path)
    one = at.upload(0, (0, 4))
    assert one.spilled
    at.store.objects[one.spilled.key] = b"{}"
    at.run()
    refused = [r for e in at.events(UploadsRefused) for r in e.refused]
    assert [(r.reason, r.groups) for r in refused] == [("unreadable", 4)]
    assert one.spilled.key in refused[0].detail


@pytest.mark.usefixtures("everything")
def test_the_list_of_a_stale_upload_is_not_asked_for(tmp_path: Path) -> None:
    """It may have been swept: whoever waited for it would wait for ever."""
    at = world(tmp_path, staleness_max=0)
    at.upload(0, (0, 4))
    at.run()
    for samples in ((4, 8), (2, 6)):
        late = at.upload(0, samples)
        assert late.spilled
        at.store.delete([late.spilled.key])
    at.run()
    reasons = [r.reason for e in at.events(UploadsRefused) for r in e.refused]
    assert reasons == ["stale", "overlap"]


@pytest.mark.usefixtures("everything")
def test_manifests_stay_as_long_as_their_events_and_lists_of_chunks_as_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "SWEEP_EVERY", 5)
    at = world(tmp_path, staleness_max=1)
    orphan = keys.manifest_key(POLICY, 3, "0" * 64)
    at.store.put(orphan, b"a crash left this")
    for base in range(11):
        at.upload(base, (base, base + 1))
        at.run()
        if base == 7:
            at.restart()
    expired = janitor.expired_versions(at.events(VersionsExpired))
    kept = [complete(v, at.store) for v in at.versions() if v.version not in expired]
    assert [v.version for v in kept] == [0, 9, 10, 11]
    manifests = {v.spilled.key for v in at.versions() if v.spilled}
    assert len(manifests) == 12
    stored = set(at.store.keys("weights/"))
    files = {key for key in janitor.objects_of(kept) if key.startswith("weights/")}
    assert stored == manifests | files
    # Of 9, 10 and 11 the chunks stay for the proof of their steps.
    gradients = {key.split("/")[3] for key in at.store.keys("gradients/")}
    lists = {key.split("/")[3] for key in at.store.keys("gradients/") if "/fields-" in key}
    assert gradients == lists == {f"main-{n}-{n + 1}" for n in (8, 9, 10)}
