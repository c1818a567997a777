"""The aggregator: folds gradients into weight versions, one policy's in one order.

A step closes by upload count in log order, never by clock. While one is open its uploads' offsets
are not committed, so after a crash they are read again; every manifest says where to resume.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from schemas.effects import Bury, Effect, Emit, Intake, Put, StateInput, Steps, Unready
from schemas.ids import digest
from schemas.learning import (
    CloseStep,
    GradientUpload,
    RefusedUpload,
    RollbackRequest,
    UploadsRefused,
    VersionsExpired,
    WeightHead,
    WeightVersion,
)
from schemas.missions import Mission, MissionReport
from schemas.partitioner import partition_for
from schemas.records import Batch, Partition, Record
from schemas.tensors import ObjectRef
from schemas.topics import GRADIENT_CHUNKS, MISSIONS, WEIGHT_VERSIONS, Topic
from streams.learning import janitor, keys
from streams.learning.admission import (
    Refusal,
    admissible_bases,
    gaps,
    misfit,
    refusal,
    refused_upload,
    unread,
)
from streams.learning.ledger import Ledger, Versions
from streams.learning.manifests import (
    Joined,
    OpenStep,
    applied_upload,
    base_version,
    content_id,
    mission_steps,
    rollback_version,
    step_version,
)
from streams.learning.scratch import Scratch
from streams.learning.spill import BadSpill, spill, whole
from streams.learning.step import (
    Paths,
    Unreadable,
    fetch_checkpoint,
    fetch_gradient,
    take_step,
)

Doing = Generator[Effect, Any, None]


class Aggregator:
    """Makes the weight versions of one policy; see `schemas.effects.Processor`.

    `scratch` is a folder of this process alone. `gaps` counts ranges of samples that no upload
    covers: each is an alarm.
    """

    name = "aggregator"
    work: tuple[Topic, ...] = (GRADIENT_CHUNKS,)
    state: tuple[StateInput, ...] = (
        StateInput(WEIGHT_VERSIONS, barrier=True),
        StateInput(MISSIONS),
    )

    def __init__(self, policy: str, scratch: Path) -> None:
        self.policy: str | None = policy
        self.group = f"aggregator.{policy}"
        self.gaps = 0
        self._policy = policy
        number = partition_for(policy.encode(), GRADIENT_CHUNKS.partitions)
        self._partition = Partition(GRADIENT_CHUNKS.name, number)
        self._scratch = Scratch(scratch)
        self._missions: dict[str, Mission] = {}
        self._prepared: MissionReport | None = None
        self._versions = Versions()
        self._observed = self._ledger = Ledger()
        self._open: OpenStep | None = None
        self._owns = False
        # A predecessor may have died between announcing an expiry and sweeping.
        self._sweep_due = True

    @property
    def head(self) -> WeightVersion | None:
        """The newest version, published or about to be."""
        return self._ledger.head

    def intake(self) -> Intake:
        """One record at a time: each may close a step."""
        return Intake(max_batch=1)

    def waiting_for(self) -> str | None:
        """Never waits: what comes before version 0 is buried."""
        return None

    # -- state ------------------------------------------------------------------------------

    def observe(self, record: Record) -> None:
        """Take in missions, what the provider prepared, and the policy's own events."""
        value = record.value or b""
        match record.event:
            case Mission(policy=self._policy) as mission:
                self._missions.setdefault(mission.mission_id, mission)
            case MissionReport(policy=self._policy, stage="prepared") as report:
                self._prepared = self._prepared or report
            case WeightVersion(policy=self._policy) as event:
                self._versions.add(event, value)
                self._follow(self._observed.after(event, value))
            case UploadsRefused(policy=self._policy) as event:
                self._follow(self._observed.after(event, value))
            case VersionsExpired(policy=self._policy) as expired:
                self._versions.expire(expired)
                self._sweep_due = True

    def _follow(self, ledger: Ledger) -> None:
        if self._observed.is_behind(ledger):
            self._observed = ledger
        if self._ledger.is_behind(ledger):
            self._reset()

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Resume after what the newest event of the policy accounts for."""
        self._owns = self._partition in partitions
        self._reset()
        resume = self._observed.resume.get(str(self._partition))
        return {} if resume is None or not self._owns else {self._partition: resume}

    def _reset(self) -> None:
        """Stand where the log says, whatever was about to be published."""
        self._ledger = self._observed
        self._open = None
        self._scratch.clear()

    # -- work -------------------------------------------------------------------------------

    def tick(self) -> Steps | None:
        """Publish version 0 once a mission is prepared; sweep after an expiry."""
        if not self._owns or self._open:
            return None
        if self.head is None:
            mission = self._missions.get(self._prepared.mission_id) if self._prepared else None
            if mission and self._prepared:
                return self._base(mission, self._prepared)
            return None
        return self._sweep_alone() if self._sweep_due else None

    def process(self, batch: Batch) -> Steps:
        """Take in one upload, close or rollback; "hold" while a step stays open."""
        yield from self._know_head()
        for record in batch.records:
            if not self._ledger.has_read(record.partition, record.offset):
                yield from self._one(record)
        return "hold" if self._open else "commit"

    def _know_head(self) -> Doing:
        """Fetch what was moved out of the head's event, unless this process made it."""
        head = self._ledger.head
        if head is not None and head.spilled is not None:
            self._ledger = replace(self._ledger, head=(yield from whole(head)))

    def _one(self, record: Record) -> Doing:
        match record.event:
            case GradientUpload() | RollbackRequest() if self.head is None:
                yield Bury(record, "no-version", f"policy {self._policy} has no version yet")
            case GradientUpload() as upload:
                yield from self._upload(record, upload)
            case RollbackRequest() as request:
                yield from self._rollback(record, request)
            case CloseStep():
                self._ledger = self._ledger.past(record)
                if self._open:
                    yield from self._close(self._open)

    def _base(self, mission: Mission, report: MissionReport) -> Steps:
        base = yield from fetch_checkpoint(self._scratch, report.base_shards, {})
        yield from self._announce(base_version(mission, report, base.layout))
        return "commit"

    def _upload(self, record: Record, upload: GradientUpload) -> Doing:
        mission = self._mission(upload.mission_id)
        staleness_max = mission.training.staleness_max
        why = refusal(upload, self._head(), self._ledger.marks, staleness_max)
        joined: Joined | None = None
        if why is None:
            try:
                upload = yield from whole(upload)
                kind = self._open.kind if self._open else None
                why = misfit(upload, self._head().layout, kind)
                joined = None if why else (yield from self._fetch(record, upload))
            except (BadSpill, Unreadable) as error:
                why = Refusal("unreadable", str(error))
        self.gaps += len(gaps(self._ledger.marks, upload.source))
        if why and why.reason == "overlap":
            upload = unread(upload, self._ledger.marks)
        self._ledger = self._ledger.past(record).with_upload(upload, why.reason if why else None)
        if joined:
            yield from self._join(mission, joined)
        elif why:
            yield from self._refuse(refused_upload(upload, record.at, why))

    def _fetch(self, record: Record, upload: GradientUpload) -> Generator[Effect, Any, Joined]:
        name = f"upload-{len(self._open.joined) if self._open else 0}"
        vector = yield from fetch_gradient(self._scratch, upload, self._head().layout, name)
        return Joined(upload, applied_upload(upload, record, digest(record.value or b"")), vector)

    def _join(self, mission: Mission, joined: Joined) -> Doing:
        self._open = self._open or OpenStep(mission)
        self._open.joined.append(joined)
        if len(self._open.joined) >= self._open.mission.training.uploads_per_step:
            yield from self._close(self._open)

    def _refuse(self, refused: RefusedUpload) -> Doing:
        """Publish a refusal at once, or with the open step."""
        if self._open:
            self._open.refused.append(refused)
            return
        yield Emit(
            UploadsRefused(
                policy=self._policy,
                head=self._head().version,
                refused=[refused],
                marks=self._ledger.marks,
                resume=self._ledger.resume,
                totals=self._ledger.totals,
            )
        )

    def _close(self, opened: OpenStep) -> Doing:
        """Take the step, store its files, announce its version."""
        head, training = self._head(), opened.mission.training
        # The new files stay beside the old: if publishing fails, the step is taken again.
        self._scratch.keep([*head.shards.values(), *head.optimizer.values()])
        old = yield from fetch_checkpoint(self._scratch, head.shards, head.optimizer)
        gradients = [(joined.gradient, joined.upload.weight) for joined in opened.joined]
        mission_id = opened.mission.mission_id
        turn = mission_steps(head, mission_id)[mission_id]
        new = take_step(self._scratch, head, old, gradients, training, turn, opened.kind)
        content = content_id(self._ledger.head_sha256, opened, new.step)
        shards = yield from self._store(content, new.weights)
        moments = yield from self._store(content, new.moments)
        optimizer = head.optimizer if opened.kind == "delta" else moments
        event = step_version(self._ledger, head, opened, new.step, (shards, optimizer))
        yield from self._announce(event)
        yield from self._after_step(opened)

    def _store(self, content: str, files: Paths) -> Generator[Effect, Any, dict[str, ObjectRef]]:
        refs: dict[str, ObjectRef] = {}
        for name, path in files.items():
            key = keys.weights_key(self._policy, self._head().version + 1, content, name)
            refs[name] = yield Put(key, path)
            self._scratch.adopt(path, refs[name].sha256)
        return refs

    def _rollback(self, record: Record, request: RollbackRequest) -> Doing:
        target = self._target(request.to_version)
        if target is None:
            yield from self._bury(record, self._why_no_target(request.to_version))
            return
        opened, head = self._open or OpenStep(self._mission(target.mission_id)), self._head()
        why = Refusal("abandoned", f"rolled back to version {target.version} before its step")
        for joined in opened.joined:
            opened.refused.append(refused_upload(joined.upload, joined.applied.at, why))
        self._ledger = self._ledger.past(record).without(joined.upload for joined in opened.joined)
        content = ((yield from whole(target)), self._versions.sha256(target.version))
        staleness_max = opened.mission.training.staleness_max
        yield from self._announce(
            rollback_version(self._ledger, head, content, request, opened.refused, staleness_max)
        )
        yield from self._after_step(opened)

    def _target(self, version: int) -> WeightVersion | None:
        target, head = self._versions.get(version), self._head()
        if target is None and version <= head.version and version not in self._versions.expired:
            raise Unready(f"version {version} of {self._policy}")
        return target

    def _why_no_target(self, version: int) -> str:
        kept = [event.version for event in self._versions.events()]
        state = "has expired" if version in self._versions.expired else "does not exist"
        return f"version {version} of {self._policy} {state}; to roll back to are {_ranges(kept)}"

    def _bury(self, record: Record, detail: str) -> Doing:
        """Send a request that cannot be met to the dead letters, with the open step if any."""
        self._ledger = self._ledger.past(record)
        if self._open:
            self._open.buried.append((record, detail))
        else:
            yield Bury(record, "no-such-version", detail)

    def _announce(self, event: WeightVersion) -> Doing:
        """Publish a version as the new head, and now and then what expires with it."""
        key = partial(keys.manifest_key, self._policy, event.version)
        small = yield from spill(event, key)
        yield Emit(small)
        yield Emit(WeightHead(policy=self._policy, version=event.version))
        self._ledger = self._ledger.after(event, small.to_bytes())

    def _after_step(self, opened: OpenStep) -> Doing:
        for record, detail in opened.buried:
            yield Bury(record, "no-such-version", detail)
        self._open = None
        self._scratch.clear()
        if self._head().version % janitor.SWEEP_EVERY == 0:
            training, keep = opened.mission.training, opened.mission.keep
            kept = [*self._versions.events(), self._head()]
            if expired := janitor.to_expire(kept, keep, training.staleness_max):
                yield Emit(VersionsExpired(policy=self._policy, versions=expired))
        if self._sweep_due:
            yield from self._sweep()

    # -- sweeping ---------------------------------------------------------------------------

    def _sweep_alone(self) -> Steps:
        yield from self._sweep()
        return "commit"

    def _sweep(self) -> Doing:
        """By what was read back from the log alone, never by what is about to be published."""
        head = self._observed.head
        mission = self._missions.get(head.mission_id) if head else None
        if head and mission:
            head = yield from whole(head, "lineage")
            bases = admissible_bases(head, mission.training.staleness_max)
            yield from janitor.sweep(self._policy, self._versions, bases)
            self._sweep_due = False

    # -- look-ups ---------------------------------------------------------------------------

    def _head(self) -> WeightVersion:
        if self._ledger.head is None:
            raise Unready(f"version 0 of policy {self._policy}")
        return self._ledger.head

    def _mission(self, mission_id: str) -> Mission:
        if mission_id not in self._missions:
            raise Unready(f"mission {mission_id} of policy {self._policy}")
        return self._missions[mission_id]


def _ranges(numbers: list[int]) -> str:
    """Sorted numbers in short: `0, 90-100`."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans) or "none"
