"""Bad networks on purpose: toxiproxy between our processes and the embedded servers.

A toxic is named as toxiproxy names it (its README): `latency`, `bandwidth`, `slow_close`,
`timeout`, `reset_peer`, `slicer`, `limit_data`, each with attributes of its own.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from infra.embedded import process
from infra.embedded.go import GoProgram
from infra.embedded.process import ProcessId
from infra.embedded.state import Report, StackError, choose_port
from infra.settings import Settings

TOXIPROXY = GoProgram(
    name="toxiproxy-server",
    package="github.com/Shopify/toxiproxy/v2/cmd/server",
    version="v2.12.0",
    packages=300,
    cost="about half a minute on two cores",
    otherwise="put `toxiproxy-server` on PATH",
)
START_LIMIT_S = 10.0
_REQUEST_LIMIT_S = 5.0


class Toxiproxy:
    """One proxy process, of one state directory; `close` ends it."""

    def __init__(self, config: Settings, report: Report) -> None:
        binary = TOXIPROXY.install(config.cache_dir, report)
        self._host, port = config.bind_host, choose_port(config.bind_host)
        self._api = f"http://{self._host}:{port}"
        log = config.state_dir / "logs" / "toxiproxy.log"
        command = [str(binary), "-host", self._host, "-port", str(port)]
        self._process: ProcessId = process.launch(command, log, {})
        until = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if time.monotonic() > until or self._process.process() is None:
                self.close()
                raise StackError(f"toxiproxy does not start; its last words: {process.tail(log)}")
            time.sleep(0.05)

    def proxy(self, name: str, upstream: str, port: int | None = None) -> Proxy:
        """A way to `upstream` (`host:port`) at an address of its own."""
        listen = f"{self._host}:{port or choose_port(self._host)}"
        self.ask("POST", "/proxies", name=name, listen=listen, upstream=upstream, enabled=True)
        return Proxy(self, name, listen)

    def close(self) -> None:
        """End the process; all ways are closed."""
        process.stop(self._process, 5.0)

    def ask(self, method: str, path: str, **document: Any) -> Any:
        """One request to toxiproxy's API; raises `StackError` with what it answers."""
        data = json.dumps(document).encode() if document else None
        request = urllib.request.Request(self._api + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_LIMIT_S) as response:
                body = response.read()
        except urllib.error.HTTPError as error:
            raise StackError(f"toxiproxy: {method} {path}: {error.read().decode()}") from error
        except OSError as error:
            raise StackError(f"toxiproxy at {self._api} does not answer: {error}") from error
        return json.loads(body) if body else None

    def _answers(self) -> bool:
        with contextlib.suppress(StackError):
            self.ask("GET", "/proxies")
            return True
        return False


@dataclass(frozen=True)
class Proxy:
    """One way to a server; `address` is what clients are told."""

    server: Toxiproxy
    name: str
    address: str

    def toxic(
        self, kind: str, *, upstream: bool = False, toxicity: float = 1.0, **attributes: int
    ) -> None:
        """Spoil the way, until `clear`: what servers answer, or what clients send (`upstream`).

        Of each connection with the chance `toxicity`. Raises `StackError` for an unknown kind.
        """
        self.server.ask(
            "POST",
            f"/proxies/{self.name}/toxics",
            type=kind,
            stream="upstream" if upstream else "downstream",
            toxicity=toxicity,
            attributes=attributes,
        )

    def down(self) -> None:
        """Break all connections and take no new ones, until `up`."""
        self._enable(False)

    def up(self) -> None:
        """Take connections again."""
        self._enable(True)

    def clear(self) -> None:
        """Take the toxics away."""
        for toxic in self.server.ask("GET", f"/proxies/{self.name}/toxics"):
            self.server.ask("DELETE", f"/proxies/{self.name}/toxics/{toxic['name']}")

    def _enable(self, enabled: bool) -> None:
        self.server.ask("POST", f"/proxies/{self.name}", enabled=enabled)
