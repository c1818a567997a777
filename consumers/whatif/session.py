"""Plays recorded samples through trainer, aggregator and evaluator, taking turns in one process.

Upload by upload, in the order of the log: its samples are fed, the trainer makes a gradient of them
under the version that it had, the aggregator steps. So what differs is what the settings make of
it, and without other settings the same weights come out, to the last bit.
"""

import time
from collections.abc import Callable

from consumers.read import decoded
from consumers.whatif.copies import changed_copy, copy_of
from consumers.whatif.errors import BadWhatIf
from consumers.whatif.processors import Task, TrainerAsRecorded, Watched
from consumers.whatif.recorded import Course, Entry, Recorded
from infra.driver import Driver
from infra.log import Log, Message
from schemas.effects import Processor
from schemas.learning import Evaluation, GradientUpload, RollbackRequest, WeightVersion
from schemas.missions import Mission, MissionReport
from schemas.partitioner import partition_for
from schemas.records import Partition, Record
from schemas.topics import EVALUATIONS, GRADIENT_CHUNKS, WEIGHT_VERSIONS

Make = Callable[[str], Processor]
"""A processor by its name: trainer, aggregator, evaluator."""
Drive = Callable[[Processor], Driver]
"""A driver of a processor on the sandbox's log and store."""
Report = Callable[[int, int, int], None]
"""Told how many entries are done, of how many, and the newest version."""

_TOPICS = (GRADIENT_CHUNKS.name, WEIGHT_VERSIONS.name, EVALUATIONS.name)
_PATIENCE_S = 120.0
_POLL_S = 0.005


class _Sandbox:
    """What the processors have published so far, as any reader of the log would see it."""

    def __init__(self, log: Log, policy: str) -> None:
        number = partition_for(policy.encode(), GRADIENT_CHUNKS.partitions)
        self.uploads, self.versions = (Partition(topic, number) for topic in _TOPICS[:2])
        self._reader = log.state_reader({Partition(topic, number): 0 for topic in _TOPICS})
        self._policy = policy
        self.head = -1
        self.end: dict[Partition, int] = {}
        """One past the last record of the policy, by partition."""
        self.covered: dict[str, int] = {}
        """How far uploads go, by partition of `samples`."""
        self.evaluated: set[tuple[str, bool]] = set()
        """Missions of which there is an evaluation, and whether it is the final one."""

    def catch_up(self) -> None:
        """Read what there is by now."""
        self._reader.snapshot(_TOPICS)
        while self._reader.behind(_TOPICS):
            for record in map(decoded, self._reader.poll(1000, _POLL_S)):
                if getattr(record.event, "policy", None) == self._policy:
                    self._note(record)

    def _note(self, record: Record) -> None:
        self.end[record.partition] = record.offset + 1
        match record.event:
            case WeightVersion() as version:
                self.head = max(self.head, version.version)
            case GradientUpload() as upload:
                self.covered |= {name: to for name, (_, to) in upload.source.items()}
            case Evaluation() as found:
                self.evaluated |= {(found.mission_id, False), (found.mission_id, found.final)}

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()


class Session:
    """One what-if in a sandbox that is empty; `mission` is the recorded one with other settings."""

    def __init__(
        self, recorded: Recorded, mission: Mission, log: Log, make: Make, drive: Drive
    ) -> None:
        self._recorded, self._mission, self._log = recorded, mission, log
        self._trainer = TrainerAsRecorded(lambda: make("trainer"))
        self._aggregator, self._evaluator = Watched(make("aggregator")), Watched(make("evaluator"))
        watched = (self._trainer, self._aggregator, self._evaluator)
        self._drivers = {processor.name: drive(processor) for processor in watched}
        self._there = _Sandbox(log, mission.policy)
        self._versions = {0: 0}

    def run(self, report: Report = lambda done, of, version: None) -> None:
        """Play all of it; raises `BadWhatIf` where the processors come to a halt."""
        entries = self._recorded.entries
        for index, entry in enumerate(entries):
            for course in self._recorded.courses.values():
                if course.first == index:
                    self._begin(course)
            self._entry(entry)
            for course in self._recorded.courses.values():
                if course.last == index:
                    self._end(course)
            report(index + 1, len(entries), self._there.head)

    def close(self) -> None:
        """Leave the sandbox as it is."""
        for driver in self._drivers.values():
            driver.close()
        self._there.close()

    # -- missions ---------------------------------------------------------------------------

    def _begin(self, course: Course) -> None:
        """The mission and what was prepared for it; version 0 follows from the first."""
        mission, prepared = course.mission, course.prepared
        assert isinstance(mission.event, Mission)
        if prepared is None:
            raise BadWhatIf(f"{mission.at}: mission {mission.event.mission_id} was never prepared")
        mine = mission.event.mission_id == self._mission.mission_id
        asked = changed_copy(mission, self._mission) if mine else copy_of(mission)
        self._log.append([asked, copy_of(prepared)])
        self._until(self._aggregator, lambda: self._there.head >= 0, "version 0")
        self._evaluate()
        if _holds_out(course):
            id_ = mission.event.mission_id
            self._until(
                self._evaluator,
                lambda: (id_, False) in self._there.evaluated,
                f"the first evaluation of mission {id_}",
            )

    def _end(self, course: Course) -> None:
        """What the provider said when all was done, so that the final evaluation is made."""
        record = course.drained
        report = record.event if record else None
        if record is None or not isinstance(report, MissionReport):
            return
        here = self._versions.get(report.version or 0, self._there.head)
        same = here == report.version
        changed = report.model_copy(update={"version": here})
        self._log.append([copy_of(record) if same else changed_copy(record, changed)])
        if _holds_out(course):
            self._until(
                self._evaluator,
                lambda: (report.mission_id, True) in self._there.evaluated,
                f"the final evaluation of mission {report.mission_id}",
            )

    # -- entries ----------------------------------------------------------------------------

    def _entry(self, entry: Entry) -> None:
        record = entry.record
        if isinstance(record.event, GradientUpload):
            self._upload(entry, record.event)
        else:
            self._log.append([self._asked(record)])
        self._there.catch_up()
        end = self._there.end.get(self._there.uploads, 0)
        uploads = self._there.uploads
        self._until(
            self._aggregator,
            lambda: self._aggregator.done.get(uploads, 0) >= end,
            f"the step of {record.at}",
        )
        self._evaluate()
        self._versions[self._recorded.history.head_after(record)] = self._there.head

    def _upload(self, entry: Entry, upload: GradientUpload) -> None:
        """Feed the samples of an upload, and have the gradient of them made."""
        if not entry.samples:
            return
        samples = [self._recorded.samples[place] for place in entry.samples]
        base = self._versions[upload.base_version]
        self._trainer.task = Task(upload.trainer, base, len(samples), dict(self._versions))
        fed = self._log.append([copy_of(sample) for sample in samples])
        ends = {str(one.partition): one.offset + 1 for one in sorted(fed, key=lambda r: r.offset)}
        self._until(
            self._trainer,
            lambda: all(self._there.covered.get(name, 0) >= end for name, end in ends.items()),
            f"the gradient of {entry.record.at}",
        )

    def _asked(self, record: Record) -> Message:
        """A close or a rollback; to the version that the recorded one is here."""
        request = record.event
        if isinstance(request, RollbackRequest):
            here = self._versions.get(request.to_version, request.to_version)
            if here != request.to_version:
                return changed_copy(record, request.model_copy(update={"to_version": here}))
        return copy_of(record)

    def _evaluate(self) -> None:
        """Let the evaluator see every version by itself, so that none is passed over."""
        versions = self._there.versions
        end = self._there.end.get(versions, 0)
        self._until(
            self._evaluator,
            lambda: self._evaluator.done.get(versions, 0) >= end,
            f"the evaluation of version {self._there.head}",
        )

    def _until(self, processor: Watched, there: Callable[[], bool], what: str) -> None:
        """Turns of one processor until something is there; raises `BadWhatIf` after a limit."""
        driver, limit = self._drivers[processor.name], time.monotonic() + _PATIENCE_S
        self._there.catch_up()
        while not there():
            if driver.step():
                limit = time.monotonic() + _PATIENCE_S
            elif time.monotonic() > limit:
                waits = processor.waiting_for() or "nothing that it knows of"
                raise BadWhatIf(
                    f"{what} does not come: the {processor.name} waits for {waits} "
                    f"(for {_PATIENCE_S:.0f} s)"
                )
            self._there.catch_up()


def _holds_out(course: Course) -> bool:
    report = course.prepared.event if course.prepared else None
    return isinstance(report, MissionReport) and report.heldout is not None
