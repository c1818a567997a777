"""How a mission or a policy is getting on: a pure fold over its events.

Rates and times come from the timestamps of records, so a replayed log shows what the run showed.
"""

import base64
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from schemas.base import Event
from schemas.learning import (
    AppliedUpload,
    DeadLetter,
    DeadLetterResolution,
    Evaluation,
    GradientUpload,
    Problem,
    RefusedUpload,
    SampleGroup,
    UploadsRefused,
    WeightVersion,
)
from schemas.missions import Mission, MissionControl, MissionReport, MissionResult
from schemas.records import Record
from schemas.topics import (
    DEAD_LETTERS,
    EVALUATIONS,
    GRADIENT_CHUNKS,
    MISSION_RESULTS,
    MISSIONS,
    PROBLEMS,
    SAMPLES,
    WEIGHT_VERSIONS,
    NewerSchema,
    Topic,
    Undecodable,
    decode,
)
from streams.missions.state import MissionState, observe

TOPICS: tuple[Topic, ...] = (
    MISSIONS,
    PROBLEMS,
    SAMPLES,
    GRADIENT_CHUNKS,
    WEIGHT_VERSIONS,
    EVALUATIONS,
    MISSION_RESULTS,
    DEAD_LETTERS,
)
"""What to feed to `Progress.observe`, in any order between topics."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a curve: the value that a weight version has, and when that was known."""

    version: int
    value: float
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class _Open:
    """An upload on its way: policy and partition, offset, groups that it lists."""

    log: tuple[str, str]
    offset: int
    groups: int


class Rate:
    """Events a second over the newest `window_s` seconds of the log's own time."""

    def __init__(self, window_s: float) -> None:
        self._window_ms = window_s * 1000
        self._recent: deque[tuple[int, int]] = deque()
        self._sum = 0

    def add(self, timestamp_ms: int, count: int) -> None:
        """Count something at a time; what came late counts where it stands."""
        self._recent.append((timestamp_ms, count))
        self._sum += count
        while self._recent[0][0] < timestamp_ms - self._window_ms:
            self._sum -= self._recent.popleft()[1]

    @property
    def hz(self) -> float:
        """The rate now: 0 until there are two times to tell apart."""
        if len(self._recent) < 2:
            return 0.0
        first_ms, first = self._recent[0]
        span_ms = self._recent[-1][0] - first_ms
        # The first marks where the span begins, so what it counts lies before it.
        return (self._sum - first) * 1000 / span_ms if span_ms > 0 else 0.0


@dataclass
class Progress:
    """Counts, rates and curves of one policy or one mission (or of all, unfiltered).

    A group whose rollouts are an object counts with as many as its mission asks for. It looks into
    no object, so what was refused in a step whose manifest is one is settled, but not in `refused`.
    """

    policy: str | None = None
    mission: str | None = None
    window_s: float = 10.0

    problems: int = 0
    groups: int = 0
    samples: int = 0
    uploads: int = 0
    versions: int = 0
    """Optimizer steps and rollbacks; version 0 is none."""
    version: int | None = None
    dead_letters: int = 0
    """Letters that nobody has requeued or dropped."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Sample groups that uploads dropped, by reason."""
    refused: Counter[str] = field(default_factory=Counter)
    """Uploads that the aggregator refused, by reason."""
    staleness: float | None = None
    """Mean over the samples of the newest step, in steps."""
    loss: float | None = None
    rewards: list[Point] = field(default_factory=list)
    """Mean reward of each upload, by its base version."""
    heldout: list[Point] = field(default_factory=list)
    """Accuracy on held-out problems, by version."""
    returns: list[Point] = field(default_factory=list)
    """Mean reward on held-out problems, of environments the mean return, by version."""
    acts: bool = False
    """Whether a control policy learns, so that returns say more than accuracy."""
    stage: str = "waiting"
    """waiting, the phase of the mission in the orchestrator's word, or its outcome."""
    reason: str = ""
    started_ms: int | None = None
    newest_ms: int = 0

    def __post_init__(self) -> None:
        self._samples, self._versions = Rate(self.window_s), Rate(self.window_s)
        self._settled_groups = self._dead_problems = 0
        self._letters: dict[str, str] = {}
        """By place: of those that wait, the topic of what was counted there, else ""."""
        self._group_size: dict[str, int] = {}
        self._states: dict[str, MissionState] = {}
        self._evaluated: set[int] = set()
        # Uploads and what versions say of them come in any order; each waits for the other.
        self._open: dict[str, _Open] = {}
        # By policy and partition: policies share partitions.
        self._read_to: Counter[tuple[str, str]] = Counter()
        self._settled_early: dict[str, RefusedUpload | AppliedUpload] = {}

    # -- the fold ---------------------------------------------------------------------------

    def observe(self, record: Record) -> None:
        """Take in one decoded record; others' events and what did not decode change nothing."""
        event = record.event
        if isinstance(event, DeadLetterResolution):
            self._resolved(event)
        if event is None or not self._is_mine(event):
            return
        self.newest_ms = max(self.newest_ms, record.timestamp_ms)
        match event:
            case Mission() | MissionControl() | MissionReport() | MissionResult():
                self._mission(event, record)
            case Problem():
                self.problems += 1
                self.started_ms = min(self.started_ms or record.timestamp_ms, record.timestamp_ms)
            case SampleGroup():
                self._group(event, record.timestamp_ms)
            case GradientUpload():
                self._upload(event, record)
            case WeightVersion() | UploadsRefused():
                self._versions_event(event, record.timestamp_ms)
            case Evaluation():
                self._evaluation(event, record.timestamp_ms)
            case DeadLetter():
                self._buried(event, record.at)

    def _is_mine(self, event: Event) -> bool:
        if isinstance(event, DeadLetterResolution):
            return False
        if isinstance(event, DeadLetter):
            wanted = {"policy": self.policy, "mission-id": self.mission}
            return all(value in (None, event.headers.get(n, value)) for n, value in wanted.items())
        if self.policy is not None and getattr(event, "policy", self.policy) != self.policy:
            return False
        if self.mission is None:
            return True
        if isinstance(event, Mission) and event.mission_id == self.mission:
            # Versions that only refuse name no mission, so the policy tells whose they are.
            self.policy = self.policy or event.policy
        return getattr(event, "mission_id", self.mission) == self.mission

    def _buried(self, letter: DeadLetter, at: str) -> None:
        self.dead_letters += 1
        counted = self._was_counted(letter)
        self._letters[at] = letter.origin_topic if counted else ""
        self._dead_problems += counted and letter.origin_topic == PROBLEMS.name

    def _resolved(self, event: DeadLetterResolution) -> None:
        """What is sent again is counted again, so the first time is taken back."""
        topic = self._letters.pop(event.letter, None)
        self.dead_letters -= topic is not None
        if event.action == "requeued" and topic == PROBLEMS.name:
            self.problems -= 1
            self._dead_problems -= 1
        elif event.action == "requeued" and topic == SAMPLES.name:
            self.groups -= 1
            # An upload has listed it as dropped.
            self._settled_groups -= 1

    def _was_counted(self, letter: DeadLetter) -> bool:
        """Whether the letter holds a problem or a group that was counted."""
        if letter.origin_topic not in (PROBLEMS.name, SAMPLES.name):
            return False
        try:
            original = decode(letter.origin_topic, base64.b64decode(letter.value_base64))
        except (Undecodable, NewerSchema, ValueError):
            return False
        return self._is_mine(original)

    def _mission(
        self, event: Mission | MissionControl | MissionReport | MissionResult, record: Record
    ) -> None:
        id_ = event.mission_id
        if isinstance(event, Mission):
            self._group_size[id_] = event.rollout.group_size
            self.acts = self.acts or event.acts
        elif isinstance(event, MissionControl) and id_ not in self._states:
            return  # Of which policy it is, only the mission says.
        state = observe(self._states.get(id_, MissionState(mission_id=id_)), record)
        self._states[id_] = state
        self.stage = state.result.outcome if state.result else state.phase
        if isinstance(event, MissionReport | MissionResult):
            self.reason = event.reason

    def _group(self, group: SampleGroup, timestamp_ms: int) -> None:
        self.groups += 1
        rollouts = group.size
        if group.rollouts_ref is not None:
            rollouts = self._group_size.get(group.mission_id, 0)
        self.samples += rollouts
        self._samples.add(timestamp_ms, rollouts)

    def _upload(self, upload: GradientUpload, record: Record) -> None:
        self.uploads += 1
        self.dropped.update(dropped.reason for dropped in upload.dropped)
        if "reward_mean" in upload.stats:
            reward = upload.stats["reward_mean"]
            self.rewards.append(Point(upload.base_version, reward, record.timestamp_ms))
            self.loss = upload.stats.get("loss", self.loss)
        log = (upload.policy, str(record.partition))
        size = len(upload.groups) + len(upload.dropped)
        self._open[record.at] = _Open(log, record.offset, size)
        settled = self._settled_early.pop(record.at, None)
        if settled is not None:
            self._settle(settled)
        self._settle_read()

    def _settle(self, upload: AppliedUpload | RefusedUpload) -> None:
        """An upload was applied or refused; one that was not seen yet waits until it is."""
        if upload.at not in self._open:
            self._settled_early[upload.at] = upload
            return
        del self._open[upload.at]
        if isinstance(upload, RefusedUpload):
            self.refused[upload.reason] += 1
        self._settled_groups += upload.groups + upload.dropped

    def _settle_read(self) -> None:
        """What a version has read and does not list in its event is settled as well."""
        for at, upload in list(self._open.items()):
            if upload.offset < self._read_to[upload.log]:
                self._settled_groups += upload.groups
                del self._open[at]

    def _versions_event(self, event: WeightVersion | UploadsRefused, timestamp_ms: int) -> None:
        for refused in event.refused:
            self._settle(refused)
        for applied in event.uploads if isinstance(event, WeightVersion) else ():
            self._settle(applied)
        for partition, offset in event.resume.items():
            log = (event.policy, partition)
            self._read_to[log] = max(offset, self._read_to[log])
        self._settle_read()
        if not isinstance(event, WeightVersion):
            return
        self.version = max(self.version or 0, event.version)
        if event.kind != "base":
            self.versions += 1
            self._versions.add(timestamp_ms, 1)
        if event.staleness is not None:
            self.staleness = event.staleness

    def _evaluation(self, event: Evaluation, timestamp_ms: int) -> None:
        if event.version not in self._evaluated:
            self._evaluated.add(event.version)
            self.heldout.append(Point(event.version, event.accuracy, timestamp_ms))
            self.returns.append(Point(event.version, event.reward, timestamp_ms))
            for points in (self.heldout, self.returns):
                points.sort(key=lambda point: point.version)

    # -- what is read off it ----------------------------------------------------------------

    @property
    def samples_hz(self) -> float:
        """Samples a second over the last `window_s`."""
        return self._samples.hz

    @property
    def versions_hz(self) -> float:
        """Weight versions a second over the last `window_s`."""
        return self._versions.hz

    @property
    def elapsed_s(self) -> float:
        """From the first problem to the newest event."""
        return max(0, self.newest_ms - (self.started_ms or self.newest_ms)) / 1000

    @property
    def in_flight(self) -> dict[str, int]:
        """What is on its way: problems to sample, groups not accounted for, uploads not settled."""
        return {
            "problems": max(0, self.problems - self.groups - self._dead_problems),
            "groups": max(0, self.groups - self._settled_groups),
            "uploads": len(self._open),
        }

    @property
    def reward(self) -> float | None:
        """The mean reward of the newest upload."""
        return self.rewards[-1].value if self.rewards else None

    def summary(self) -> dict[str, Any]:
        """All of it as JSON would have it; curves as pairs of version and value."""
        return {
            "policy": self.policy,
            "mission": self.mission,
            "stage": self.stage,
            "reason": self.reason,
            "elapsed_s": self.elapsed_s,
            "problems": self.problems,
            "groups": self.groups,
            "samples": self.samples,
            "samples_hz": self.samples_hz,
            "uploads": self.uploads,
            "version": self.version,
            "versions": self.versions,
            "versions_hz": self.versions_hz,
            "staleness": self.staleness,
            "in_flight": self.in_flight,
            "dropped": dict(self.dropped),
            "refused": dict(self.refused),
            "dead_letters": self.dead_letters,
            "rewards": [(point.version, point.value) for point in self.rewards],
            "heldout": [(point.version, point.value) for point in self.heldout],
            "returns": [(point.version, point.value) for point in self.returns],
        }
