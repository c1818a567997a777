"""Calls into the client that are given up when they do not return.

librdkafka (seen with 2.16) retires the handle of a broker that a starting cluster leaves out of its
metadata for a moment; a request for a coordinator on that handle is then never sent and never times
out. The caller must go on without the client that the call is stuck in.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_STUCK: list[Any] = []
"""Clients with a stuck call: destroying one would wait for the call, so they stay until the end."""


class Stuck(Exception):
    """A call did not return in time; its client is unusable."""


class Bounded:
    """Runs calls one by one in a thread of its own, each with a limit."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=f"bounded {name}", daemon=True).start()

    def __call__(self, limit_s: float, call: Callable[..., T], *args: Any) -> T:
        """The call's answer, or its exception; raises `Stuck` after `limit_s`."""
        reply: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._calls.put((call, args, reply))
        try:
            answer, error = reply.get(timeout=limit_s)
        except queue.Empty:
            _STUCK.append(self._client)
            raise Stuck(f"{call.__name__} did not return in {limit_s:.0f} s") from None
        if error is not None:
            raise error
        result: T = answer
        return result

    def end(self) -> None:
        """Let the thread go."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            call, args, reply = item
            try:
                reply.put((call(*args), None))
            except Exception as error:
                reply.put((None, error))
