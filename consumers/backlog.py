"""What is on its way between the processors of policies, read off the ends of the log.

The newest event of an aggregator says up to where samples and gradients are accounted for, and the
newest sample group of a partition up to where its problems are sampled. So hardly more is read than
what is on its way, however long the log is.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from consumers.read import Ends, decoded
from infra.intake import foreign
from infra.log import Log
from schemas.learning import GradientUpload, Problem, SampleGroup, UploadsRefused, WeightVersion
from schemas.partitioner import partition_for
from schemas.records import Partition, Record
from schemas.topics import GRADIENT_CHUNKS, PROBLEMS, SAMPLES, WEIGHT_VERSIONS, Topic

BATCH = 1000
POLL_S = 0.02
PATIENCE_S = 0.5
"""How long an open transaction is waited for; what it holds is not on its way yet."""
CLOCKS_APART_MS = 60_000
"""By how much the clock of a submitter may be ahead of those of the processors."""
FIRST_LOOK = 64
"""Records at the end among which the aggregators' newest events are looked for first."""

_KEYED_BY_POLICY = (WEIGHT_VERSIONS, GRADIENT_CHUNKS)

Offsets = Mapping[str, int]
"""By partition, written as in events."""
_NOWHERE: Offsets = {}


@dataclass(frozen=True, slots=True)
class Backlog:
    """What of a mission waits, by the processor that it waits for."""

    problems: int = 0
    """For a sampler."""
    untrained: int = 0
    """Sample groups for a trainer."""
    groups: int = 0
    """Sample groups, those in uploads included, that no version accounts for."""
    uploads: int = 0
    """For the aggregator, those of an open step included."""

    @property
    def in_flight(self) -> dict[str, int]:
        """As `consumers.progress.Progress.in_flight` counts it."""
        return {"problems": self.problems, "groups": self.groups, "uploads": self.uploads}

    @property
    def lag(self) -> dict[str, int]:
        """Records that wait for each kind of processor."""
        return {
            "sampler": self.problems,
            "trainer": self.untrained,
            "aggregator": self.uploads,
        }


def backlogs(log: Log, policies: Collection[str], since_ms: int) -> dict[str, Backlog]:
    """What is on its way of these policies, by mission; one without anything is left out.

    `since_ms` is when the oldest of their missions was submitted that is not over. Raises
    `LogUnavailable`.
    """
    tail = _Tail(log, policies, since_ms)
    accounted = tail.accounted()
    unsettled = {policy: _unsettled(*offsets) for policy, offsets in accounted.items()}
    recent = tail.read([GRADIENT_CHUNKS, SAMPLES], unsettled)
    problems = tail.read([PROBLEMS], {policy: _sampled_to(recent[policy]) for policy in policies})
    found: dict[str, Backlog] = {}
    for policy, (marks, _) in accounted.items():
        waiting = [r for r in recent[policy] if r.offset >= marks.get(str(r.partition), 0)]
        found |= _by_mission(r.event for r in (*waiting, *problems[policy]))
    return found


def _unsettled(marks: Offsets, resume: Offsets) -> Offsets:
    # The last group that is accounted for still says up to where its problems are sampled.
    return {**resume, **{partition: mark - 1 for partition, mark in marks.items()}}


def _sampled_to(records: Sequence[Record]) -> Offsets:
    """The end of what was sampled, per partition of problems."""
    ends: dict[str, int] = {}
    for record in records:
        if isinstance(record.event, SampleGroup):
            for partition, (_, end) in record.event.source.items():
                ends[partition] = max(end, ends.get(partition, 0))
    return ends


def _by_mission(events: Iterable[object]) -> dict[str, Backlog]:
    problems, groups = Counter[str](), Counter[str]()
    uploads, covered = Counter[str](), Counter[str]()
    for event in events:
        match event:
            case Problem(mission_id=id_):
                problems[id_] += 1
            case SampleGroup(mission_id=id_):
                groups[id_] += 1
            case GradientUpload(mission_id=id_):
                uploads[id_] += 1
                covered[id_] += len(event.groups) + len(event.dropped)
    return {
        id_: Backlog(problems[id_], max(0, groups[id_] - covered[id_]), groups[id_], uploads[id_])
        for id_ in {*problems, *groups, *uploads}
    }


class _Tail:
    """The end of the log, as far as events of some policies lie there."""

    def __init__(self, log: Log, policies: Collection[str], since_ms: int) -> None:
        self._log, self._policies = log, policies
        self._since_ms = max(0, since_ms - CLOCKS_APART_MS)
        self._since: dict[Partition, int] = {}

    def accounted(self) -> dict[str, tuple[Offsets, Offsets]]:
        """Up to where samples and uploads of each policy are accounted for, by its aggregator."""
        look, whole = (
            FIRST_LOOK,
            self._spans(WEIGHT_VERSIONS, dict.fromkeys(self._policies, _NOWHERE)),
        )
        while True:
            spans = {p: (max(first, end - look), end) for p, (first, end) in whole.items()}
            found = dict.fromkeys(self._policies, (_NOWHERE, _NOWHERE))
            for record in self._own(spans):
                if isinstance(event := record.event, WeightVersion | UploadsRefused):
                    found[event.policy] = event.marks, event.resume
            if spans == whole or all(resume for _, resume in found.values()):
                return found
            look *= 4

    def read(
        self, topics: Sequence[Topic], starts: Mapping[str, Offsets]
    ) -> dict[str, list[Record]]:
        """The records of each policy, from its offsets to the end."""
        spans = {p: s for topic in topics for p, s in self._spans(topic, starts).items()}
        found: dict[str, list[Record]] = {policy: [] for policy in self._policies}
        for record in self._own(spans):
            policy = _policy_of(record)
            if record.offset >= self._start(record.partition, starts[policy]):
                found[policy].append(record)
        return found

    def _spans(self, topic: Topic, starts: Mapping[str, Offsets]) -> Ends:
        """What to read of the partitions that may hold something of the policies."""
        spans: dict[Partition, tuple[int, int]] = {}
        for partition, (first, end) in self._log.ends(topic.name).items():
            here = [policy for policy in self._policies if _may_hold(topic, partition, policy)]
            if here:
                start = min(self._start(partition, starts[policy]) for policy in here)
                spans[partition] = (max(first, start), end)
        return spans

    def _start(self, partition: Partition, starts: Offsets) -> int:
        start = starts.get(str(partition))
        if start is not None:
            return start
        if partition not in self._since:
            self._since[partition] = self._log.offset_at(partition, self._since_ms)
        return self._since[partition]

    def _own(self, spans: Ends) -> list[Record]:
        found = (decoded(r) for r in glance(self._log, spans) if not self._is_foreign(r))
        return [record for record in found if _policy_of(record) in self._policies]

    def _is_foreign(self, record: Record) -> bool:
        # Its header spares most records the decoding.
        return all(foreign(record, policy) for policy in self._policies)


def _policy_of(record: Record) -> str:
    return getattr(record.event, "policy", "")


def _may_hold(topic: Topic, partition: Partition, policy: str) -> bool:
    if topic not in _KEYED_BY_POLICY:
        return True
    return partition.number == partition_for(policy.encode(), topic.partitions)


def glance(log: Log, spans: Ends) -> Iterator[Record]:
    """The committed records inside these offsets, at once: open transactions are hardly waited for.

    Raises `LogUnavailable`.
    """
    filled = {partition: span for partition, span in spans.items() if span[0] < span[1]}
    topics = sorted({partition.topic for partition in filled})
    reader = log.state_reader({partition: first for partition, (first, _) in filled.items()})
    try:
        reader.snapshot(topics)
        since = time.monotonic()
        while filled and reader.behind(topics) and time.monotonic() - since < PATIENCE_S:
            records = reader.poll(BATCH, POLL_S)
            since = time.monotonic() if records else since
            yield from (r for r in records if r.offset < filled[r.partition][1])
    finally:
        reader.close()
