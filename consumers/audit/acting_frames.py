"""The books of sensor frames and of the states that are fused from them."""

import itertools
from collections import deque
from dataclasses import dataclass, field

from consumers.audit.books import Books
from consumers.audit.recent import KEPT, Recent
from schemas.acting import FusedState, SensorFrame
from schemas.base import Event
from schemas.ids import digest
from schemas.records import Partition, Record
from schemas.topics import SENSOR_FRAMES

BOOTS = 16
"""Lives of an actuator that are remembered: one that ended may have frames on their way."""
RESTART_MS = 250
"""No process is replaced faster: a gap between two states that are closer is no late start."""


@dataclass(slots=True)
class _Boot:
    next_seq: int
    dropped: int = 0
    digests: Recent[int, str] = field(default_factory=Recent)


@dataclass(slots=True)
class _Robot:
    boots: Recent[str, _Boot] = field(default_factory=lambda: Recent(BOOTS))
    waiting: deque[tuple[int, str, int]] = field(default_factory=deque)
    """Offset, boot and number of the newest frames that no state covers yet."""
    forgot: int = 0
    """How many more there are."""
    fused_to: int | None = None
    stated_ms: int = 0
    digests: Recent[int, str] = field(default_factory=Recent)
    """Of the newest states, by where their source begins."""

    def wait_for_state(self, offset: int, frame: SensorFrame) -> None:
        self.waiting.append((offset, frame.boot_id, frame.seq))
        if len(self.waiting) > KEPT:
            self.waiting.popleft()
            self.forgot += 1

    def missed(self, start: int) -> int:
        """How many frames before this offset no state covers; they wait no longer."""
        missed, self.forgot = self.forgot, 0
        while self.waiting and self.waiting[0][0] < start:
            self.waiting.popleft()
            missed += 1
        return missed

    def covered(self, stop: int) -> tuple[str, int] | None:
        """Boot and number of the last frame before this offset; those before it wait no longer."""
        last = None
        while self.waiting and self.waiting[0][0] < stop:
            _, boot_id, seq = self.waiting.popleft()
            last = boot_id, seq
        return last


class FrameBook:
    """Frames and fused states of the robots of one partition."""

    def __init__(self, books: Books, number: int) -> None:
        self._books = books
        self._partition = Partition(SENSOR_FRAMES.name, number)
        self._first = books.bounds.log(self._partition)[0]
        self._robots: dict[str, _Robot] = {}
        self._uncounted: dict[tuple[str, str], list[str]] = {}
        """Gaps of each boot that no frame has counted yet: the link tells of what it gave up."""

    def end_of(self, state: FusedState) -> int:
        """How far frames must have been read to judge this state."""
        return state.source.get(str(self._partition), (0, 0))[1]

    def frame(self, record: Record, frame: Event) -> None:
        """Take in one frame; a copy is dropped, as readers drop it."""
        if not isinstance(frame, SensorFrame):
            return
        robot = self._robots.setdefault(frame.robot_id, _Robot())
        boot = robot.boots.get(frame.boot_id)
        if boot is None:
            boot = robot.boots[frame.boot_id] = self._booted(frame)
        counts = self._books.findings.counts
        if self._is_copy(boot, record, frame):
            counts["frames_copied"] += 1
            return
        counts["frames"] += 1
        counts["readings_dropped"] += max(0, frame.dropped - boot.dropped)
        self._judge_sequence(boot, record, frame)
        boot.dropped = frame.dropped
        robot.wait_for_state(record.offset, frame)

    def _booted(self, frame: SensorFrame) -> _Boot:
        """A life of the actuator; where retention took its first frames, it begins with these."""
        return _Boot(frame.seq, frame.dropped) if self._first else _Boot(0)

    def _is_copy(self, boot: _Boot, record: Record, frame: SensorFrame) -> bool:
        if frame.seq >= boot.next_seq:
            return False
        same = boot.digests.may_hold(frame.seq, digest(record.value or b""))
        where = f"{record.at}: frame {frame.seq} of {frame.robot_id} with another content"
        self._books.findings.judge("frame-sequence", same, where)
        return True

    def _judge_sequence(self, boot: _Boot, record: Record, frame: SensorFrame) -> None:
        missing = frame.seq - boot.next_seq
        where = f"{record.at}: frame {frame.seq} of {frame.robot_id}, expected {boot.next_seq}"
        gaps = self._uncounted.setdefault((frame.robot_id, frame.boot_id), [])
        gaps += [where] if missing else []
        if frame.dropped > boot.dropped:
            gaps.clear()
        self._books.findings.judge("frame-sequence", True, where)
        self._books.findings.counts["frames_missing"] += missing
        boot.next_seq = frame.seq + 1
        boot.digests[frame.seq] = digest(record.value or b"")

    # -- states -----------------------------------------------------------------------------

    def state(self, record: Record, state: FusedState) -> None:
        """Take in one state, the frames of its source having been taken in."""
        robot = self._robots.setdefault(state.robot_id, _Robot())
        where = f"{record.at}: state of {state.robot_id}"
        start, stop = state.source.get(str(self._partition), (0, 0))
        judge, counts = self._books.findings.judge, self._books.findings.counts
        named = list(state.source) == [str(self._partition)] and start < stop
        inside = named and self._books.bounds.has(self._partition, stop)
        if not judge("fused-source-end", inside, f"{where}: {dict(state.source)}"):
            return
        sha256 = digest(record.value or b"")
        if robot.digests.get(start) == sha256:
            counts["states_copied"] += 1
            return
        counts["states"] += 1
        robot.digests[start] = sha256
        fresh = robot.fused_to is None or start >= robot.fused_to
        judge("fused-source-overlap", fresh, f"{where}: [{start}, {stop}) after {robot.fused_to}")
        self._judge_gap(robot, record, start, where)
        if fresh and stop > self._first:
            last = robot.covered(stop)
            right = last == (state.boot_id, state.frame_seq)
            judge("fused-of-frame", right, f"{where}: frame {state.frame_seq}, the last is {last}")
        robot.fused_to = max(stop, robot.fused_to or 0)
        robot.stated_ms = record.timestamp_ms

    def _judge_gap(self, robot: _Robot, record: Record, start: int, where: str) -> None:
        """Frames between two sources were missed by a fusion that was started too late."""
        missed = robot.missed(start)
        if robot.fused_to is None:
            self._books.findings.counts["frames_before_fusion"] += missed
            return
        late = record.timestamp_ms - robot.stated_ms >= RESTART_MS
        judge = self._books.findings.judge
        judge("fused-source-gap", not missed or late, f"{where}: {missed} frames before {start}")
        self._books.findings.counts["frames_unfused"] += missed

    def finish(self) -> None:
        """Judge the gaps that nothing counted; count the frames that no state covers yet."""
        for where in itertools.chain.from_iterable(self._uncounted.values()):
            self._books.findings.judge("frame-sequence", False, where)
        waiting = sum(len(robot.waiting) + robot.forgot for robot in self._robots.values())
        self._books.findings.counts["frames_waiting"] += waiting
