"""The trainer: groups of completions to one gradient upload, under the newest weight version."""

import tempfile
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.effects import (
    BadObject,
    Bury,
    Effect,
    Emit,
    Get,
    Intake,
    Put,
    StateInput,
    Steps,
    Unready,
)
from schemas.ids import derived_id, digest
from schemas.learning import GradientUpload, SampleGroup, WeightVersion
from schemas.missions import Mission, MissionReport
from schemas.records import Batch, Partition, Record
from schemas.tensors import TensorRef
from schemas.topics import MISSIONS, SAMPLES, WEIGHT_VERSIONS, Topic
from streams.learning.algorithms import algorithm
from streams.learning.environment import environment
from streams.learning.gradients import Gradient, upload_gradient
from streams.learning.keys import gradient_fields_key, gradient_key
from streams.learning.layout import FlatLayout, LayoutError, chunk_ranges, header_bytes, read_layout
from streams.learning.models import PolicyModel
from streams.learning.rollout import load_rollouts
from streams.learning.sifting import Run, Sifted, Used, fault, records_digest, runs_of, sift
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
        self._prepared: dict[str, MissionReport] = {}
        self._models: dict[str, PolicyModel] = {}
        self._layout: FlatLayout | None = None

    def intake(self) -> Intake:
        """One upload's groups, of the newest mission; fewer when no more come."""
        newest = next(reversed(self._missions.values()), None)
        size = newest.training.groups_per_upload if newest else 1
        return Intake(max_batch=size, max_wait_ms=_MAX_WAIT_MS)

    def waiting_for(self) -> str | None:
        """A weight version to compute gradients of."""
        return None if self._head else f"weight-versions: no version of policy {self.policy} yet"

    def observe(self, record: Record) -> None:
        """Remember missions, of one id the first, their base models, and the newest version."""
        event = record.event
        if getattr(event, "policy", None) != self.policy:
            return
        if isinstance(event, WeightVersion):
            if self._head is None or event.version > self._head.version:
                self._head = event
        elif isinstance(event, Mission):
            self._missions.setdefault(event.mission_id, event)
        elif isinstance(event, MissionReport) and event.stage == "prepared":
            self._prepared.setdefault(event.mission_id, event)

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
        sifted = sift(run, head, mission.training.staleness_max)
        if sifted.used:
            yield from self._model("policy", mission).follow(head)
            sifted = yield from self._readable(sifted)
        upload_id = derived_id("upload", head.policy, run.source)
        learnt: dict[str, Any] = {}
        if sifted.used:
            gradient = yield from self._gradient(mission, head, sifted.used)
            chunks = yield from self._store(gradient, head, upload_id)
            learnt = self._learnt(gradient, sifted.used) | {"chunks": chunks}
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

    def _model(self, role: str, mission: Mission) -> PolicyModel:
        wanted = (mission.training.device, mission.training.dtype)
        held = self._models.get(role)
        if held is None or held.setting != wanted:
            held = self._models[role] = PolicyModel(mission.training)
        return held

    def _readable(self, sifted: Sifted) -> Generator[Effect, Any, Sifted]:
        """Fetch what is stored beside the events; what cannot be learnt from is buried."""
        kept = Sifted(dropped=sifted.dropped)
        for one in sifted.used:
            group, problem = yield from self._whole(one.group)
            if problem:
                yield Bury(one.record, "unreadable", problem)
                kept.drop(one.record, "unreadable")
            else:
                kept.used.append(Used(group, one.record, one.staleness))
        return kept

    def _whole(self, group: SampleGroup) -> Generator[Effect, Any, tuple[SampleGroup, str]]:
        """The group with its rollouts, and what is wrong with it ("" when nothing is)."""
        if group.rollouts_ref is not None:
            try:
                rollouts = load_rollouts((yield Get(group.rollouts_ref)))
            except (BadObject, ValidationError) as error:
                return group, str(error)
            group = group.model_copy(update={"rollouts": rollouts})
        model = self._models["policy"].model
        vocabulary = model.get_input_embeddings().num_embeddings
        positions = getattr(model.config, "max_position_embeddings", None)
        return group, fault(group, vocabulary, positions)

    def _gradient(
        self, mission: Mission, head: WeightVersion, used: Sequence[Used]
    ) -> Generator[Effect, Any, Gradient]:
        layout = yield from self._layout_of(head)
        reference = None
        if algorithm(mission.algorithm.name, mission.algorithm.settings).settings.kl > 0:
            held = self._model("reference", mission)
            yield from held.follow(self._base(mission, head))
            reference = held.model
        groups = [one.group for one in used]
        return upload_gradient(self._models["policy"].model, layout, mission, groups, reference)

    def _base(self, mission: Mission, head: WeightVersion) -> WeightVersion:
        """The base model of the mission, in the form of a weight version."""
        report = self._prepared.get(mission.mission_id)
        if report is None or not report.base_shards:
            raise Unready(f"missions: no base model of mission {mission.mission_id} is prepared")
        files, shards = report.base_files, report.base_shards
        base = {"version": 0, "files": files, "shards": shards, "spilled": None}
        return head.model_copy(update=base)

    def _layout_of(self, head: WeightVersion) -> Generator[Effect, Any, FlatLayout]:
        """The layout that the version names, read from its shards when it is another one."""
        named = head.layout.sha256
        if self._layout is None or self._layout.sha256 != named:
            headers: dict[str, bytes] = {}
            head = yield from whole(head, "shards")
            with tempfile.TemporaryDirectory(prefix="ralo-layout-") as folder:
                for name, ref in head.shards.items():
                    path = yield Get(ref, Path(folder) / "shard")
                    headers[name] = header_bytes(path)
            self._layout = read_layout(headers)
        if self._layout.sha256 != named:
            raise LayoutError(
                f"version {head.version} of {head.policy}: its shards have the layout "
                f"{self._layout.sha256[:16]}…, its manifest names {named[:16]}…"
            )
        return self._layout

    def _store(
        self, gradient: Gradient, head: WeightVersion, upload_id: str
    ) -> Generator[Effect, Any, list[TensorRef]]:
        """Put the chunks as little-endian float32; only after the last are they announced."""
        vector = gradient.vector.numpy().astype("<f4", copy=False)
        chunks: list[TensorRef] = []
        for start, stop in chunk_ranges(len(vector), head.layout.chunk_elements):
            data = vector[start:stop].tobytes()
            key = gradient_key(head.policy, head.version, upload_id, len(chunks), digest(data))
            ref = yield Put(key, data)
            chunks.append(TensorRef(**ref.model_dump(), dtype="float32", shape=(stop - start,)))
        return chunks

    def _learnt(self, gradient: Gradient, used: Sequence[Used]) -> dict[str, Any]:
        """What an upload says of its gradient; nothing of the clock, so it can be recomputed."""
        rollouts = sum(len(one.group.rollouts) for one in used)
        behind = sum(one.staleness * len(one.group.rollouts) for one in used)
        device = self._models["policy"].device.type
        return {
            "weight": gradient.weight,
            "micro_batches": gradient.micro_batches,
            "stats": {**gradient.stats, "staleness_mean": behind / rollouts},
            "deterministic": device == "cpu",
            "environment": environment(device),
        }


def _fields_key(upload: GradientUpload, sha256: str) -> str:
    return gradient_fields_key(upload.policy, upload.base_version, upload.upload_id, sha256)
