"""The processors of a what-if: the product's own, shown the log as they saw it when it was made.

In the recorded run several trainers may have worked side by side, each under the newest version
that it had read by then. An upload names that version, so it is shown to the trainer again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from schemas.effects import Intake, Processor, StateInput, Steps, Unready
from schemas.learning import SampleGroup, WeightVersion
from schemas.records import Batch, Partition, Record
from schemas.topics import Topic

_WAIT_MS = 30_000
"""What is to be worked on is in the log already, so this is no more than a limit."""


class Watched:
    """A processor as it is, and how far it has worked."""

    def __init__(self, inner: Processor) -> None:
        self._inner = inner
        self.name, self.group, self.policy = inner.name, inner.group, inner.policy
        self.work: tuple[Topic, ...] = inner.work
        self.state: tuple[StateInput, ...] = inner.state
        self.done: dict[Partition, int] = {}
        """One past the last record worked on, by partition."""

    def intake(self) -> Intake:
        """As the processor would."""
        return self._inner.intake()

    def waiting_for(self) -> str | None:
        """What the processor waits for."""
        return self._inner.waiting_for()

    def observe(self, record: Record) -> None:
        """Shown to the processor."""
        self._inner.observe(record)

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Where the processor wants to start."""
        return self._inner.assigned(partitions)

    def process(self, batch: Batch) -> Steps:
        """As the processor does."""
        end = yield from self._inner.process(batch)
        self.done |= {record.partition: record.offset + 1 for record in batch.records}
        return end

    def tick(self) -> Steps | None:
        """What the processor makes of state alone."""
        return self._inner.tick()


@dataclass
class Task:
    """One upload to be made again: by whom, under which version, of how many records.

    `versions`: what each recorded version is here; they differ where steps do.
    """

    trainer: str
    base: int
    records: int
    versions: Mapping[int, int]


@dataclass
class _Shown:
    """A trainer and how many of the versions it has been shown."""

    trainer: Processor
    versions: int = 0
    base: int = -1


@dataclass
class _Seen:
    missions: list[Record] = field(default_factory=list)
    versions: list[Record] = field(default_factory=list)


class TrainerAsRecorded(Watched):
    """Trainers by the names of the recorded ones, each shown versions as its uploads name them."""

    def __init__(self, make: Callable[[], Processor]) -> None:
        super().__init__(make())
        self.task: Task | None = None
        self._make = make
        self._seen = _Seen()
        self._trainers: dict[str, _Shown] = {}

    def intake(self) -> Intake:
        """All records of the upload."""
        return Intake(self.task.records if self.task else 1, _WAIT_MS)

    def waiting_for(self) -> str | None:
        """Nothing: what is fed can be worked on."""
        return None

    def observe(self, record: Record) -> None:
        """Kept until it is to be shown."""
        if isinstance(record.event, WeightVersion):
            self._seen.versions.append(record)
            return
        self._seen.missions.append(record)
        for shown in self._trainers.values():
            shown.trainer.observe(record)

    def process(self, batch: Batch) -> Steps:
        """One upload, under the version of the task."""
        assert self.task is not None
        self._inner = self._ready(self.task)
        records = [_translated(record, self.task.versions) for record in batch.records]
        return (yield from super().process(replace(batch, records=records)))

    def _ready(self, task: Task) -> Processor:
        """The trainer of that name, shown all versions up to the base and none after."""
        shown = self._trainers.get(task.trainer)
        if shown is None or shown.base > task.base:
            shown = self._trainers[task.trainer] = self._fresh()
        while shown.base < task.base:
            if shown.versions == len(self._seen.versions):
                raise Unready(f"version {task.base} of {self.policy}")
            record = self._seen.versions[shown.versions]
            shown.trainer.observe(record)
            assert isinstance(record.event, WeightVersion)
            shown.versions, shown.base = shown.versions + 1, record.event.version
        return shown.trainer

    def _fresh(self) -> _Shown:
        made = self._make()
        for record in self._seen.missions:
            made.observe(record)
        return _Shown(made)


def _translated(record: Record, versions: Mapping[int, int]) -> Record:
    """The record with its version as it is numbered here; its bytes stay."""
    group = record.event
    assert isinstance(group, SampleGroup)
    here = versions.get(group.version, group.version)
    if here == group.version:
        return record
    return replace(record, event=group.model_copy(update={"version": here}))
