"""TensorBoard event files, one folder a policy; the step of a scalar is its weight version."""

import re
from pathlib import Path
from typing import Any

from consumers.trackers.scalars import Scalars


class TensorBoardSink:
    """Writes event files below a folder; each start adds a file, and TensorBoard joins them."""

    def __init__(self, logdir: Path) -> None:
        self._logdir = logdir
        self._writers: dict[str, Any] = {}

    def write(self, scalars: Scalars) -> None:
        """Queue the scalars of one version."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=v) for tag, v in scalars.values.items()]
        )
        event = Event(wall_time=scalars.timestamp_ms / 1000, step=scalars.version, summary=summary)
        self._writer(scalars.policy).add_event(event)

    def _writer(self, policy: str) -> Any:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if policy not in self._writers:
            # Policies are named by users; a folder's name must not lead out of the logdir.
            name = re.sub(r"[^A-Za-z0-9._-]|^\.+", "_", policy)
            self._writers[policy] = EventFileWriter(str(self._logdir / name))
        return self._writers[policy]

    def flush(self) -> None:
        """Bring what is queued into the files."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Flush and close the files."""
        for writer in self._writers.values():
            writer.close()
