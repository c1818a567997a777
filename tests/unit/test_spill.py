"""What is moved out of large events, and that nothing else changes by it."""

import json
from typing import Any

import pytest
from audit_books import BookLog, upload, version
from learning_steps import finished

from infra.memory.store import MemoryStore
from schemas.effects import Put
from schemas.learning import (
    AppliedUpload,
    GradientUpload,
    GroupUse,
    RefusedUpload,
    WeightVersion,
)
from schemas.tensors import Spilled, TensorRef
from schemas.topics import GROUPS_PER_UPLOAD_MAX, INLINE_BYTES, MAX_EVENT_BYTES, decode
from streams.learning.spill import BadSpill, moved_fields, spill, whole


def key(sha256: str) -> str:
    return f"spilled/{sha256[:8]}"


def large_upload(chunks: int = 2000) -> GradientUpload:
    one = upload(BookLog(), "u0", 0, {"samples-0": (0, 2)})
    ref = TensorRef(key="g/0", sha256="0" * 64, size_bytes=16, dtype="float32", shape=(4,))
    listed = [ref.model_copy(update={"key": f"g/{i}"}) for i in range(chunks)]
    return one.model_copy(update={"chunks": listed, "micro_batches": [2, 2]})


def large_version(uploads: int = 900, refused: int = 20, **fields: Any) -> WeightVersion:
    applied = [
        AppliedUpload(
            upload_id=f"u{i}",
            at=f"gradient-chunks[0]@{i}",
            record_sha256="1" * 64,
            base_version=3,
            weight=0.5,
            groups=4,
            dropped=1,
        )
        for i in range(uploads)
    ]
    gone = [RefusedUpload(upload_id=f"r{i}", at="", reason="stale") for i in range(refused)]
    return version(BookLog(), 4, uploads=applied, refused=gone, **fields)


def test_a_small_event_stays_as_it_is_and_costs_nothing() -> None:
    small = version(BookLog(), 4)
    for steps in (spill(small, key), whole(small)):
        with pytest.raises(StopIteration) as done:
            next(steps)
        assert done.value.value is small


@pytest.mark.parametrize(
    ("event", "moved"),
    [
        (large_upload(), {"chunks": 2000}),
        (large_version(), {"uploads": 900}),
        (large_version(refused=1200), {"uploads": 900, "refused": 1200}),
        (large_version(2, lineage=list(range(30_000, 0, -1))), {"lineage": 30_000}),
    ],
    ids=["chunks", "uploads", "both", "lineage"],
)
def test_the_longest_fields_move_and_come_back_equal(
    event: GradientUpload | WeightVersion, moved: dict[str, int]
) -> None:
    store = MemoryStore()
    small = finished(spill(event, key), store)
    assert len(small.to_bytes()) <= INLINE_BYTES < len(event.to_bytes())
    assert small.spilled.counts == moved
    assert [small.count(name) for name in event.spills] == [
        len(getattr(event, name)) for name in event.spills
    ]
    assert not any(getattr(small, name) for name in moved)
    assert list(store.keys()) == [small.spilled.key]
    read = decode(event.topic, small.to_bytes())
    assert finished(whole(read), store) == event
    assert finished(whole(read, *moved), store) == event


def test_the_largest_upload_that_a_mission_may_ask_for_is_an_event() -> None:
    use = GroupUse(group_id="f" * 20 + ".0", at=f"samples[3]@{10**12}", version=10**6, rollouts=999)
    groups = [use] * GROUPS_PER_UPLOAD_MAX
    large = large_upload().model_copy(update={"groups": groups, "micro_batches": [1] * 50_000})
    small = finished(spill(large, key), MemoryStore())
    assert small.spilled.counts == {"chunks": 2000, "micro_batches": 50_000}
    assert INLINE_BYTES < len(small.to_bytes()) < MAX_EVENT_BYTES


def test_room_is_made_for_the_reference_too() -> None:
    """Two lists, of which the longer one alone would leave the event a few bytes too large."""
    both = large_version(200, 500)
    longer = len(both.to_bytes()) - len(both.model_copy(update={"refused": []}).to_bytes())
    filled = INLINE_BYTES - (len(both.to_bytes()) - longer) - 10
    small = finished(spill(both.model_copy(update={"reason": "x" * filled}), key), MemoryStore())
    assert len(small.to_bytes()) <= INLINE_BYTES
    assert small.spilled.counts == {"refused": 500, "uploads": 200}


def test_what_was_not_moved_is_not_fetched() -> None:
    small = finished(spill(large_version(), key), MemoryStore())
    assert finished(whole(small, "shards", "lineage"), MemoryStore()) is small


def test_equal_events_have_one_object() -> None:
    puts = [next(spill(large_version(), key)) for _ in range(2)]
    assert puts[0] == puts[1] and isinstance(puts[0], Put)
    other = next(spill(large_version(901), key))
    assert isinstance(other, Put) and other.key != puts[0].key


def test_other_bytes_than_the_event_names_are_bad() -> None:
    store = MemoryStore()
    small = finished(spill(large_upload(), key), store)
    store.objects[small.spilled.key] += b" "
    with pytest.raises(BadSpill, match="sha256"):
        finished(whole(small), store)


@pytest.mark.parametrize(
    ("counts", "document", "why"),
    [
        ({"chunks": 1}, b"{", "Expecting"),
        ({"chunks": 1}, b"\xff", "decode"),
        ({"chunks": 1}, b"[" * 100_000, "recursion"),
        ({"chunks": 1}, b"[]", "indices"),
        ({"chunks": 1}, b"{}", "chunks"),
        ({"chunks": 1}, {"chunks": []}, "0 chunks, the event says 1"),
        ({"chunks": 1}, {"chunks": [{"key": "k"}]}, "sha256"),
        ({"weight": 1}, {"weight": 9.0}, "weight may not be moved"),
        ({"spilled": 1}, {"spilled": [1]}, "spilled may not be moved"),
    ],
)
def test_foreign_objects_change_no_other_field(
    counts: dict[str, int], document: Any, why: str
) -> None:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    spilled = Spilled(key="k", sha256="0" * 64, size_bytes=len(data), counts=counts)
    with pytest.raises(BadSpill, match=why):
        moved_fields(GradientUpload, spilled, data)
