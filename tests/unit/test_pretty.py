"""Events for people: lines, documents, references and what is at their other ends."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from test_selection import evaluation, group

from consumers.pretty.document import document, why_not
from consumers.pretty.lines import LENGTH, one_line
from consumers.pretty.references import LARGEST_BYTES, references, resolve, resolved
from consumers.pretty.tensors import BadTensors, raw_tensor, tensors_of
from infra.memory.store import MemoryStore
from infra.store import StoreUnavailable
from schemas.acting import (
    Command,
    CommandOutcome,
    Feedback,
    FusedState,
    PolicyRef,
    Reading,
    Release,
    SafetyEvent,
    SensorFrame,
)
from schemas.base import Event
from schemas.effects import Put
from schemas.learning import (
    CloseStep,
    DeadLetter,
    EpisodesSummary,
    GradientUpload,
    GroupUse,
    Problem,
)
from schemas.missions import Verifier
from schemas.records import Partition, Record
from schemas.tensors import ObjectRef, TensorRef
from streams.learning.spill import spill

SHA = "0" * 64
POLICY = PolicyRef(policy="arm", version=3, sha256=SHA)


def upload(chunks: list[TensorRef], groups: int = 1) -> GradientUpload:
    return GradientUpload(
        upload_id="u1",
        policy="main",
        mission_id="m1",
        base_version=3,
        chunks=chunks,
        weight=32.0,
        groups=[GroupUse(group_id=f"p{n}", at="a", version=1, rollouts=4) for n in range(groups)],
        records_sha256=SHA,
        source={},
    )


def tensor(store: MemoryStore, values: Any, key: str = "c") -> TensorRef:
    array = np.asarray(values, "<f4")
    ref = store.put(key, array.tobytes())
    return TensorRef(**ref.model_dump(), dtype="float32", shape=array.shape)


# -- lines ------------------------------------------------------------------------------------

LINES: list[tuple[Event, str]] = [
    (
        Problem(
            problem_id="p",
            mission_id="m",
            policy="x",
            epoch=1,
            index=7,
            question="spell\ncat",
            prompt="cat=",
            answer="tac",
            verifier=Verifier(),
        ),
        r"#7 epoch 1: 'spell\ncat' → 'tac'",
    ),
    (group("p", rollouts=3), "use 0, by version 3: 3 rollouts, reward 1.000 (1 to 1)"),
    (
        group("p").model_copy(update={"rollouts": []}),
        "use 0, by version 3: its rollouts are an object",
    ),
    (group("p").model_copy(update={"outcome": "cancelled"}), "use 0, by version 3: cancelled"),
    (
        group("p", 0).model_copy(
            update={
                "episodes": EpisodesSummary(
                    task="t", returns=[1.0, -3.0], lengths=[5, 5], terminated=0
                )
            }
        ),
        "use 0, by version 3: 2 episodes, return -1.000 (-3 to 1)",
    ),
    (upload([], groups=2), "u1: gradient on version 3 of 2 groups, 0 chunks, weight 32"),
    (evaluation(3), "version 3: accuracy 0.300 (3 of 10), reward 0.500"),
    (CloseStep(policy="main", mission_id="m1"), "mission_id=m1"),
    (
        DeadLetter(
            at="samples[0]@1",
            origin_topic="samples",
            origin_partition=0,
            origin_offset=1,
            reason="undecodable",
            detail="no JSON",
            processor="trainer",
            value_base64="",
        ),
        "undecodable, by trainer: no JSON",
    ),
    (
        SensorFrame(
            robot_id="r",
            boot_id="b1",
            seq=4,
            stamp_ms=120.4,
            wall_ms=0,
            readings=[Reading(channel=c, seq=0, stamp_ms=1, values=[1]) for c in ("imu",) * 2],
        ),
        "#4 at 120 ms of b1: 2 imu",
    ),
    (
        FusedState(
            robot_id="r",
            boot_id="b1",
            stamp_ms=120,
            wall_ms=0,
            frame_seq=4,
            filter="planar",
            names=["x_m", "y_m"],
            mean=[1, 2.5],
            covariance=[1, 0, 1],
            source={},
        ),
        "frame 4 at 120 ms: x_m 1.000, y_m 2.500",
    ),
    (
        Command(
            robot_id="r",
            boot_id="b1",
            controller_epoch=41,
            seq=2,
            stamp_ms=1,
            deadline_ms=220,
            frame_seq=4,
            set_point=[0.5, -0.25],
            policy=POLICY,
            source={},
        ),
        "41.2 by arm@3: [0.5, -0.25] until 220 ms of b1, from frame 4",
    ),
    (
        Feedback(
            robot_id="r",
            boot_id="b1",
            seq=9,
            stamp_ms=1,
            wall_ms=0,
            mode="NORMAL",
            applied=[0.5],
            outcomes=[
                CommandOutcome(
                    controller_epoch=41,
                    seq=2,
                    outcome="applied",
                    at="commands[0]@1",
                    at_ms=1,
                    deadline_ms=2,
                    policy=POLICY,
                )
            ],
        ),
        "#9 NORMAL: does [0.5], 1 applied",
    ),
    (
        SafetyEvent(
            robot_id="r",
            boot_id="b",
            seq=3,
            stamp_ms=1,
            wall_ms=0,
            before="NORMAL",
            after="HOLD",
            cause="obstacle",
            detail="0.2 m ahead",
        ),
        "#3 NORMAL → HOLD: obstacle 0.2 m ahead",
    ),
    (
        Release(
            release_id="x", robot_id="r", policy="arm", version=3, stage="COMMITTED", wall_ms=0
        ),
        "arm@3 COMMITTED: x",
    ),
]


@pytest.mark.parametrize(("event", "line"), LINES, ids=lambda value: getattr(value, "type", ""))
def test_an_event_in_one_line(event: Event, line: str) -> None:
    assert one_line(event) == line


def test_a_long_line_is_cut() -> None:
    letter = LINES[8][0].model_copy(update={"detail": "x" * 1000})
    assert len(one_line(letter)) == LENGTH


# -- documents --------------------------------------------------------------------------------


def record(value: bytes, event: Event | None = None, key: bytes | None = b"k") -> Record:
    headers = {"who": b"me", "odd": b"\xff"}
    return Record(Partition("evaluations", 1), 7, key, value, headers, 5, event)


def test_the_document_of_a_record() -> None:
    event = evaluation(3)
    found = document(record(event.to_bytes(), event))
    assert json.loads(json.dumps(found)) == {
        "topic": "evaluations",
        "partition": 1,
        "offset": 7,
        "at": "evaluations[1]@7",
        "timestamp_ms": 5,
        "key": "k",
        "headers": {"who": "me", "odd": "\\xff"},
        "event": json.loads(event.to_bytes()),
    }


def test_the_document_of_what_does_not_decode_has_the_bytes_and_why() -> None:
    found = document(record(b"{\xff", key=b"\xfe"))
    assert base64.b64decode(found["value_base64"]) == b"{\xff"
    assert "JSON" in found["undecodable"]
    assert (found["key"], base64.b64decode(found["key_base64"])) == (None, b"\xfe")
    assert "event" not in found
    newer = evaluation(1).model_copy(update={"schema_version": 9})
    assert why_not(record(newer.to_bytes())) == "evaluation has schema_version 9"


# -- references -------------------------------------------------------------------------------


def test_a_chunk_is_fetched_checked_and_measured() -> None:
    store = MemoryStore()
    event = upload([tensor(store, [[3.0, 4.0], [0.0, -1.0]])])
    (found,) = resolved(event, store)
    (one,) = found.tensors
    assert (found.path, found.state) == ("chunks[0]", "ok")
    assert (one.dtype, one.shape, one.min, one.max) == ("float32", (2, 2), -1.0, 4.0)
    assert one.norm == pytest.approx(26**0.5)
    assert one.first == [3.0, 4.0, 0.0, -1.0]
    assert json.loads(json.dumps(found.document()))["tensors"][0]["shape"] == [2, 2]


def test_a_missing_and_a_wrong_object_are_said_in_their_places() -> None:
    store = MemoryStore()
    refs = [tensor(store, [1.0], key) for key in ("a", "b", "c")]
    store.delete(["a"])
    store.objects["b"] = b"\x00\x00\x00\x00"
    a, b, c = resolved(upload(refs), store)
    assert (a.state, b.state, c.state) == ("missing", "wrong", "ok")
    assert "NoSuchKey" in a.detail and "sha256" in b.detail
    assert json.loads(json.dumps(a.document()))["state"] == "missing"


class Away(MemoryStore):
    """A store that does not answer."""

    def get(self, ref: ObjectRef) -> bytes:
        raise StoreUnavailable(f"object {ref.key}: no route")


def test_a_store_that_does_not_answer_is_said_too() -> None:
    (found,) = resolved(upload([tensor(MemoryStore(), [1.0])]), Away())
    assert (found.state, found.detail) == ("unavailable", "object c: no route")


def test_the_right_hash_of_the_wrong_shape_is_wrong() -> None:
    store = MemoryStore()
    ref = tensor(store, [1.0, 2.0])
    (found,) = resolved(upload([ref.model_copy(update={"shape": (3,)})]), store)
    assert found.state == "wrong"
    assert found.detail == "the hash is right, but: 8 bytes are no float32 of shape [3]"
    (size,) = resolved(upload([ref.model_copy(update={"size_bytes": 9})]), store)
    assert size.state == "wrong" and "the event says 9" in size.detail


def test_what_is_too_large_is_named_and_not_fetched() -> None:
    ref = ObjectRef(key="k", sha256=SHA, size_bytes=LARGEST_BYTES + 1)
    assert resolve("x", ref, MemoryStore(), evaluation(1)).state == "large"


def test_spilled_fields_are_fetched_and_what_they_refer_to() -> None:
    store = MemoryStore()
    whole = upload([tensor(store, [float(n)], f"chunks/{n}") for n in range(600)])
    steps = spill(whole, lambda sha: f"fields/{sha}")
    put = next(steps)
    assert isinstance(put, Put) and isinstance(put.data, bytes)
    with pytest.raises(StopIteration) as stopped:
        steps.send(store.put(put.key, put.data))
    small = stopped.value.value
    assert small.spilled and not small.chunks
    store.delete(["chunks/3"])
    first, *rest = resolved(small, store)
    assert (first.path, first.state, first.detail) == ("spilled", "ok", "moved fields: 600 chunks")
    assert len(rest) == 600
    assert [found.path for found in rest if found.state == "missing"] == ["chunks[3]"]
    store.objects[small.spilled.key] = b"{}"
    (gone,) = resolved(small, store)
    assert gone.state == "wrong"


def test_rollouts_and_shards_and_texts() -> None:
    store = MemoryStore()
    rollouts = [r.model_dump() for r in group("p", rollouts=2).rollouts]
    moved = store.put("samples/x", json.dumps(rollouts).encode())
    found = resolve("rollouts_ref", moved, store, group("p"))
    assert found.detail == "2 rollouts of 4 to 4 tokens, reward 1.000 (1 to 1)"
    broken = resolve("rollouts_ref", store.put("samples/y", b"[{}]"), store, group("p"))
    assert broken.state == "wrong"
    shard = store.put("w/model.safetensors", save({"b": np.ones(3, "f4"), "a": np.eye(2)}))
    found = resolve("shards[m]", shard, store, group("p"))
    assert [(t.name, t.dtype, t.shape) for t in found.tensors] == [
        ("a", "float64", (2, 2)),
        ("b", "float32", (3,)),
    ]
    torn = resolve("shards[m]", store.put("w/m.safetensors", b"torn"), store, group("p"))
    assert torn.state == "wrong" and "no safetensors file" in torn.detail
    config = resolve("files[c]", store.put("c/config.json", b'{"a": 1}'), store, group("p"))
    assert config.detail == 'JSON of 1 entries: {"a": 1}'
    other = resolve("files[d]", store.put("c/merges.txt", b"a b\n" * 99), store, group("p"))
    assert other.detail.startswith("bytes: a b a b") and other.detail.endswith("…")


def test_references_are_found_wherever_they_are() -> None:
    ref = ObjectRef(key="k", sha256=SHA, size_bytes=1)
    release = Release(
        release_id="x",
        robot_id="r",
        policy="p",
        version=1,
        stage="OFFERED",
        files={"config.json": ref},
        wall_ms=0,
    )
    assert list(references(release)) == [("files[config.json]", ref)]
    assert list(references([{"a": ref}], "x")) == [("x[0][a]", ref)]
    assert list(references(evaluation(1))) == []


# -- tensors ----------------------------------------------------------------------------------


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    values = np.array([np.nan, 3.0, -np.inf, 4.0], "<f4")
    one = raw_tensor(values.tobytes(), "float32", (4,))
    assert (one.norm, one.min, one.max, one.not_finite) == (5.0, 3.0, 4.0, 2)
    assert one.first == [None, 3.0, None, 4.0]
    none = raw_tensor(b"", "float32", (0,))
    assert (none.norm, none.min, none.first) == (None, None, [])


def test_half_precision() -> None:
    values = np.array([1.5, -2.0], "<f4")
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    assert raw_tensor(upper.tobytes(), "bfloat16", (2,)).first == [1.5, -2.0]
    assert raw_tensor(values.astype("<f2").tobytes(), "float16", (2,)).first == [1.5, -2.0]


def test_tensors_of_other_kinds_and_of_none() -> None:
    data = save({"n": np.arange(3), "on": np.array([True, False])})
    assert [(t.name, t.dtype, t.first) for t in tensors_of(data)] == [
        ("n", "int64", [0.0, 1.0, 2.0]),
        ("on", "bool", [1.0, 0.0]),
    ]
    with pytest.raises(BadTensors, match="no safetensors"):
        tensors_of(b"")
