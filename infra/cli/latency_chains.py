"""The two chains that `ralo bench latency` times: ours, and one of confluent-kafka alone."""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.cli.bench_stack import say
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.kafka.log import KafkaLog
    from schemas.acting import SensorFrame
    from schemas.base import Event
    from schemas.missions import RobotMission
    from schemas.records import Record
    from schemas.robot_file import RobotFile
    from schemas.worlds import World

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WORLD = EXAMPLES / "worlds" / "patrol.yaml"
ROBOT = "bench-rover"
BARE = ("bare-frames", "bare-states", "bare-commands")
SIZED = 200
"""Frames whose sizes, and those of what follows from them, the bare chain takes for its own."""
STOP_S = 10.0
MAX_RECORDS = 100


class BenchError(Exception):
    """The bench could not measure; says why."""


@dataclass(frozen=True)
class Work:
    """What each hop has to do: bytes of what it passes on, and how long it computes."""

    frame_bytes: int
    state_bytes: int
    command_bytes: int
    fusion_ms: float
    controller_ms: float


@dataclass
class Chain:
    """One way from a frame to a command: what is sent, and when what comes back was received."""

    name: str
    send: Callable[[int], None]
    received: Callable[[float], Sequence[tuple[int, int]]]
    """Waits so many seconds at most; answers frames' numbers with times in ns."""
    sent_ns: dict[int, int] = field(default_factory=dict)
    back_ns: dict[int, int] = field(default_factory=dict)

    def publish(self, number: int) -> None:
        """Send one frame, and remember when."""
        self.sent_ns[number] = time.monotonic_ns()
        self.send(number)

    def listen(self, ended: threading.Event) -> None:
        """Receive until told to end."""
        while not ended.is_set():
            for number, at_ns in self.received(0.05):
                self.back_ns.setdefault(number, at_ns)

    def waits(self) -> bool:
        """Whether the last frame is not answered yet."""
        return max(self.sent_ns) not in self.back_ns

    def figures(self, first: int) -> dict[str, Any]:
        """Milliseconds from sending to receiving, of the frames from this number on."""
        wanted = [number for number in self.sent_ns if number >= first]
        took = sorted(
            (self.back_ns[n] - self.sent_ns[n]) / 1e6 for n in wanted if n in self.back_ns
        )
        if not took:
            raise BenchError(f"{self.name}: no command came back for {len(wanted)} frames")
        return {
            "p50_ms": round(_quantile(took, 0.5), 3),
            "p99_ms": round(_quantile(took, 0.99), 3),
            "max_ms": round(took[-1], 3),
            "frames": len(wanted),
            "without_command": len(wanted) - len(took),
        }


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# -- ours ---------------------------------------------------------------------------------------


def drive(world: "World", count: int, rate_hz: float) -> list["SensorFrame"]:
    """What a simulated rover measures while it drives round."""
    from producers.robots.recording import Recording

    found: list[SensorFrame] = []
    driven, said = next(iter(world.rovers)), time.monotonic()
    recording = Recording(world, count / rate_hz + 10, seed=0, frame_hz=rate_hz)
    for frames, _ in recording:
        found += [frame for frame in frames if frame.robot_id == driven]
        if time.monotonic() - said > 2:
            said = time.monotonic()
            say(f"driving a rover: {len(found):,} of {count:,} frames")
        if len(found) >= count:
            break
    return [frame.model_copy(update={"robot_id": ROBOT}) for frame in found[:count]]


def robot_file(undo: contextlib.ExitStack) -> tuple["RobotFile", Path]:
    """The example's rover under a name of its own."""
    import yaml

    from infra.robots import read_robot

    document = yaml.safe_load((EXAMPLES / "robots" / "rover.yaml").read_text())
    folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="ralo-bench-"))
    path = Path(folder) / "robot.yaml"
    path.write_text(yaml.safe_dump({**document, "robot_id": ROBOT}))
    return read_robot(path), path


def our_chain(
    config: Settings,
    log: "KafkaLog",
    path: Path,
    frames: Sequence["SensorFrame"],
    undo: contextlib.ExitStack,
) -> Chain:
    """Fusion and controller as processes of their own."""
    from infra.envelope import message
    from schemas.acting import Command
    from schemas.topics import decode

    for name in ("fusion", "controller"):
        command = [sys.executable, "-m", "infra.cli", "run", name, "--robot", str(path)]
        _start(name, command, undo, _environ(config))
    writer = log.live_writer()
    reader = log.live_reader({p: end for p, (_, end) in log.ends(Command.topic).items()})
    undo.callback(reader.close)
    undo.callback(writer.close)

    # As the bare chain's: made before they are timed.
    messages = [message(frame) for frame in frames]

    def send(number: int) -> None:
        writer.send(messages[number])
        writer.serve()

    def received(timeout_s: float) -> list[tuple[int, int]]:
        records = reader.poll(MAX_RECORDS, timeout_s)
        at_ns = time.monotonic_ns()
        events = [decode(record.partition.topic, record.value) for record in records]
        return [(event.frame_seq, at_ns) for event in events if isinstance(event, Command)]

    return Chain("ralo", send, received)


def mission_of(world: "World") -> "RobotMission":
    """Waypoints without an end, so that the controller has something to do."""
    from schemas.missions import Patrol, RobotMission

    rover = next(iter(world.rovers.values()))
    patrol = Patrol(waypoints=rover.waypoints or [(6.0, 6.0)], laps=10_000)
    return RobotMission(mission_id="bench", robots={ROBOT: patrol})


def _environ(config: Settings) -> dict[str, str]:
    """Where the processes find the stack and the namespace of this bench."""
    ours = {"RALO_STATE_DIR": str(config.state_dir), "RALO_NAMESPACE": config.namespace}
    return {**os.environ, **ours}


def _start(
    name: str,
    command: Sequence[str],
    undo: contextlib.ExitStack,
    environ: Mapping[str, str] | None = None,
) -> None:
    """A process that ends when the bench does, with what it says where it can be shown."""
    folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="ralo-bench-"))
    said = Path(folder) / "said"
    with said.open("w") as words:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=words, stderr=words, env=environ
        )

    def end() -> None:
        died = process.poll()
        process.terminate()
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()
        if died is not None:
            say(f"{name} ended with status {died}: {said.read_text()[-2000:]}")

    undo.callback(end)


# -- bare ---------------------------------------------------------------------------------------


def bare_chain(log: "KafkaLog", work: Work, undo: contextlib.ExitStack) -> Chain:
    """The same with confluent-kafka alone: a number passed on in payloads of the same sizes."""
    from infra.cli import bare_hop
    from schemas.topics import Topic

    log.provision([Topic(name, (), partitions=1) for name in BARE])
    frames, states, commands = (f"{log.namespace}{name}" for name in BARE)
    hops = ((frames, states, work.state_bytes), (states, commands, work.command_bytes))
    for source, target, size in hops:
        command = [sys.executable, "-m", bare_hop.__name__, log.bootstrap, source, target]
        _start(f"{source} to {target}", [*command, str(size)], undo)
    producer = bare_hop.producer(log.bootstrap)
    consumer = bare_hop.consumer(log.bootstrap, commands)
    undo.callback(consumer.close)
    rest = b"x" * (work.frame_bytes - bare_hop.HEAD_BYTES)

    def send(number: int) -> None:
        producer.produce(frames, number.to_bytes(bare_hop.HEAD_BYTES, "big") + rest)
        producer.poll(0)

    def received(timeout_s: float) -> list[tuple[int, int]]:
        got = consumer.poll(timeout_s)
        at_ns = time.monotonic_ns()
        if got is None or got.error() is not None:
            return []
        return [(int.from_bytes(got.value()[: bare_hop.HEAD_BYTES], "big"), at_ns)]

    return Chain("bare confluent-kafka", send, received)


def measured_work(robot: "RobotFile", world: "World", frames: Sequence["SensorFrame"]) -> Work:
    """Sizes and times of one after another, by the same code as in the processes."""
    from producers.robots.registry import make_driver
    from streams.acting.control.controller import Controller
    from streams.acting.fusion import SensorFusion

    fusion = SensorFusion({robot.robot_id: robot.fusion})
    controller = Controller(robot, make_driver(robot, Path()).spec, epoch=0)
    controller.replay(_record(mission_of(world), 0))
    sizes: dict[str, list[int]] = {"sensor-frame": [], "fused-state": [], "command": []}
    took_ms: dict[str, list[float]] = {"fusion": [], "controller": []}
    for offset, frame in enumerate(frames[:SIZED]):
        states = _timed(took_ms["fusion"], fusion.take, _record(frame, offset))
        found = [frame, *states]
        for state in states:
            found += _timed(took_ms["controller"], controller.take, _record(state, offset))
        for event in found:
            if event.type in sizes:
                sizes[event.type].append(len(event.to_bytes()))
    return Work(
        *(round(sum(of) / len(of)) for of in sizes.values()),
        *(round(statistics.median(of), 3) for of in took_ms.values()),
    )


def _record(event: "Event", offset: int) -> "Record":
    from schemas.records import Partition, Record

    return Record(Partition(event.topic, 0), offset, None, None, event=event)


def _timed(
    took_ms: list[float], take: Callable[["Record"], Iterable["Event"]], record: "Record"
) -> list["Event"]:
    began = time.perf_counter()
    events = list(take(record))
    took_ms.append(1000 * (time.perf_counter() - began))
    return events
