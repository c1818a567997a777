"""Audits a log while it may be moving."""

from collections.abc import Callable, Iterator, Mapping

from consumers.audit.core import audit
from consumers.audit.objects import ObjectChecker
from consumers.audit.report import AuditReport
from consumers.read import Ends, read_until
from infra.log import Log
from schemas.records import Record
from schemas.topics import (
    DEAD_LETTERS,
    EVALUATIONS,
    GRADIENT_CHUNKS,
    MISSION_RESULTS,
    MISSIONS,
    PROBLEMS,
    SAMPLES,
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

    def __getitem__(self, topic: str) -> Iterator[Record]:
        if topic == WEIGHT_HEADS.name:
            return read_until(self._log, self._log.ends(topic))
        if not self._ends:
            self._ends = {t.name: self._log.ends(t.name) for t in _CUT}
        return self._read(topic, self._ends[topic])

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
        found = audit(records, objects, policy=policy, mission=mission, ends=log.ends)
        if found.ok or _ends(log) == before:
            break
        if attempt < _ATTEMPTS:
            report("again, for the log moved", 0, 0)
    return found


def _ends(log: Log) -> dict[str, Ends]:
    return {topic.name: log.ends(topic.name) for topic in (*_CUT, WEIGHT_HEADS)}
