"""A simulated world and the actuators of its robots as real processes, and who commands them."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml

from infra.embedded.stack import Endpoints
from infra.envelope import message
from infra.kafka.log import KafkaLog
from infra.robot.delivery import newest_records
from schemas.acting import Command, ControllerClaim, Feedback, PolicyRef, SafetyEvent
from schemas.base import Event
from schemas.records import Record
from schemas.topics import COMMANDS, FEEDBACK, PROVISIONED, SAFETY_EVENTS, Topic, decode

TRACKER = PolicyRef(policy="tracker", version=0, sha256="0" * 64)
COMMAND_S = 0.05
GOOD_MS = 250.0
"""Long enough for two busy cores; a rover at half a metre a second then stands within 0.5 s."""


def provisioned(stack: Endpoints, namespace: str) -> KafkaLog:
    """The broker's log, with a test's topics."""
    made = KafkaLog(stack.kafka, namespace)
    made.provision(PROVISIONED)
    return made


def environ_of(stack: Endpoints, namespace: str, folder: Path) -> dict[str, str]:
    """What leads a robot's processes to the test's broker and folder."""
    return {
        "RALO_STATE_DIR": str(folder),
        "RALO_NAMESPACE": namespace,
        "RALO_KAFKA__BOOTSTRAP_SERVERS": stack.kafka,
    }


class Robots:
    """Rovers in a yard, each with its actuator."""

    def __init__(self, names: tuple[str, ...], folder: Path, environ: Mapping[str, str]) -> None:
        self.names, self.folder = names, folder
        self.environ = {**os.environ, **environ, "OMP_NUM_THREADS": "1"}
        self._processes: list[subprocess.Popen[bytes]] = []
        self.actuators: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "robots").mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start the world, and the actuators once it answers; they wait for it themselves."""
        starts = {name: [6.0, 3.0 + 3 * i, 0.0] for i, name in enumerate(self.names)}
        world = {
            "name": "yard",
            "low": [0, 0],
            "high": [30, 12],
            "rovers": {name: {"start": start} for name, start in starts.items()},
        }
        self._write("world", world)
        self._run("simulate", str(self.folder / "world.yaml"))
        for name in self.names:
            self._write(name, _robot_file(name))
            self.run_actuator(name)

    def run_actuator(self, name: str) -> None:
        """Start the actuator of one robot."""
        file = str(self.folder / f"{name}.yaml")
        self.actuators[name] = self._run("run", "actuator", "--robot", file)

    def kill_actuator(self, name: str) -> None:
        """SIGKILL it; its link goes on until it has delivered."""
        self.actuators[name].kill()
        self.actuators[name].wait()

    def kill_link(self, name: str) -> None:
        """SIGKILL the link of one robot."""
        (link,) = psutil.Process(self.actuators[name].pid).children()
        link.kill()

    def _write(self, name: str, document: Mapping[str, object]) -> None:
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(dict(document)))

    def _run(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "processes.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli", *arguments],
                env=self.environ,
                stdout=output,
                stderr=output,
            )
        self._processes.append(process)
        return process

    def ralo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A verb on these robots."""
        command = [sys.executable, "-m", "infra.cli", *arguments]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=90)

    def stop(self) -> None:
        """Stop actuators first, the world last."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
            process.wait(30)

    def last_words(self) -> str:
        """What the processes said."""
        return "\n".join((self.folder / "processes.log").read_text().splitlines()[-30:])


def _robot_file(name: str) -> dict[str, object]:
    return {
        "robot_id": name,
        "driver": {"name": "simulated"},
        "fusion": {"channels": {"odometry": {"kind": "odometry", "std": [0.05, 0.05]}}},
        "safety": {"stale_hold_s": {"odometry": 0.5}},
    }


@contextmanager
def running(names: tuple[str, ...], folder: Path, environ: Mapping[str, str]) -> Iterator[Robots]:
    """The robots, all their processes stopped at the end."""
    robots = Robots(names, folder, environ)
    robots.start()
    try:
        yield robots
    finally:
        robots.stop()


class Commander(threading.Thread):
    """A controller of one robot: straight on, slowly, for the boot that it hears of."""

    def __init__(self, log: KafkaLog, robot_id: str) -> None:
        super().__init__(daemon=True)
        self._log, self._robot_id = log, robot_id
        self.quit = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._command()
        except BaseException as error:
            self.failure = error
            raise

    def _command(self) -> None:
        boot_id = self._boot_id()
        claim = ControllerClaim(robot_id=self._robot_id, controller_id="test")
        epoch = self._log.append([message(claim)])[0].offset
        writer = self._log.live_writer()
        seq = 0
        while not self.quit.wait(COMMAND_S):
            command = self._next(boot_id, epoch, seq)
            seq += writer.send(message(command))
            writer.serve()
        writer.flush(5)
        writer.close()

    def _next(self, boot_id: str, epoch: int, seq: int) -> Command:
        # The rover's clock is the machine's.
        now_ms = time.monotonic() * 1000
        return Command(
            robot_id=self._robot_id,
            boot_id=boot_id,
            controller_epoch=epoch,
            seq=seq,
            stamp_ms=now_ms,
            deadline_ms=now_ms + GOOD_MS,
            frame_seq=0,
            set_point=[0.4, 0.0],
            policy=TRACKER,
            source={},
        )

    def _boot_id(self) -> str:
        while not self.quit.is_set():
            for record in newest_records(self._log, FEEDBACK, self._robot_id):
                event = decode(FEEDBACK.name, record.value)
                assert isinstance(event, Feedback)
                return event.boot_id
            time.sleep(0.1)
        return ""


def speed(log: KafkaLog, name: str) -> float:
    """What a robot says that it does now, in m/s."""
    for record in newest_records(log, FEEDBACK, name):
        event = decode(FEEDBACK.name, record.value)
        assert isinstance(event, Feedback)
        return event.applied[0]
    return 0.0


def of_robot(log: KafkaLog, topic: Topic, robot_id: str) -> list[tuple[Record, Event]]:
    """All that the log has of a robot in a topic, in order."""
    records = newest_records(log, topic, robot_id, 1_000_000)
    return [(record, decode(topic.name, record.value)) for record in records]


def feedback_of(log: KafkaLog, robot_id: str) -> list[Feedback]:
    """A robot's feedback, copies dropped."""
    found: dict[tuple[str, int], Feedback] = {}
    for _, event in of_robot(log, FEEDBACK, robot_id):
        assert isinstance(event, Feedback)
        found.setdefault((event.boot_id, event.seq), event)
    return list(found.values())


def safety_of(log: KafkaLog, robot_id: str) -> list[SafetyEvent]:
    """A robot's safety events as they lie in the log, copies included."""
    events = [event for _, event in of_robot(log, SAFETY_EVENTS, robot_id)]
    return [event for event in events if isinstance(event, SafetyEvent)]


def judge_books(log: KafkaLog, name: str) -> None:
    """Every safety event is there once and in order; every command has one outcome.

    None was applied twice or late, whatever was killed.
    """
    numbers = [event.seq for event in safety_of(log, name)]
    assert numbers == list(range(len(numbers)))
    said = feedback_of(log, name)
    for boot_id in {f.boot_id for f in said}:
        seqs = [f.seq for f in said if f.boot_id == boot_id]
        assert seqs == list(range(len(seqs)))
    outcomes = Counter(o.at for f in said for o in f.outcomes)
    commands = [r.at for r, e in of_robot(log, COMMANDS, name) if isinstance(e, Command)]
    assert outcomes == Counter(commands)
    applied = [o for f in said for o in f.outcomes if o.outcome == "applied"]
    assert all(o.at_ms < o.deadline_ms for o in applied)
    ids = [(o.controller_epoch, o.seq) for o in applied]
    assert len(ids) == len(set(ids))
