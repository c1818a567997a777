"""Audits a log while it may be moving."""

from collections.abc import Callable, Iterator, Mapping

from consumers.audit.core import audit
from consumers.audit.objects import ObjectChecker
from consumers.audit.report import AuditReport
from consumers.read import Ends, read_until
from infra.log import Log
from schemas.records import Partition, Record
from schemas.topics import (
    COMMANDS,
    DEAD_LETTERS,
    EVALUATIONS,
    FEEDBACK,
    FUSED_STATES,
    GRADIENT_CHUNKS,
    MISSION_RESULTS,
    MISSIONS,
    PROBLEMS,
    RELEASES,
    SAFETY_EVENTS,
    SAMPLES,
    SENSOR_FRAMES,
    TOPICS,
    WEIGHT_HEADS,
    WEIGHT_VERSIONS,
)

Report = Callable[[str, int, int], None]
"""Told what is being read, how many records of it are done, and of how many."""

# What names others is cut before what it names, so that nothing inside the cut names what is
# outside; dead letters, which explain holes in all others, come last.
_CUT = (
    MISSION_RESULTS,
    EVALUATIONS,
    WEIGHT_VERSIONS,
    GRADIENT_CHUNKS,
    SAMPLES,
    PROBLEMS,
    FEEDBACK,
    COMMANDS,
    FUSED_STATES,
    SENSOR_FRAMES,
    RELEASES,
    SAFETY_EVENTS,
    MISSIONS,
    DEAD_LETTERS,
)
_ATTEMPTS = 3
_REPORT_EVERY = 1000


class LogRecords(Mapping[str, Iterator[Record]]):
    """The topics of a log up to one moment, read when iterated; `weight-heads` is read as it is.

    The moment is when the first topic but `weight-heads` is read.
    """

    def __init__(self, log: Log, report: Report) -> None:
        self._log, self._report = log, report
        self._ends: dict[str, Ends] = {}

    def __getitem__(self, name: str) -> Iterator[Record]:
        """The records of a topic, or of one partition, written as `commands-3`."""
        if name == WEIGHT_HEADS.name:
            return read_until(self._log, self._log.ends(name))
        if not self._ends:
            self._ends = {t.name: self._log.ends(t.name) for t in _CUT}
        if name in TOPICS:
            return self._read(name, self._ends[name])
        partition = Partition.parse(name)
        first, end = self._ends[partition.topic].get(partition, (0, 0))
        return self._read(name, {partition: (first, end)}) if first < end else iter(())

    def __iter__(self) -> Iterator[str]:
        return iter([*(topic.name for topic in _CUT), WEIGHT_HEADS.name])

    def __len__(self) -> int:
        return len(_CUT) + 1

    def _read(self, topic: str, ends: Ends) -> Iterator[Record]:
        offsets = sum(end - first for first, end in ends.values())
        for done, record in enumerate(read_until(self._log, ends), start=1):
            if done % _REPORT_EVERY == 0:
                self._report(topic, done, offsets)
            yield record


def audit_log(
    log: Log,
    objects: ObjectChecker,
    *,
    policy: str | None = None,
    mission: str | None = None,
    report: Report = lambda topic, done, of: None,
) -> AuditReport:
    """Audit a log from its first record to the end as of now; raises `LogError`.

    On a cluster the ends of several partitions are no one moment, so a breach that was found while
    the log moved is looked at again.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        before = _ends(log)
        records = LogRecords(log, report)
        began = {p: end for p, (_, end) in before[DEAD_LETTERS.name].items()}
        found = audit(records, objects, policy=policy, mission=mission, ends=log.ends, began=began)
        if found.ok or _ends(log) == before:
            break
        if attempt < _ATTEMPTS:
            report("again, for the log moved", 0, 0)
    return found


def _ends(log: Log) -> dict[str, Ends]:
    return {topic.name: log.ends(topic.name) for topic in (*_CUT, WEIGHT_HEADS)}
