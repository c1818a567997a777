"""The embedded stack behind bad networks: what fault runs start, and break.

Processes reach both servers through toxiproxy: the broker has a second listener whose advertised
address is the proxy's, so clients stay on that way. Who breaks things keeps to the direct one.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from infra.embedded import process
from infra.embedded.kafka import Kafka
from infra.embedded.minio import Minio
from infra.embedded.process import ProcessId
from infra.embedded.stack import Endpoints, Stack
from infra.embedded.state import Report, StackError, StackState, choose_port, read_state
from infra.embedded.toxiproxy import Proxy, Toxiproxy
from infra.settings import S3Endpoint, Settings, state_file


class _KafkaBehindProxy(Kafka):
    """A broker with a second listener, for those who come through the proxy."""

    port_names: Sequence[str] = ("client", "controller", "proxied")

    def __init__(self, config: Settings, advertised_port: int) -> None:
        super().__init__(config)
        self._advertised = f"{config.bind_host}:{advertised_port}"

    def _configuration(self, ports: dict[str, int]) -> dict[str, str]:
        plain = super()._configuration(ports)
        second = f"PROXIED://{self.config.bind_host}:{ports['proxied']}"
        security = plain["listener.security.protocol.map"]
        return {
            **plain,
            "listener.security.protocol.map": f"{security},PROXIED:PLAINTEXT",
            "listeners": f"{plain['listeners']},{second}",
            "advertised.listeners": f"{plain['advertised.listeners']},PROXIED://{self._advertised}",
        }


class ProxiedStack:
    """Kafka and MinIO of one state directory, each behind a way that can be spoilt.

    `direct` are the servers' own addresses, `proxied` those that the processes are to be given;
    `kafka` and `minio` are the ways.
    """

    def __init__(self, config: Settings, report: Report) -> None:
        self._config = config
        self._proxy = Toxiproxy(config, report)
        kafka_port = choose_port(config.bind_host)
        self._stack = Stack(config)
        if {server.name for server in self._stack.servers} != {"kafka", "minio"}:
            self._proxy.close()
            raise StackError("only embedded servers can be broken: unset their RALO_ addresses")
        self._stack.servers = [_KafkaBehindProxy(config, kafka_port), Minio(config)]
        try:
            self.direct: Endpoints = self._stack.up(report)
            self.kafka: Proxy = self._proxy.proxy("kafka", self._second_listener(), kafka_port)
            self.minio: Proxy = self._proxy.proxy("minio", self.direct.s3.address)
        except BaseException:
            self.close(report)
            raise

    @property
    def proxied(self) -> Endpoints:
        """Where the servers answer through the proxy."""
        s3 = self.direct.s3
        keys = s3.access_key, s3.secret_key
        there = S3Endpoint(self.minio.address, *keys, s3.bucket, region=s3.region)
        return Endpoints(self.kafka.address, there)

    def kill(self, name: str) -> None:
        """SIGKILL `kafka` or `minio`; `up` brings it back on the same ports."""
        self._stack.kill(name)

    def freeze(self, name: str) -> None:
        """Stop `kafka` or `minio` in its tracks, connections open, until `thaw`."""
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let it go on."""
        self._signal(name, signal.SIGCONT)

    def up(self, report: Report) -> None:
        """Start again what is not running, and wait until it works."""
        self._stack.up(report)

    def close(self, report: Report) -> None:
        """Stop servers and proxy."""
        self._stack.down(report)
        self._proxy.close()

    def _signal(self, name: str, number: signal.Signals) -> None:
        identity = self._identity(name)
        running = identity.process() if identity else None
        if running is None:
            raise StackError(f"{name} is not running")
        running.send_signal(number)

    def _identity(self, name: str) -> ProcessId | None:
        server = next(server for server in self._stack.servers if server.name == name)
        record = self._state().servers.get(name)
        return record.identity if record and record.identity else process.find(server.marks)

    def _second_listener(self) -> str:
        return f"{self._config.bind_host}:{self._state().servers['kafka'].ports['proxied']}"

    def _state(self) -> StackState:
        return read_state(state_file(self._config), lambda line: None)
