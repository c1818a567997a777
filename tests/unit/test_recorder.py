"""Recordings: what is in them, read by the reader of the `mcap` package, and torn ones mended."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from acting_books import WALL_MS, frame, release, safety, valid
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from mcap.reader import make_reader
from mcap.records import Channel, Message, Schema

from consumers.recorder.entries import Entry, event_schema, viewable
from consumers.recorder.follow import ACTING, Recorder, Wanted, beginnings, follow
from consumers.recorder.mend import extract_frames, recover, summarize
from consumers.recorder.recording import Recording
from consumers.recorder.scan import NotMcap
from consumers.recorder.views import Views, quaternion
from infra.cli.record import RecordError, _since_ms, _topics, _wanted, app
from infra.envelope import message
from infra.memory.log import MemoryLog
from infra.schema_docs import event_type, events, json_schema
from schemas.acting import FusedState, Reading, SensorFrame
from schemas.base import Event
from schemas.missions import Patrol, RobotMission, RobotMissionResult
from schemas.records import Partition, Record
from schemas.robots import ChannelSpec, DriverSpec
from schemas.topics import TOPICS, Topic

Read = tuple[Schema, Channel, Message]

SCAN = DriverSpec(
    name="rover",
    channels=[
        ChannelSpec(
            name="lidar",
            kind="scan",
            fields=["range_m@0.5", "range_m@0", "range_m@-0.5"],
            rate_hz=10,
        )
    ],
    set_point=[],
    rest=[],
)


def read(path: Path) -> list[Read]:
    """By the index, CRCs checked; in the order of log time."""
    with path.open("rb") as file:
        found = make_reader(file, validate_crcs=True).iter_messages()
        return [(schema, channel, message) for schema, channel, message in found if schema]


def drawn(schema: Schema, data: bytes) -> Any:
    """A message in a well-known schema, decoded by protobuf from the schema in the file alone."""
    assert schema.encoding == "protobuf"
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(schema.data).file:
        pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name))
    return kind.FromString(data)


def of(event: Event, offset: int = 0, logged_ms: int = WALL_MS + 7) -> Record:
    partition = Partition(event.topic, 0)
    return Record(partition, offset, event.key.encode(), event.to_bytes(), timestamp_ms=logged_ms)


def recorded(path: Path, *records: Record, **more: Any) -> list[Read]:
    recording = Recording(path, {"namespace": "ns."})
    recorder = Recorder(recording, Views({"rover": SCAN}, more.pop("camera", None)), **more)
    for record in records:
        recorder.take(record)
    recording.close()
    return read(path)


def by_topic(found: list[Read]) -> dict[str, Read]:
    return {channel.topic: (schema, channel, message) for schema, channel, message in found}


def state(**more: Any) -> FusedState:
    fields: dict[str, Any] = {
        "robot_id": "rover",
        "boot_id": "b1",
        "stamp_ms": 20.0,
        "wall_ms": WALL_MS + 1.5,
        "frame_seq": 0,
        "filter": "planar",
        "names": ["x_m", "y_m", "heading_rad", "v_mps"],
        "mean": [1.0, 2.0, math.pi / 2, 0.0],
        "covariance": [1.0],
        "source": {"sensor-frames-0": (0, 1)},
    }
    return FusedState(**(fields | more))


# -- events -------------------------------------------------------------------------------------


def test_events_are_recorded_byte_by_byte_under_their_names(tmp_path: Path) -> None:
    event = frame(0)
    (found,) = recorded(tmp_path / "x.mcap", of(event, offset=2**32 + 5))
    schema, channel, got = found
    assert (schema.name, schema.encoding) == ("ralo.SensorFrame", "jsonschema")
    assert (channel.topic, channel.message_encoding) == ("/rover/sensor-frame", "json")
    assert got.data == event.to_bytes()
    assert got.sequence == 5


def test_log_time_and_publish_time_are_told_apart(tmp_path: Path) -> None:
    ((_, _, got),) = recorded(tmp_path / "x.mcap", of(frame(1), logged_ms=WALL_MS + 500))
    assert got.log_time == (WALL_MS + 500) * 1_000_000
    assert got.publish_time == (WALL_MS + 20) * 1_000_000


@pytest.mark.parametrize("logged_ms", [0, -1, 12_345])
def test_no_stamp_is_near_the_epoch(tmp_path: Path, logged_ms: int) -> None:
    """A robot without a clock, by way of a producer that stamps nothing."""
    record = of(frame(1, wall_ms=20.0), logged_ms=logged_ms)
    ((_, _, got),) = recorded(tmp_path / "x.mcap", record, wall_ms=lambda: WALL_MS + 3.0)
    assert got.log_time == got.publish_time == (WALL_MS + 3) * 1_000_000


def test_every_event_has_a_schema_that_viewers_take() -> None:
    for event in events():
        plain = json.loads(event_schema(event_type(event)).data)
        assert plain["title"] == event_schema(event_type(event)).name
        assert {"type", "schema_version"} <= plain["properties"].keys()
        _judge(plain)


def _judge(schema: dict[str, Any]) -> None:
    """What viewers of JSON Schema take: plain types, objects with properties, flat lists."""
    assert schema.keys() <= {"type", "title", "description", "properties", "items"}
    if schema["type"] == "object":
        for field in schema["properties"].values():
            _judge(field)
    elif schema["type"] == "array":
        assert schema["items"]["type"] != "array"
        _judge(schema["items"])
    else:
        assert schema["type"] in ("boolean", "string", "number", "integer")


def test_a_schema_keeps_what_can_be_said_plainly() -> None:
    plain = viewable(json_schema(SensorFrame))
    reading = plain["properties"]["readings"]["items"]["properties"]
    assert reading["values"]["items"] == {"type": "number"}
    assert reading["stamp_ms"]["description"].startswith("when it was measured")
    assert "golden" not in viewable({"type": "object", "properties": {"golden": {"anyOf": []}}})


# -- what is drawn ------------------------------------------------------------------------------


def test_a_state_is_a_pose_and_a_transform(tmp_path: Path) -> None:
    found = by_topic(recorded(tmp_path / "x.mcap", of(state())))
    schema, _, got = found["/rover/pose"]
    pose = drawn(schema, got.data)
    assert (schema.name, pose.frame_id) == ("foxglove.PoseInFrame", "map")
    assert (pose.pose.position.x, pose.pose.position.y) == (1.0, 2.0)
    assert pose.pose.orientation.z == pytest.approx(math.sin(math.pi / 4))
    assert (pose.timestamp.seconds, pose.timestamp.nanos) == (WALL_MS // 1000, 1_500_000)
    schema, _, got = found["/rover/transform"]
    transform = drawn(schema, got.data)
    assert (transform.parent_frame_id, transform.child_frame_id) == ("map", "rover")
    assert transform.translation.y == 2.0


def test_readings_are_drawn_at_their_own_time(tmp_path: Path) -> None:
    readings = [
        Reading(channel="truth", seq=0, stamp_ms=90.0, values=[1.0, 2.0, 0.0, 0.5, 0.0]),
        Reading(channel="lidar", seq=0, stamp_ms=95.0, values=[1.0, 2.0, 3.0]),
        Reading(channel="joints", seq=0, stamp_ms=95.0, values=[0.1, 0.2, 1.0, 2.0]),
    ]
    event = frame(5, stamp_ms=100.0, wall_ms=WALL_MS + 100.0, readings=readings)
    found = by_topic(recorded(tmp_path / "x.mcap", of(event)))
    schema, _, got = found["/rover/truth"]
    assert drawn(schema, got.data).pose.position.x == 1.0
    assert got.publish_time == (WALL_MS + 90) * 1_000_000
    schema, _, got = found["/rover/lidar"]
    scan = drawn(schema, got.data)
    assert (schema.name, scan.frame_id) == ("foxglove.LaserScan", "rover")
    assert (scan.start_angle, scan.end_angle, list(scan.ranges)) == (-0.5, 0.5, [3.0, 2.0, 1.0])
    schema, _, got = found["/rover/joints"]
    joints = drawn(schema, got.data).joints
    assert [(j.name, j.position, j.velocity) for j in joints] == [
        ("joint_1", 0.1, 1.0),
        ("joint_2", 0.2, 2.0),
    ]


def test_a_scan_of_unknown_directions_is_not_drawn(tmp_path: Path) -> None:
    reading = Reading(channel="scan", seq=0, stamp_ms=0.0, values=[1.0])
    found = recorded(tmp_path / "x.mcap", of(frame(0, readings=[reading])))
    assert list(by_topic(found)) == ["/rover/sensor-frame"]


def test_safety_and_releases_are_lines_of_a_log(tmp_path: Path) -> None:
    stop = safety(1, "HOLD", "SAFE_STOP", detail="for 10 s")
    back = release("r1", "ROLLED_BACK", 3).model_copy(update={"reason": "NaN"})
    found = recorded(tmp_path / "x.mcap", of(stop), of(back, offset=1))
    lines = [drawn(s, m.data) for s, c, m in found if c.topic == "/rover/log"]
    assert [(line.level, line.message) for line in lines] == [
        (4, "HOLD -> SAFE_STOP: silence for 10 s"),
        (3, "reach 3: ROLLED_BACK NaN"),
    ]


def test_a_patrol_is_poses_and_a_camera_gives_images(tmp_path: Path) -> None:
    patrol = Patrol(waypoints=[(1.0, 0.0), (2.0, 3.0)])
    mission = RobotMission(mission_id="m1", robots={"rover": patrol})
    soon, later = (state(wall_ms=WALL_MS + after_ms) for after_ms in (100.0, 600.0))
    places: list[dict[str, Any]] = []

    def camera(at: Any) -> bytes:
        places.append(dict(at))
        return b"\x89PNG"

    records = of(mission), of(state()), of(soon, 1), of(later, 2)
    found = by_topic(recorded(tmp_path / "x.mcap", *records, camera=camera))
    schema, _, got = found["/rover/waypoints"]
    assert [(p.position.x, p.position.y) for p in drawn(schema, got.data).poses] == [
        (1.0, 0.0),
        (2.0, 3.0),
    ]
    schema, _, got = found["/camera"]
    assert (schema.name, drawn(schema, got.data).format) == ("foxglove.CompressedImage", "png")
    assert places == [{"rover": [1.0, 2.0, math.pi / 2]}] * 2


def test_a_quaternion_turns_as_its_angles_say() -> None:
    assert quaternion(0.0, 0.0, math.pi) == pytest.approx((0, 0, 1, 0))
    assert quaternion(math.pi, 0.0, 0.0) == pytest.approx((1, 0, 0, 0))
    x, y, z, w = quaternion(0.3, -0.2, 1.1)
    assert x * x + y * y + z * z + w * w == pytest.approx(1)
    # The body's x axis after yaw and pitch, by the rotation matrix of a quaternion.
    assert 1 - 2 * (y * y + z * z) == pytest.approx(math.cos(-0.2) * math.cos(1.1))
    assert 2 * (x * z - w * y) == pytest.approx(-math.sin(-0.2))


# -- following a log ----------------------------------------------------------------------------


def filled() -> MemoryLog:
    log, books = MemoryLog("ns."), valid()
    log.provision(list(TOPICS.values()))
    log.append([message(slot.event) for slot in books.slots.values()])
    return log


def follow_all(log: MemoryLog, path: Path, wanted: Wanted, since_ms: float | None = 0) -> Recorder:
    recorder = Recorder(Recording(path, {}), Views({}), wanted, wall_ms=lambda: WALL_MS + 0.0)
    start = beginnings(log, [topic.name for topic in ACTING], since_ms)
    follow(recorder, log, start, lambda: False, once=True)
    recorder.recording.close()
    return recorder


def test_the_acting_topics_are_recorded_whole(tmp_path: Path) -> None:
    log = filled()
    recorder = follow_all(log, tmp_path / "x.mcap", Wanted())
    assert recorder.events == {
        type_: sum(s.event.type == type_ for s in valid().slots.values())
        for type_ in {s.event.type for s in valid().slots.values()}
    }
    names = {schema.name for schema, _, _ in read(tmp_path / "x.mcap")}
    assert {"ralo.Command", "ralo.Feedback", "ralo.ControllerClaim", "foxglove.Log"} <= names


def test_one_robot_is_recorded_alone(tmp_path: Path) -> None:
    recorder = follow_all(filled(), tmp_path / "x.mcap", Wanted(frozenset({"other"})))
    assert recorder.events == {
        "sensor-frame": 1,
        "fused-state": 1,
        "command": 1,
        "controller-claim": 1,
        "robot-mission": 1,
        "robot-mission-result": 1,
    }


def test_nothing_before_now_is_recorded(tmp_path: Path) -> None:
    recorder = follow_all(filled(), tmp_path / "x.mcap", Wanted(), since_ms=None)
    assert not recorder.events
    assert read(tmp_path / "x.mcap") == []


def test_a_recording_ends_with_its_mission(tmp_path: Path) -> None:
    log = filled()
    mission = RobotMission(mission_id="m1", robots={"rover": Patrol(waypoints=[(0, 0)])})
    recorder = Recorder(Recording(tmp_path / "x.mcap", {}), Views({}), wall_ms=lambda: WALL_MS)
    recorder.wanted = Wanted(frozenset({"rover"}), mission)
    follow(recorder, log, beginnings(log, ["mission-results"], 0), lambda: False)
    assert recorder.ended == {"rover"}
    recorder.recording.close()


def test_what_is_no_event_is_counted(tmp_path: Path) -> None:
    recorder = Recorder(Recording(tmp_path / "x.mcap", {}), Views({}))
    recorder.take(Record(Partition("feedback", 0), 3, b"k", b"{", timestamp_ms=WALL_MS))
    assert recorder.undecodable == ["feedback[0]@3"]
    recorder.recording.close()


def test_missions_of_learners_are_left_out_of_what_all_robots_do() -> None:
    result = RobotMissionResult(mission_id="m1", robot_id="rover", outcome="done")
    learner = _first(TOPICS["missions"])
    assert result in Wanted() and learner not in Wanted()
    assert learner in Wanted(learners=True)
    assert result not in Wanted(frozenset({"other"}))


def _first(topic: Topic) -> Event:
    from audit_books import mission

    assert topic.name == "missions"
    return mission("m1", "main")


# -- torn files ---------------------------------------------------------------------------------


def written(path: Path, count: int = 300, every: int = 100) -> Recording:
    recording = Recording(path, {"namespace": "ns."})
    for index in range(count):
        recording.write(entry(index))
        if index % every == every - 1:
            recording.flush()
    return recording


def entry(index: int) -> Entry:
    data = frame(index).to_bytes()
    at = (WALL_MS + index) * 1_000_000
    return Entry("/rover/sensor-frame", event_schema("sensor-frame"), data, at, at + 1, index)


def test_a_whole_file_is_whole(tmp_path: Path) -> None:
    written(tmp_path / "x.mcap").close()
    found = summarize(tmp_path / "x.mcap")
    assert (found.messages, found.damage["any"], found.chunks) == (300, False, 3)
    assert found.about == {"namespace": "ns."}
    assert found.seconds == pytest.approx(0.299)
    assert found.topics == {"/rover/sensor-frame": {"schema": "ralo.SensorFrame", "messages": 300}}


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    written(tmp_path / "x.mcap").close()
    with pytest.raises(FileExistsError):
        Recording(tmp_path / "x.mcap", {})


@pytest.mark.slow
def test_a_file_cut_anywhere_gives_all_that_is_before_the_cut(tmp_path: Path) -> None:
    """Cut at every hundredth byte, and near its end at every one."""
    written(tmp_path / "x.mcap").close()
    data = (tmp_path / "x.mcap").read_bytes()
    ends = _chunk_ends(tmp_path / "x.mcap")
    before = -1
    for cut in [*range(8, len(data), 97), *range(len(data) - 300, len(data))]:
        torn, whole = tmp_path / f"{cut}.torn", tmp_path / f"{cut}.whole"
        torn.write_bytes(data[:cut])
        found = recover(torn, whole)
        sure = 100 * sum(end <= cut for end in ends)
        assert found.damage["any"] and found.messages >= max(sure, before)
        before = found.messages
        sequence = [message.sequence for _, _, message in read(whole)]
        assert sequence == list(range(found.messages))
        torn.unlink(), whole.unlink()
    assert before == 300


def _chunk_ends(path: Path) -> list[int]:
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    return [index.chunk_start_offset + index.chunk_length for index in summary.chunk_indexes]


def test_a_chunk_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    for number in range(3):
        recording = Recording(tmp_path / f"{number}.mcap", {})
        for index in range(900):
            data = os.urandom(200).hex().encode()
            recording.write(Entry("/x", event_schema("feedback"), data, 10**18, 10**18, index))
        recording.close()
        (end, *_), torn = _chunk_ends(tmp_path / f"{number}.mcap"), tmp_path / f"{number}.torn"
        data = (tmp_path / f"{number}.mcap").read_bytes()
        torn.write_bytes(data[: end * 4 // 5])
        found = recover(torn, tmp_path / f"{number}.whole")
        assert 0 < found.damage["salvaged"] == found.messages


def test_a_chunk_with_other_bytes_is_left_out(tmp_path: Path) -> None:
    written(tmp_path / "x.mcap").close()
    data = bytearray((tmp_path / "x.mcap").read_bytes())
    first, second, _ = _chunk_ends(tmp_path / "x.mcap")
    data[(first + second) // 2] ^= 0xFF
    (tmp_path / "bad.mcap").write_bytes(data)
    found = recover(tmp_path / "bad.mcap", tmp_path / "whole.mcap")
    assert (found.messages, found.damage["chunks"]) == (200, 1)
    assert [m.sequence for _, _, m in read(tmp_path / "whole.mcap")] == [
        *range(100),
        *range(200, 300),
    ]


def test_a_recovered_file_keeps_times_channels_and_what_it_was(tmp_path: Path) -> None:
    recording = written(tmp_path / "x.mcap", 100)
    recovered = recover(tmp_path / "x.mcap", tmp_path / "y.mcap")
    recording.close()
    assert recovered.damage == {
        "bytes": 0,
        "chunks": 0,
        "index": True,
        "salvaged": 0,
        "any": True,
    }
    kept, was = read(tmp_path / "y.mcap"), read(tmp_path / "x.mcap")
    assert [(s.name, s.data, c.topic) for s, c, _ in kept] == [
        (s.name, s.data, c.topic) for s, c, _ in was
    ]
    assert [message for _, _, message in kept] == [message for _, _, message in was]


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello, this is no recording")
    with pytest.raises(NotMcap, match="no MCAP file"):
        summarize(tmp_path / "x")
    with pytest.raises(NotMcap):
        recover(tmp_path / "x", tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_frames_come_out_as_they_went_in(tmp_path: Path) -> None:
    follow_all(filled(), tmp_path / "x.mcap", Wanted())
    counts = extract_frames(tmp_path / "x.mcap", tmp_path / "frames.jsonl")
    assert counts == {"rover": 8, "other": 1}
    lines = (tmp_path / "frames.jsonl").read_bytes().splitlines()
    assert [SensorFrame.model_validate_json(line) for line in lines] == [
        slot.event for slot in valid().slots.values() if isinstance(slot.event, SensorFrame)
    ]


def test_frames_of_one_robot_come_out_alone(tmp_path: Path) -> None:
    follow_all(filled(), tmp_path / "x.mcap", Wanted())
    counts = extract_frames(tmp_path / "x.mcap", tmp_path / "frames.jsonl", "other")
    assert counts == {"other": 1}
    assert len((tmp_path / "frames.jsonl").read_bytes().splitlines()) == 1


# -- what is asked for --------------------------------------------------------------------------


def test_a_while_ago_is_a_time_of_day() -> None:
    now_ms = time.time() * 1000
    assert _since_ms("start") == 0.0 and _since_ms("now") is None
    for text, ago_s in (("@-90s", 90), ("@-10m", 600), ("@-1.5h", 5400)):
        since_ms = _since_ms(text)
        assert since_ms == pytest.approx(now_ms - ago_s * 1000, abs=2000)
    with pytest.raises(RecordError, match="--from yesterday: say start, now, or a while ago"):
        _since_ms("yesterday")


def test_topics_are_those_of_the_map() -> None:
    assert _topics(None, ["commands"]) == ["commands"]
    assert _topics(["feedback"], ["commands"]) == ["feedback"]
    with pytest.raises(RecordError, match="no topic comands: there are missions"):
        _topics(["comands"], [])


def test_a_mission_says_which_robots_and_since_when() -> None:
    log = filled()
    wanted, since_ms = _wanted(log, [], "m1")
    assert wanted.robots == {"rover", "other"} and since_ms is not None
    assert _wanted(log, ["rover"], "m1")[0].robots == {"rover"}
    with pytest.raises(RecordError, match="no mission 'm9' for robots in the log; there are: m1"):
        _wanted(log, [], "m9")


def test_the_verb_may_be_left_out() -> None:
    group = typer.main.get_group(app)
    context = group.make_context("record", ["x.mcap", "--seconds", "1"])
    assert context._protected_args + context.args == ["to", "x.mcap", "--seconds", "1"]
    context = group.make_context("record", ["info", "x.mcap"])
    assert context._protected_args + context.args == ["info", "x.mcap"]


LIVE = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_recorder import Recorder, Recording, Views, frame, of
recorder = Recorder(Recording(Path(sys.argv[1]), {}), Views({}))
seq = 0
while True:
    now_ms = time.time() * 1000
    recorder.turn([of(frame(seq, wall_ms=now_ms), logged_ms=int(now_ms))])
    seq += 1
    print(f"{now_ms:.3f}", flush=True)
    time.sleep(0.002)
"""


@pytest.mark.slow
def test_a_killed_recorder_loses_a_second_at_most(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIVE, str(tmp_path / "x.mcap"), str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = _lines_for(process.stdout, 1.7)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest_ms = float([*said, *process.stdout][-1])
    process.stdout.close()
    assert summarize(tmp_path / "x.mcap").damage["index"]
    found = recover(tmp_path / "x.mcap", tmp_path / "y.mcap")
    assert found.last_ms is not None and newest_ms - found.last_ms < 1000
    assert found.messages > 100
    assert [m.sequence for _, _, m in read(tmp_path / "y.mcap")] == [0] * found.messages


def _lines_for(lines: Iterator[str], seconds: float) -> list[str]:
    said = [next(lines)]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        said.append(next(lines))
    return said
