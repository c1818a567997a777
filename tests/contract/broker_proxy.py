"""A way to one Kafka broker on which the requests that end transactions come to harm.

Frames are a length of four bytes, then in requests api key, version and correlation id, in replies
the correlation id (Kafka protocol guide). Replies that name the broker are made to name the proxy,
so that clients come back through it.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase
from socketserver import StreamRequestHandler, ThreadingTCPServer

END_TXN = 26
NAMES_BROKER = frozenset({3, 10, 60})
"""Metadata, FindCoordinator, DescribeCluster."""
LIMIT_S = 10.0

_INT = struct.Struct(">i")
_REQUEST = struct.Struct(">hhi")


def _frames(stream: BufferedIOBase) -> Iterator[bytes]:
    """The frames until the connection ends, however it does."""
    with contextlib.suppress(OSError, ValueError):
        while len(head := stream.read(4)) == 4:
            yield stream.read(*_INT.unpack(head))


def _framed(frame: bytes) -> bytes:
    return _INT.pack(len(frame)) + frame


@dataclass
class _Link:
    """One connection: a client, the broker, and which replies the client is to get."""

    client: socket.socket
    broker: socket.socket
    asked: dict[int, int] = field(default_factory=dict)
    """The api key of each request whose reply is passed on; other replies get lost."""

    def cut(self) -> None:
        for end in (self.client, self.broker):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class _Handler(StreamRequestHandler):
    server: "BrokerProxy"

    def handle(self) -> None:
        """Pass requests on; replies go back in a thread of their own."""
        with socket.create_connection(self.server.broker, LIMIT_S) as broker:
            broker.settimeout(None)
            link = _Link(self.connection, broker)
            self.server.links.append(link)
            replies = threading.Thread(target=self._replies, args=[link], daemon=True)
            replies.start()
            for frame in _frames(self.rfile):
                with contextlib.suppress(OSError):
                    self.server.request(link, frame)
            link.cut()
            replies.join()

    def _replies(self, link: _Link) -> None:
        with link.broker.makefile("rb") as stream:
            for frame in _frames(stream):
                with contextlib.suppress(OSError):
                    self.server.reply(link, frame)
        link.cut()


class BrokerProxy(ThreadingTCPServer):
    """Passes everything on, but the next commit after `arm`.

    `reply lost`: the commit happens. `request late`: it is kept until `deliver_late`. `request
    twice`: at once, one reply lost. `copy kept`: it happens, a copy is kept until `deliver_late`.
    `cut before`, `cut after`: the connection breaks before or after the broker has it.
    """

    daemon_threads = True

    def __init__(self, bootstrap: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        host, port = bootstrap.rsplit(":", 1)
        self.broker, self.address = (host, int(port)), f"{host}:{self.server_address[1]}"
        self._real = host.encode() + _INT.pack(int(port))
        self._mine = host.encode() + _INT.pack(self.server_address[1])
        self.links: list[_Link] = []
        self._fault: str | None = None
        self._kept: list[bytes] = []
        self._pumps = threading.Thread(target=self.serve_forever, args=[0.05], daemon=True)

    def __enter__(self) -> "BrokerProxy":
        self._pumps.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        for link in self.links:
            link.cut()
        self.server_close()
        self._pumps.join()

    def arm(self, fault: str) -> None:
        """What happens to the next commit."""
        self._fault = fault

    @property
    def armed(self) -> bool:
        """Whether no commit has come to harm since `arm`."""
        return self._fault is not None

    def deliver_late(self) -> None:
        """Let the kept requests arrive; returns when the broker has answered them."""
        late, self._kept = self._kept, []
        for frame in late:
            with socket.create_connection(self.broker, LIMIT_S) as broker:
                broker.sendall(_framed(frame))
                with broker.makefile("rb") as stream:
                    assert next(_frames(stream)), "the broker did not answer"

    def request(self, link: _Link, frame: bytes) -> None:
        """Pass a request on, unless it is the commit that is to come to harm."""
        key, _, correlation = _REQUEST.unpack_from(frame)
        # Up to version 2, which the client speaks, it ends with whether it is a commit.
        commit = key == END_TXN and frame[-1] == 1
        fault, self._fault = (self._fault, None) if commit else (None, self._fault)
        if fault in ("request late", "copy kept"):
            self._kept.append(frame)
        if fault == "cut before":
            link.cut()
        if fault != "reply lost":
            link.asked[correlation] = -1 if fault == "cut after" else key
        if fault not in ("request late", "cut before"):
            link.broker.sendall(_framed(frame) * (2 if fault == "request twice" else 1))

    def reply(self, link: _Link, frame: bytes) -> None:
        """Pass a reply on, unless nobody is to get it."""
        (correlation,) = _INT.unpack_from(frame)
        key = link.asked.pop(correlation, None)
        if key == -1:
            link.cut()
        elif key is not None:
            named = frame.replace(self._real, self._mine) if key in NAMES_BROKER else frame
            link.client.sendall(_framed(named))
