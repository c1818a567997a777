"""One compose project of the shipped docker-compose.yml, seen from the host."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from infra.cli.on import ROOT
from infra.embedded.state import choose_port

PORTS = ("KAFKA_PORT", "MINIO_PORT", "MINIO_CONSOLE_PORT", "ORCHESTRATOR_PORT", "TOPICS_PORT")


class Project:
    """A stack with a project name and ports of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RALO_", "COMPOSE_"))}
        ports = {port: str(choose_port("127.0.0.1")) for port in PORTS}
        # The shipped defaults, whatever this machine's .env says.
        defaults = {"COMPOSE_ENV_FILES": ".env.example", "COMPOSE_PROJECT_NAME": name}
        self.environ = {**kept, **ports, **defaults}
        self.volumes_before = set(docker("volume", "ls", "-q").split())
        self.bootstrap = f"127.0.0.1:{ports['KAFKA_PORT']}"

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What `docker compose …` prints; fails with what it said where it fails."""
        return self._run(["docker", "compose", *arguments], check)

    def ralo(self, *arguments: str, check: bool = True) -> str:
        """What `ralo --on compose …` prints."""
        return self._run([sys.executable, "-m", "infra.cli", "--on", "compose", *arguments], check)

    def script(self, name: str, *arguments: str) -> str:
        """What a script of infra/images prints, told by the environment which stack is meant."""
        return self._run([str(ROOT / "infra/images" / name), *arguments], True, RALO_ON="compose")

    def up(self, *arguments: str) -> None:
        """`docker compose up -d --wait`; fails with the containers' last words."""
        wait = ["up", "-d", "--wait", "--wait-timeout", "300", "--no-build"]
        try:
            self.compose(*wait, *arguments)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.last_words()}") from None

    def _run(self, command: list[str], check: bool, **more: str) -> str:
        environ = {**self.environ, **more}
        done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What `docker inspect` says of the containers of a service, or of all."""
        ids = self.compose("ps", "-a", "-q", *([service] if service else [])).split()
        return inspect(*ids)

    def kill(self, container: dict[str, Any]) -> None:
        """SIGKILL the container's process from the host, as the kernel would."""
        # `docker kill` counts as a manual stop and switches the restart policy off.
        os.kill(process_of(container).pid, signal.SIGKILL)

    def owners(self, group: str) -> dict[str, list[int]]:
        """Member's host: the numbers of its partitions."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        described = admin.describe_consumer_groups([group])[group].result()
        return {
            member.group_instance_id: sorted(
                tp.partition for tp in member.assignment.topic_partitions
            )
            for member in described.members
        }

    def last_words(self) -> str:
        """What the containers said last, for a failing test."""
        return self.compose("ps", "-a", check=False) + self.compose(
            "logs", "--tail", "8", "--no-color", check=False
        )

    def until(self, what: str, look: Callable[[], Any], limit_s: float) -> Any:
        """Wait until a look finds something; fails with the containers' last words."""
        deadline = time.monotonic() + limit_s
        while not (found := look()):
            assert time.monotonic() < deadline, (
                f"{what}: not within {limit_s:.0f} s\n{self.last_words()}"
            )
            time.sleep(0.5)
        return found

    def down(self) -> None:
        """Remove it with all that it holds, as the documentation says."""
        self.compose("--profile", "*", "down", "-v")

    def left(self) -> list[str]:
        """Containers, volumes and networks of the project that exist."""
        label = f"label=com.docker.compose.project={self.name}"
        return [
            line
            for kind in (("ps", "-a"), ("volume", "ls"), ("network", "ls"))
            for line in docker(*kind, "-q", "--filter", label).split()
        ]


def docker(*arguments: str) -> str:
    """What `docker …` prints."""
    done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"docker {arguments}: {done.stderr}"
    return done.stdout


def inspect(*ids: str) -> list[dict[str, Any]]:
    """What the engine says of these containers."""
    found: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
    return found


def process_of(container: dict[str, Any]) -> psutil.Process:
    """The container's process on this machine; skips where the engine runs on another."""
    pid = container["State"]["Pid"]
    try:
        groups = (
            Path(f"/proc/{pid}/cgroup").read_text() + Path(f"/proc/{pid}/mountinfo").read_text()
        )
    except OSError:
        groups = ""
    if container["Id"] not in groups:
        pytest.skip("the containers' processes are not this machine's, or not to be seen")
    return psutil.Process(pid)


def is_healthy(container: dict[str, Any]) -> bool:
    """Whether it runs and its health check says so."""
    state = container["State"]
    return bool(state["Running"]) and state["Health"]["Status"] == "healthy"
