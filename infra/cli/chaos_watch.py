"""Who watches a fault run from beside it: counts what is done, and tells what is back."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException

from confluent_kafka import KafkaException

from consumers.read import decoded
from consumers.reliability.evidence import Evidence
from infra.log import Log, LogError
from schemas.acting import Feedback
from schemas.learning import SampleGroup, WeightVersion
from schemas.missions import MissionResult, RobotMissionResult
from schemas.records import Record
from schemas.topics import (
    COMMANDS,
    EVALUATIONS,
    FEEDBACK,
    FUSED_STATES,
    GRADIENT_CHUNKS,
    MISSION_RESULTS,
    PROBLEMS,
    SAMPLES,
    SENSOR_FRAMES,
    WEIGHT_VERSIONS,
)

TOPICS = (
    PROBLEMS,
    SAMPLES,
    GRADIENT_CHUNKS,
    WEIGHT_VERSIONS,
    EVALUATIONS,
    MISSION_RESULTS,
    SENSOR_FRAMES,
    FUSED_STATES,
    COMMANDS,
    FEEDBACK,
)
PROBE_EVERY_S = 0.25
_BATCH, _POLL_S = 500, 0.2
_NOT_NOW = (LogError, OSError, ValueError, HTTPException, KafkaException)
"""What a probe may meet while what it asks is away."""

Probe = Callable[[], bool]


@dataclass
class Awaited:
    """Something that is expected; `done_ms` is when it was, by the wall clock."""

    seen: threading.Event = field(default_factory=threading.Event)
    done_ms: float = 0.0

    def done(self, at_ms: float) -> None:
        """It has come."""
        self.done_ms = at_ms
        self.seen.set()


class Watch:
    """Reads the log as it grows, in a thread; asks what the log does not tell in another."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._evidence: list[tuple[Evidence, Awaited]] = []
        self._probes: list[tuple[Probe, Awaited]] = []
        self._quit = threading.Event()
        self.samples = 0
        self.versions: Counter[str] = Counter()
        self.results: dict[str, str] = {}
        """Outcome by mission."""
        self.boot_id, self.mode = "", ""
        self._next = {p: first for t in TOPICS for p, (first, _) in log.ends(t.name).items()}
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._read, self._ask)
        ]
        for thread in self._threads:
            thread.start()

    def expect(self, wanted: Evidence | Probe) -> Awaited:
        """Have this waited for, from now on."""
        awaited = Awaited()
        with self._lock:
            if isinstance(wanted, Evidence):
                self._evidence.append((wanted, awaited))
            else:
                self._probes.append((wanted, awaited))
        return awaited

    def forget(self, awaited: Awaited) -> None:
        """Wait for it no longer."""
        with self._lock:
            self._evidence = [pair for pair in self._evidence if pair[1] is not awaited]
            self._probes = [pair for pair in self._probes if pair[1] is not awaited]

    def close(self) -> None:
        """Watch no longer."""
        self._quit.set()
        for thread in self._threads:
            thread.join(10.0)

    # -- the log ------------------------------------------------------------------------------

    def _read(self) -> None:
        while not self._quit.is_set():
            try:
                self._read_on()
            except LogError:
                # The broker was killed a moment ago, by this very run.
                self._quit.wait(PROBE_EVERY_S)

    def _read_on(self) -> None:
        reader = self._log.state_reader(self._next)
        try:
            while not self._quit.is_set():
                for record in reader.poll(_BATCH, _POLL_S):
                    self._next[record.partition] = record.offset + 1
                    self._take(decoded(record))
        finally:
            reader.close()

    def _take(self, record: Record) -> None:
        self._count(record)
        with self._lock:
            waiting = list(self._evidence)
        for evidence, awaited in waiting:
            if evidence.sees(record):
                awaited.done(record.timestamp_ms)
                self.forget(awaited)

    def _count(self, record: Record) -> None:
        match record.event:
            case SampleGroup() as group:
                self.samples += group.size
            case WeightVersion(policy=policy):
                self.versions[policy] += 1
            case Feedback(boot_id=boot_id, mode=mode):
                self.boot_id, self.mode = boot_id, mode
            case MissionResult(mission_id=id_) | RobotMissionResult(mission_id=id_):
                self.results[id_] = record.event.outcome

    # -- what the log does not tell -------------------------------------------------------------

    def _ask(self) -> None:
        while not self._quit.wait(PROBE_EVERY_S):
            with self._lock:
                waiting = list(self._probes)
            for probe, awaited in waiting:
                with contextlib.suppress(*_NOT_NOW):
                    if probe():
                        awaited.done(time.time() * 1000)
                        self.forget(awaited)
