"""The live writer in memory; as live reader serves the state reader, for nothing waits here."""

from infra.log import LogError, Message
from infra.memory.view import View


class MemoryLiveWriter:
    """Publishes at once; see `infra.live.LiveWriter`."""

    def __init__(self, view: View) -> None:
        self._view, self._cluster = view, view.cluster
        self._lost = 0
        self._closed = False

    def send(self, message: Message) -> bool:
        """Hand over one message; in memory there is always room."""
        if self._closed:
            raise LogError("this writer is closed")
        with self._cluster.lock:
            if self._cluster.faults.take("lost_sends"):
                self._lost += 1
            else:
                self._cluster.append(self._view.out(message.topic), message)
        return True

    def serve(self) -> None:
        """Nothing to do: deliveries are at once."""

    @property
    def lost(self) -> int:
        """Messages that were taken and given up."""
        return self._lost

    def flush(self, timeout_s: float) -> int:
        """All is delivered already."""
        return 0

    def close(self) -> None:
        """Stop writing."""
        self._closed = True
