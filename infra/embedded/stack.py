"""The embedded stack as a whole: brought up, looked at, taken down, and repaired on the way.

A server counts as up when it has done what it is for (`health`), not when its process exists. Order
in `up`: ports are on record before a process starts, the process is on record before it is waited
for; whatever a kill leaves in between, the next `up` finds and mends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from infra.belongings import purge
from infra.embedded import health, process
from infra.embedded.kafka import Kafka
from infra.embedded.minio import Minio
from infra.embedded.process import ProcessId
from infra.embedded.state import (
    Report,
    ServerState,
    StackError,
    StackState,
    choose_port,
    frees,
    locked,
    read_state,
    write_state,
)
from infra.interrupts import interrupts_wait
from infra.settings import (
    S3Endpoint,
    Settings,
    kafka_bootstrap,
    s3_endpoint,
    state_file,
)

START_LIMIT_S = 120.0
PORT_PATIENCE_S = 5.0
"""The threads of a killed server end one by one; the last gives its ports back."""
LOG_LIMIT_BYTES = 10 * 2**20


class Server(Protocol):
    """What the stack needs to know of a server."""

    name: str
    version: str
    port_names: Sequence[str]
    stop_patience_s: float
    data: Path

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the arguments by which its process is recognised."""

    def address(self, ports: dict[str, int]) -> str:
        """Return `host:port` for clients."""

    def prepare(self, ports: dict[str, int], report: Report) -> list[str]:
        """Install and configure, and return the command line; raises `StackError`."""

    def environ(self) -> dict[str, str]:
        """Return the environment beyond ours."""


@dataclass(frozen=True)
class Endpoints:
    """Where the broker and the store answer, embedded or not."""

    kafka: str
    s3: S3Endpoint


@dataclass(frozen=True)
class ServerStatus:
    """One server as `ralo status` shows it; sizes in bytes, `uptime_s` in seconds."""

    name: str
    state: str
    """running, stopped, dead (was not asked to stop) or external."""
    address: str | None
    version: str | None = None
    pid: int | None = None
    uptime_s: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


class Stack:
    """The Kafka and the MinIO of one state directory; those set elsewhere are left alone."""

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.logs = config.state_dir / "logs"
        self._lock_file = config.state_dir / "stack.lock"
        self.servers: list[Server] = []
        if not config.kafka.bootstrap_servers:
            self.servers.append(Kafka(config))
        if not config.s3.endpoint:
            self.servers.append(Minio(config))

    def up(self, report: Report) -> Endpoints:
        """Start what is not running, wait until it works, make the topics; raises `StackError`."""
        with self._locked(report):
            state = read_state(state_file(self.config), report)
            state.wanted = True
            missing = [server for server in self.servers if not self._adopt(server, state, report)]
            # All are prepared before any is started: the first build of MinIO takes minutes.
            commands = [self._prepare(server, state, report) for server in missing]
            for server, command in zip(missing, commands, strict=True):
                self._launch(server, command, state, report)
            for server in self.servers:
                self._await(server, state, report)
            endpoints = self.check()
            # Imported here: the adapters it needs take half a second, which `status` need not pay.
            from infra.provision import provision

            provision(self.config, report)
        return endpoints

    def down(self, report: Report) -> None:
        """Stop the servers, with force where asking is not enough, and keep their data."""
        with self._locked(report):
            state = read_state(state_file(self.config), report)
            state.wanted = False
            for server in reversed(self.servers):
                self._stop(server, state, report)
            self._save(state)

    def restart(self, name: str, report: Report) -> Endpoints:
        """Stop one server and bring it up again on the same ports."""
        with self._locked(report):
            state = read_state(state_file(self.config), report)
            self._stop(self._server(name), state, report)
        return self.up(report)

    def dead(self) -> list[str]:
        """The servers that ended though nobody asked them to, since the last `up`."""
        state = self._read()
        started = [s for s in self.servers if (at := state.servers.get(s.name)) and at.pid]
        return [s.name for s in started if state.wanted and self._running(s, state) is None]

    def kill(self, name: str) -> None:
        """End one server with SIGKILL, as a crash would; its record stays."""
        identity = self._running(self._server(name), self._read())
        if identity is None:
            raise StackError(f"{name} is not running: nothing to kill")
        process.kill(identity)

    def purge(self, report: Report) -> None:
        """Stop the servers and delete all that is ours in the state directory, data included."""
        self.down(report)
        with self._locked(report):
            tops: set[Path] = set()
            for path in purge(self.config, [server.name for server in self.servers]):
                top = self.config.state_dir / path.relative_to(self.config.state_dir).parts[0]
                if top not in tops:
                    report(f"deleting {top}")
                tops.add(top)
            self._lock_file.unlink(missing_ok=True)

    def check(self) -> Endpoints:
        """Produce and consume a record, write and read an object; raises `StackError`."""
        endpoints = Endpoints(kafka_bootstrap(self.config), s3_endpoint(self.config))
        health.check_kafka(endpoints.kafka, self.config.kafka.extra)
        health.check_s3(endpoints.s3)
        return endpoints

    def status(self) -> list[ServerStatus]:
        """Return how each server is, without asking it to do anything."""
        state = self._read()
        embedded = [self._status(server, state) for server in self.servers]
        kafka, s3 = self.config.kafka.bootstrap_servers, self.config.s3.endpoint
        external = {"kafka": kafka, "minio": s3}
        return embedded + [
            ServerStatus(name, "external", address) for name, address in external.items() if address
        ]

    def _adopt(self, server: Server, state: StackState, report: Report) -> bool:
        """Put a running server that answers on record; stop one that does not."""
        identity = self._running(server, state)
        record = state.servers.get(server.name)
        if identity is None:
            return False
        if record is not None and health.answers(record.address):
            record.pid, record.started_s = identity.pid, identity.started_s
            self._save(state)
            return True
        wrong = "is not on record" if record is None else "does not answer"
        report(f"{server.name} (pid {identity.pid}) runs but {wrong}: stopping it")
        process.stop(identity, server.stop_patience_s)
        return False

    def _prepare(self, server: Server, state: StackState, report: Report) -> list[str]:
        ports = self._ports(server, state.servers.get(server.name), report)
        address = server.address(ports)
        state.servers[server.name] = ServerState(
            address=address, ports=ports, version=server.version
        )
        self._save(state)
        return server.prepare(ports, report)

    def _launch(
        self, server: Server, command: list[str], state: StackState, report: Report
    ) -> None:
        record = state.servers[server.name]
        log = self._log(server.name)
        if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        report(f"starting {server.name} at {record.address}")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MINIO_", "RALO_"))}
        # A process that is not on record yet may not be found: it has no command line at first.
        with interrupts_wait():
            try:
                identity = process.launch(command, log, {**inherited, **server.environ()})
            except (OSError, RuntimeError) as error:
                raise StackError(f"{server.name} does not start: {error}") from error
            record.pid, record.started_s = identity.pid, identity.started_s
            self._save(state)

    def _await(self, server: Server, state: StackState, report: Report) -> None:
        record = state.servers[server.name]
        began = said = time.monotonic()
        while not health.answers(record.address):
            now = time.monotonic()
            last_words = f"the end of {self._log(server.name)}:\n"
            if record.identity is None or record.identity.process() is None:
                last_words += process.tail(self._log(server.name), 12)
                raise StackError(f"{server.name} ended while starting; {last_words}")
            if now - began > START_LIMIT_S:
                last_words += process.tail(self._log(server.name), 12)
                raise StackError(
                    f"{server.name} does not answer at {record.address} after "
                    f"{START_LIMIT_S:.0f} s; {last_words}"
                )
            if now - said > 2.0:
                report(f"  waiting for {server.name}, {now - began:.0f} s")
                said = now
            time.sleep(0.05)
        report(f"{server.name} answers at {record.address}")

    def _stop(self, server: Server, state: StackState, report: Report) -> None:
        identity = self._running(server, state)
        if identity is not None:
            report(f"stopping {server.name} (pid {identity.pid})")
            if not process.stop(identity, server.stop_patience_s):
                report(f"{server.name} did not stop within {server.stop_patience_s:.0f} s: killed")
        if server.name in state.servers:
            state.servers[server.name].pid = None
            self._save(state)

    def _running(self, server: Server, state: StackState) -> ProcessId | None:
        record = state.servers.get(server.name)
        if record and record.identity and record.identity.process():
            return record.identity
        return process.find(server.marks)

    def _ports(self, server: Server, record: ServerState | None, report: Report) -> dict[str, int]:
        ports = dict(record.ports) if record else {}
        for name in server.port_names:
            taken = ports.get(name)
            if taken is None or not frees(self.config.bind_host, taken, PORT_PATIENCE_S):
                ports[name] = choose_port(self.config.bind_host)
            if taken is not None and taken != ports[name]:
                report(
                    f"{server.name}: port {taken} is taken by another program, using {ports[name]}"
                )
        return ports

    def _status(self, server: Server, state: StackState) -> ServerStatus:
        record, identity = state.servers.get(server.name), self._running(server, state)
        address = record.address if record else None
        disk_bytes = disk_used(server.data)
        running = identity.process() if identity else None
        if running is None or identity is None:
            word = "dead" if record and record.pid is not None else "stopped"
            return ServerStatus(server.name, word, address, server.version, disk_bytes=disk_bytes)
        uptime_s = time.time() - identity.started_s
        memory_bytes = running.memory_info().rss
        return ServerStatus(
            server.name,
            "running",
            address,
            server.version,
            identity.pid,
            uptime_s,
            memory_bytes,
            disk_bytes,
        )

    def _server(self, name: str) -> Server:
        for server in self.servers:
            if server.name == name:
                return server
        raise StackError(f"no embedded server named {name!r}: it is external or does not exist")

    def _read(self) -> StackState:
        return read_state(state_file(self.config), lambda line: None)

    def _save(self, state: StackState) -> None:
        write_state(state_file(self.config), state)

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _locked(self, report: Report) -> Any:
        return locked(self._lock_file, report)


def disk_used(directory: Path) -> int:
    """Return the bytes that a directory's files take on disk (sparse files by what they hold)."""
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
