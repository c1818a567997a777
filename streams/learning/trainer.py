"""The trainer: groups of completions to one gradient upload, under the newest weight version."""

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

from schemas.effects import (
    Bury,
    Effect,
    Emit,
    Intake,
    Put,
    StateInput,
    Steps,
    Unready,
)
from schemas.ids import derived_id, digest
from schemas.learning import GradientUpload, WeightVersion
from schemas.missions import Mission, MissionReport
from schemas.records import Batch, Partition, Record
from schemas.tensors import TensorRef
from schemas.topics import MISSIONS, SAMPLES, WEIGHT_VERSIONS, Topic
from streams.learning.environment import environment
from streams.learning.gradients import Gradient
from streams.learning.keys import gradient_fields_key, gradient_key
from streams.learning.layout import ELEMENT_BYTES
from streams.learning.learner import Learner, chunks_of, needs_reference, reference
from streams.learning.learners import Learners
from streams.learning.sifting import Run, Sifted, Used, records_digest, runs_of, sift
from streams.learning.spill import spill, whole

_MAX_WAIT_MS = 1500


class Trainer:
    """Turns sample groups of one policy into gradient uploads; implements `Processor`."""

    work: tuple[Topic, ...] = (SAMPLES,)
    state: tuple[StateInput, ...] = (
        StateInput(WEIGHT_VERSIONS, since_head=True),
        StateInput(MISSIONS),
    )

    def __init__(self, policy: str, name: str = "trainer") -> None:
        self.name = name
        self.group = f"trainer.{policy}"
        self.policy: str | None = policy
        self._head: WeightVersion | None = None
        self._missions: dict[str, Mission] = {}
        self._prepared: MissionReport | None = None
        self._learners = Learners()

    def intake(self) -> Intake:
        """One upload's groups, of the newest mission; fewer when no more come."""
        newest = next(reversed(self._missions.values()), None)
        size = newest.training.groups_per_upload if newest else 1
        return Intake(max_batch=size, max_wait_ms=_MAX_WAIT_MS)

    def waiting_for(self) -> str | None:
        """A weight version to compute gradients of."""
        return None if self._head else f"weight-versions: no version of policy {self.policy} yet"

    def observe(self, record: Record) -> None:
        """Remember missions, of one id the first, the policy's base model and newest version."""
        event = record.event
        if getattr(event, "policy", None) != self.policy:
            return
        if isinstance(event, WeightVersion):
            if self._head is None or event.version > self._head.version:
                self._head = event
        elif isinstance(event, Mission):
            self._missions.setdefault(event.mission_id, event)
        elif isinstance(event, MissionReport) and event.base_shards:
            self._prepared = self._prepared or event

    def assigned(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The committed offsets are where to go on."""
        return {}

    def tick(self) -> Steps | None:
        """Nothing follows from state alone."""
        return None

    def process(self, batch: Batch) -> Steps:
        """Publish one upload for the batch, one a mission where it spans several."""
        head = self._head
        if head is None:
            raise Unready(self.waiting_for())
        head = yield from whole(head, "lineage")
        for run in runs_of(batch, otherwise=head.mission_id):
            yield from self._publish(run, head)
        return "commit"

    def _publish(self, run: Run, head: WeightVersion) -> Generator[Effect, Any, None]:
        """One upload for a run; with nothing left to learn from it is empty, not skipped."""
        mission = self._mission(run)
        learner = self._learners.of(mission)
        sifted = sift(run, head, mission.training.staleness_max)
        if sifted.used:
            yield from learner.follow(head, mission.training)
            sifted = yield from self._readable(sifted, learner)
        upload_id = derived_id("upload", head.policy, run.source)
        learnt: dict[str, Any] = {}
        if sifted.used:
            groups, base = [one.group for one in sifted.used], self._base(mission, head)
            gradient = yield from learner.gradient(mission, head, groups, base)
            chunks = yield from self._store(gradient, head, upload_id)
            learnt = _learnt(gradient, sifted.used, learner.device) | {"chunks": chunks}
        empty = GradientUpload(
            upload_id=upload_id,
            policy=head.policy,
            mission_id=mission.mission_id,
            base_version=head.version,
            chunks=[],
            weight=0,
            groups=[one.use() for one in sifted.used],
            dropped=sifted.dropped,
            records_sha256=records_digest(sifted.used),
            trainer=self.name,
            source=run.source,
        )
        upload = empty.model_copy(update=learnt)
        yield Emit((yield from spill(upload, partial(_fields_key, upload))))

    def _mission(self, run: Run) -> Mission:
        mission = self._missions.get(run.mission_id)
        if mission is None:
            at = f" (of {run.records[0].at})" if run.records else ""
            raise Unready(f"missions: mission {run.mission_id}{at} is not there yet")
        return mission

    def _readable(self, sifted: Sifted, learner: Learner) -> Generator[Effect, Any, Sifted]:
        """Fetch what is stored beside the events; what cannot be learnt from is buried."""
        kept = Sifted(dropped=sifted.dropped)
        for one in sifted.used:
            group, problem = yield from learner.complete(one.group)
            if problem:
                yield Bury(one.record, "unreadable", problem)
                kept.drop(one.record, "unreadable")
            else:
                kept.used.append(Used(group, one.record, one.staleness))
        return kept

    def _base(self, mission: Mission, head: WeightVersion) -> WeightVersion | None:
        """The reference of the mission's loss, where it has one."""
        if not needs_reference(mission):
            return None
        if self._prepared is None:
            raise Unready(f"missions: no base model of policy {self.policy} is prepared yet")
        return reference(self._prepared, head)

    def _store(
        self, gradient: Gradient, head: WeightVersion, upload_id: str
    ) -> Generator[Effect, Any, list[TensorRef]]:
        """Put the chunks as little-endian float32; only after the last are they announced."""
        chunks: list[TensorRef] = []
        for data in chunks_of(gradient, head.layout.chunk_elements):
            key = gradient_key(head.policy, head.version, upload_id, len(chunks), digest(data))
            ref, shape = (yield Put(key, data)), (len(data) // ELEMENT_BYTES,)
            chunks.append(TensorRef(**ref.model_dump(), dtype="float32", shape=shape))
        return chunks


def _learnt(gradient: Gradient, used: Sequence[Used], device: str) -> dict[str, Any]:
    """What an upload says of its gradient; nothing of the clock, so it can be recomputed."""
    rollouts = sum(one.group.size for one in used)
    behind = sum(one.staleness * one.group.size for one in used)
    return {
        "kind": "delta" if gradient.local else "gradient",
        "weight": gradient.weight,
        "micro_batches": gradient.micro_batches,
        "local": gradient.local,
        "stats": {**gradient.stats, "staleness_mean": behind / rollouts},
        "deterministic": device == "cpu",
        "environment": environment(device),
    }


def _fields_key(upload: GradientUpload, sha256: str) -> str:
    return gradient_fields_key(upload.policy, upload.base_version, upload.upload_id, sha256)
