"""Kafka and MinIO in containers by testcontainers, with what tests do to servers: up, kill, check.

Images and settings are those of docker-compose.yml, so that what is tested is what is deployed.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import docker
import yaml
from docker.errors import DockerException, ImageNotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from infra.cli.on import ROOT
from infra.embedded.health import check_kafka, check_s3
from infra.embedded.stack import Endpoints, Stack
from infra.embedded.state import StackError, choose_port
from infra.provision import provision
from infra.settings import KafkaSettings, S3Endpoint, S3Settings, Settings

HOST = "127.0.0.1"
START_LIMIT_S = 90.0
RYUK = "testcontainers/ryuk"

Report = Callable[[str], None]


def services() -> dict[str, Any]:
    """The services of docker-compose.yml, each variable at its default."""
    text = (ROOT / "docker-compose.yml").read_text()
    plain = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    found: dict[str, Any] = yaml.safe_load(plain)["services"]
    return found


def why_not() -> str | None:
    """Why containers cannot be had here; None where they can."""
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        return f"no container engine answers: {str(error).splitlines()[0]}"
    for name in ("kafka", "minio"):
        image = services()[name]["image"]
        try:
            client.images.get(image)
        except ImageNotFound:
            try:
                client.images.pull(image)
            except DockerException:
                return f"image {image} is not here and cannot be pulled: see infra/images/bases"
    return None


class Containers:
    """A broker and a store that keep their addresses when they are killed and started again."""

    def __init__(self) -> None:
        self.kafka_port, self.minio_port = choose_port(HOST), choose_port(HOST)
        self._running: dict[str, DockerContainer] = {}

    def up(self, report: Report) -> Endpoints:
        """Start what is not running, wait until it works, make the topics."""
        _do_without_ryuk_where_it_cannot_be_had()
        for name, make in (("kafka", self._kafka), ("minio", self._minio)):
            if name not in self._running:
                report(f"starting a container of {services()[name]['image']}")
                self._running[name] = make()
            wrapped = self._running[name].get_wrapped_container()
            wrapped.reload()
            if wrapped.status != "running":
                wrapped.start()
        self._await()
        provision(self.settings())
        return self.check()

    def kill(self, name: str) -> None:
        """SIGKILL the server; `up` starts it again on what it had written."""
        self._running[name].get_wrapped_container().kill()

    def restart(self, name: str, report: Report) -> Endpoints:
        """Stop the server as `docker stop` does, and start it again on the same port."""
        self._running[name].get_wrapped_container().stop()
        return self.up(report)

    def down(self, report: Report) -> None:
        """Remove the containers and what they hold."""
        for container in self._running.values():
            container.stop(force=True, delete_volume=True)

    def check(self) -> Endpoints:
        """Prove that both work; raises `StackError`."""
        s3 = S3Endpoint(f"{HOST}:{self.minio_port}", *_keys(), "ralo")
        check_kafka(f"{HOST}:{self.kafka_port}", {}, 5.0)
        check_s3(s3)
        return Endpoints(f"{HOST}:{self.kafka_port}", s3)

    def settings(self) -> Settings:
        """The settings of a process that uses these servers."""
        key, secret = _keys()
        s3 = {"endpoint": f"{HOST}:{self.minio_port}", "access_key": key, "secret_key": secret}
        return Settings(
            kafka=KafkaSettings(bootstrap_servers=f"{HOST}:{self.kafka_port}"),
            s3=S3Settings.model_validate(s3),
        )

    def _await(self) -> None:
        until = time.monotonic() + START_LIMIT_S
        while True:
            try:
                self.check()
                return
            except StackError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.25)

    def _kafka(self) -> DockerContainer:
        listeners = f"INSIDE://localhost:19092,HOST://{HOST}:{self.kafka_port}"
        container = _container("kafka", 9092, self.kafka_port)
        return container.with_env("KAFKA_ADVERTISED_LISTENERS", listeners).start()

    def _minio(self) -> DockerContainer:
        container = _container("minio", 9000, self.minio_port)
        return container.with_command(services()["minio"]["command"]).start()


def _keys() -> tuple[str, str]:
    environment = services()["minio"]["environment"]
    return environment["MINIO_ROOT_USER"], environment["MINIO_ROOT_PASSWORD"]


def _container(name: str, inside: int, port: int) -> DockerContainer:
    service = services()[name]
    container = DockerContainer(service["image"])
    for variable, value in service["environment"].items():
        container.with_env(variable, str(value))
    # `with_bind_ports` takes no address and would open the port to the network.
    published: dict[str, Any] = container.ports
    published[str(inside)] = (HOST, port)
    return container


def _do_without_ryuk_where_it_cannot_be_had() -> None:
    # It removes what a killed test run leaves; `down` removes the rest.
    with contextlib.suppress(DockerException):
        docker.from_env().images.get(testcontainers_config.ryuk_image)
        return
    testcontainers_config.ryuk_disabled = True
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"


Servers = Stack | Containers
"""What tests start, check and kill."""


def started(report: Report) -> Iterator[Containers]:
    """The containers of one test run."""
    made = Containers()
    try:
        made.up(report)
        yield made
    finally:
        made.down(report)
