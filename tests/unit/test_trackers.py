import json
import struct
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from audit_books import BookLog, applied, evaluation, refused, upload, valid, version
from learning_steps import finished

from consumers.trackers.follow import Memory, TrackerError, track
from consumers.trackers.scalars import ScalarFold, Scalars
from consumers.trackers.tensorboard import TensorBoardSink
from consumers.trackers.wandb import WandbSink
from infra.envelope import message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from schemas.base import Event
from schemas.learning import AdamStep, Evaluation, GradientUpload, UploadsRefused, WeightVersion
from schemas.records import Partition, Record
from schemas.topics import TOPICS
from streams.learning.keys import manifest_key
from streams.learning.spill import spill

NO_STOP = threading.Event()
STEP = AdamStep(step=1, learning_rate=0.125, grad_norm=2.0, clip_factor=0.5)


class ListSink:
    """Keeps what it is given; what was not flushed does not outlive it."""

    def __init__(self) -> None:
        self.queued: list[Scalars] = []
        self.written: list[Scalars] = []

    def write(self, scalars: Scalars) -> None:
        self.queued.append(scalars)

    def flush(self) -> None:
        self.written += self.queued
        self.queued.clear()

    def close(self) -> None:
        self.flush()


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog("ns.")
    log.provision(list(TOPICS.values()))
    return log


def append(log: MemoryLog, event: Event) -> Record:
    (record,) = log.append([message(event)])
    return record


def sent(log: MemoryLog, number: int, reward: float, weight: float = 1.0) -> tuple[Any, Record]:
    event = upload(BookLog(), f"u{number}", number, {"samples-0": (number, number + 1)})
    event = event.model_copy(update={"stats": {"reward_mean": reward}, "weight": weight})
    return event, append(log, event)


def stepped(log: MemoryLog, number: int, uploads: list[tuple[Any, Record]], **more: Any) -> Record:
    """Publish version `number`, made of these uploads."""
    slots = [BookLog().put("x", event) for event, _ in uploads]
    named = [
        applied(slot).model_copy(update={"at": record.at})
        for slot, (_, record) in zip(slots, uploads, strict=True)
    ]
    last = max((record.offset for _, record in uploads), default=-1)
    resume = {str(record.partition): last + 1 for _, record in uploads}
    return append(log, version(BookLog(), number, uploads=named, resume=resume, step=STEP, **more))


def learnt(log: MemoryLog, first: int, last: int) -> None:
    """Versions `first` to `last`, each of one upload, each evaluated."""
    for number in range(first, last + 1):
        stepped(log, number, [sent(log, number - 1, number / 10)])
        append(log, evaluation(number))


def tracked(log: MemoryLog, folder: Path, **options: Any) -> list[Scalars]:
    sink = ListSink()
    track(
        log,
        MemoryStore(),
        sink,
        Memory(folder, options.get("policy")),
        NO_STOP,
        once=True,
        **options,
    )
    return sink.written


def rewards(found: list[Scalars]) -> dict[int, float]:
    tag = "train/reward_mean"
    return {s.version: s.values[tag] for s in found if tag in s.values}


# -- the fold ----------------------------------------------------------------------------------


def test_an_upload_becomes_a_scalar_of_the_version_that_applied_it(
    log: MemoryLog, tmp_path: Path
) -> None:
    uploads = [sent(log, 0, 0.25, weight=3.0), sent(log, 1, 0.75, weight=1.0)]
    stepped(log, 1, uploads, staleness=0.5)
    (scalars,) = tracked(log, tmp_path)
    assert (scalars.policy, scalars.version) == ("main", 1)
    assert scalars.values["train/reward_mean"] == pytest.approx(0.375)
    assert scalars.values["optimizer/learning_rate"] == 0.125
    assert scalars.values["loop/staleness"] == 0.5
    assert scalars.values["loop/samples"] == 0


def test_a_version_that_lists_its_uploads_beside_its_event_has_the_same_scalars(
    log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, record = sent(log, 0, 0.25)
    slot, part = BookLog().put("u", one), record.partition
    named = applied(slot).model_copy(update={"at": record.at})
    event = version(BookLog(), 1, uploads=[named], resume={str(part): record.offset + 1})
    store, sink = MemoryStore(), ListSink()
    monkeypatch.setattr("streams.learning.spill.INLINE_BYTES", 0)
    small = finished(spill(event, partial(manifest_key, "main", 1)), store)
    assert small.count("uploads") == 1 and not small.uploads
    append(log, small)
    track(log, store, sink, Memory(tmp_path, None), NO_STOP, once=True)
    assert rewards(sink.written) == {1: 0.25}


def test_evaluations_are_scalars_of_their_version(log: MemoryLog, tmp_path: Path) -> None:
    append(log, evaluation(7))
    (scalars,) = tracked(log, tmp_path)
    values = {"heldout/accuracy": 0.5, "heldout/reward": 0.5}
    assert (scalars.version, scalars.values) == (7, values)


def test_a_version_waits_for_its_uploads() -> None:
    fold, partition = ScalarFold(), Partition("weight-versions", 0)
    slot = BookLog().put("u", upload(BookLog(), "u0", 0, {"samples-0": (0, 1)}))
    slot.edit(stats={"reward_mean": 0.5})
    event = version(BookLog(), 1, uploads=[applied(slot)], resume={"gradient-chunks-0": 1})
    at_upload = Record(slot.partition, 0, None, b"", event=slot.event)
    fold.begin({slot.partition: 0, partition: 0})
    assert fold.observe(Record(partition, 0, None, b"", event=event)) == []
    assert fold.positions() == {slot.partition: 0, partition: 0}
    assert rewards(fold.observe(at_upload)) == {1: 0.5}
    assert fold.positions() == {slot.partition: 1, partition: 1}


def test_an_open_upload_is_read_again_after_a_restart(log: MemoryLog, tmp_path: Path) -> None:
    first, second = sent(log, 0, 0.25), sent(log, 1, 0.75)
    stepped(log, 1, [first])
    assert rewards(tracked(log, tmp_path)) == {1: 0.25}
    remembered = json.loads((tmp_path / Memory.NAME).read_text())["positions"]
    assert remembered[str(second[1].partition)] == second[1].offset
    stepped(log, 2, [second])
    assert rewards(tracked(log, tmp_path)) == {2: 0.75}


def test_refused_uploads_are_forgotten(log: MemoryLog, tmp_path: Path) -> None:
    event, record = sent(log, 0, 0.25)
    slot = BookLog().put("x", event)
    refusal = UploadsRefused(
        policy="main",
        head=0,
        refused=[refused(slot, "stale").model_copy(update={"at": record.at})],
        marks={},
        resume={str(record.partition): record.offset + 1},
        totals=version(BookLog(), 0).totals,
    )
    append(log, refusal)
    assert tracked(log, tmp_path) == []
    remembered = json.loads((tmp_path / Memory.NAME).read_text())["positions"]
    assert remembered[str(record.partition)] == record.offset + 1


def test_only_steps_and_evaluations_are_scalars() -> None:
    fold, found = ScalarFold("main"), []
    for name in valid().slots:
        slot = valid()[name]
        if isinstance(slot.event, GradientUpload | WeightVersion | Evaluation):
            record = Record(slot.partition, slot.offset, None, b"", event=slot.event)
            found += fold.observe(record)
    assert [s.version for s in found] == [1, 2, 0, 3, 0]


# -- following ---------------------------------------------------------------------------------


def test_a_restart_goes_on_without_repeating(log: MemoryLog, tmp_path: Path) -> None:
    learnt(log, 1, 3)
    assert sorted(rewards(tracked(log, tmp_path))) == [1, 2, 3]
    assert tracked(log, tmp_path) == []
    learnt(log, 4, 5)
    again = tracked(log, tmp_path)
    assert sorted(rewards(again)) == [4, 5]
    assert len(again) == 4


def test_what_was_not_flushed_is_written_again(log: MemoryLog, tmp_path: Path) -> None:
    class Dies(ListSink):
        def flush(self) -> None:
            raise OSError("disk full")

    learnt(log, 1, 2)
    with pytest.raises(OSError, match="disk full"):
        track(log, MemoryStore(), Dies(), Memory(tmp_path, None), NO_STOP, once=True)
    assert sorted(rewards(tracked(log, tmp_path))) == [1, 2]


def test_one_policy_is_tracked_alone(log: MemoryLog, tmp_path: Path) -> None:
    learnt(log, 1, 1)
    append(log, evaluation(3).model_copy(update={"policy": "other"}))
    assert {s.policy for s in tracked(log, tmp_path, policy="main")} == {"main"}
    with pytest.raises(TrackerError, match="curves of policy 'main'"):
        tracked(log, tmp_path, policy="other")


def test_two_trackers_do_not_share_a_folder(log: MemoryLog, tmp_path: Path) -> None:
    with Memory(tmp_path, None).held(), pytest.raises(TrackerError, match="another tracker"):
        tracked(log, tmp_path)


def test_what_retention_deleted_is_passed_over(log: MemoryLog, tmp_path: Path) -> None:
    learnt(log, 1, 1)
    tracked(log, tmp_path)
    learnt(log, 2, 4)
    (partition,) = {r.partition for r in [append(log, evaluation(9))]}
    log.truncate(partition, 3)
    found = tracked(log, tmp_path)
    assert sorted(s.version for s in found if "heldout/accuracy" in s.values) == [4, 9]


def test_positions_of_another_log_are_refused(log: MemoryLog, tmp_path: Path) -> None:
    learnt(log, 1, 3)
    tracked(log, tmp_path)
    other = MemoryLog()
    other.provision(list(TOPICS.values()))
    with pytest.raises(TrackerError, match="that was another log"):
        tracked(other, tmp_path)


def test_a_damaged_file_is_named(log: MemoryLog, tmp_path: Path) -> None:
    (tmp_path / Memory.NAME).write_text("{")
    with pytest.raises(TrackerError, match=r"ralo-positions\.json is damaged"):
        tracked(log, tmp_path)


def test_following_ends_when_told(log: MemoryLog, tmp_path: Path) -> None:
    learnt(log, 1, 2)
    stop = threading.Event()

    class Stops(ListSink):
        def write(self, scalars: Scalars) -> None:
            super().write(scalars)
            stop.set()

    sink = Stops()
    assert track(log, MemoryStore(), sink, Memory(tmp_path, None), stop) == len(sink.written) == 4


# -- TensorBoard -------------------------------------------------------------------------------


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(e.step, e.value) for e in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def write_tensorboard(log: MemoryLog, folder: Path) -> None:
    sink = TensorBoardSink(folder)
    try:
        track(log, MemoryStore(), sink, Memory(folder, None), NO_STOP, once=True)
    finally:
        sink.close()


def test_tensorboard_reads_what_was_written(log: MemoryLog, tmp_path: Path) -> None:
    learnt(log, 1, 3)
    write_tensorboard(log, tmp_path)
    learnt(log, 4, 5)
    write_tensorboard(log, tmp_path)
    found = curves(tmp_path / "main")
    expected = [(v, pytest.approx(v / 10)) for v in range(1, 6)]
    assert sorted(found["train/reward_mean"]) == expected
    assert sorted(found["heldout/accuracy"]) == [(v, 0.5) for v in range(1, 6)]
    assert {step for step, _ in found["optimizer/grad_norm"]} == {1, 2, 3, 4, 5}


def test_a_policy_does_not_lead_out_of_the_logdir(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path / "logs")
    sink.write(Scalars("../out/x", 1, 0, {"a": 1.0}))
    sink.close()
    (folder,) = (tmp_path / "logs").iterdir()
    assert curves(folder) == {"a": [(1, 1.0)]}
    assert list(tmp_path.iterdir()) == [tmp_path / "logs"]


# -- Weights & Biases --------------------------------------------------------------------------


def chunks(data: bytes) -> Iterator[bytes]:
    """The records of a `.wandb` file: a LevelDB log of 32 KiB blocks after a header of 7 bytes."""
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 0x8000 - at % 0x8000 < 7:
            at += 0x8000 - at % 0x8000
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a record in one piece, or the last piece of one
            yield whole
            whole = b""


def history(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of all offline runs below a folder, as `wandb sync` would send them."""
    from wandb.proto.wandb_internal_pb2 import Record as WandbRecord

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in chunks(path.read_bytes()):
            record = WandbRecord.FromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}


@pytest.mark.slow
def test_wandb_has_what_was_written(log: MemoryLog, tmp_path: Path) -> None:
    import wandb

    for first, last in ((1, 2), (3, 3)):
        learnt(log, first, last)
        sink = WandbSink("spelling", tmp_path)
        track(log, MemoryStore(), sink, Memory(tmp_path / "wandb", None), NO_STOP, once=True)
        sink.close()
    wandb.teardown()
    rows = list(history(tmp_path))
    assert {r["version"]: r["train/reward_mean"] for r in rows if "train/reward_mean" in r} == {
        1: pytest.approx(0.1),
        2: pytest.approx(0.2),
        3: pytest.approx(0.3),
    }
    assert sorted(r["version"] for r in rows if "heldout/accuracy" in r) == [1, 2, 3]
    assert len(rows) == 6
