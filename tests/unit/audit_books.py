"""A small valid log, built by hand, in which tests then plant one breach each."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from consumers.audit import AuditReport, audit
from consumers.audit.store import StoreChecker
from infra.memory.store import MemoryStore
from schemas.base import Event
from schemas.ids import digest, problem_id
from schemas.learning import (
    AppliedUpload,
    DeadLetter,
    DeadLetterResolution,
    Dropped,
    Environment,
    Evaluation,
    GradientUpload,
    GroupUse,
    Layout,
    Problem,
    RefusedUpload,
    Rollout,
    SampleGroup,
    Totals,
    UploadsRefused,
    VersionsExpired,
    WeightHead,
    WeightVersion,
)
from schemas.missions import AlgorithmSpec, Mission, MissionReport, MissionResult, Verifier
from schemas.records import Partition, Record
from schemas.tensors import ObjectRef, TensorRef

ENVIRONMENT = Environment(torch="2", threads=1, cpu_capability="AVX2")
SHA = "0" * 64


@dataclass
class Slot:
    """One record to be: an event, or raw bytes."""

    name: str
    partition: Partition
    offset: int
    event: Any
    headers: dict[str, bytes] = field(default_factory=dict)

    @property
    def at(self) -> str:
        return f"{self.partition.topic}[{self.partition.number}]@{self.offset}"

    @property
    def value(self) -> bytes:
        return self.event if isinstance(self.event, bytes) else self.event.to_bytes()

    def edit(self, **update: Any) -> None:
        self.event = self.event.model_copy(update=update)


class BookLog:
    """Slots by name; offsets of a partition may have holes, as control records leave them."""

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}
        self.store = MemoryStore()
        self._next: dict[Partition, int] = {}

    def __getitem__(self, name: str) -> Slot:
        return self.slots[name]

    def put(self, name: str, event: Event | bytes, number: int = 0, topic: str = "") -> Slot:
        topic = topic or event.topic  # type: ignore[union-attr]
        partition = Partition(topic, number)
        slot = Slot(name, partition, self._next.get(partition, 0), event)
        self._next[partition] = slot.offset + 1
        self.slots[name] = slot
        return slot

    def skip(self, topic: str, number: int = 0) -> None:
        """Leave an offset to a control record."""
        partition = Partition(topic, number)
        self._next[partition] = self._next.get(partition, 0) + 1

    def remove(self, name: str) -> None:
        del self.slots[name]

    def seal(self) -> None:
        """Name the hashes of records in the records that come after them."""
        hashes = {s.at: digest(s.value) for s in self.slots.values()}
        versions: dict[tuple[str, int], str] = {}
        for slot in self.slots.values():
            event = slot.event
            if not isinstance(event, WeightVersion):
                continue
            uploads = [
                u.model_copy(update={"record_sha256": hashes.get(u.at, SHA)}) for u in event.uploads
            ]
            parent = versions.get((event.policy, event.parent if event.parent is not None else -1))
            slot.edit(uploads=uploads, parent_sha256=parent)
            versions[event.policy, event.version] = digest(slot.value)

    def bury(self, name: str, origin: str, processor: str = "sampler") -> None:
        slot = self.slots[origin]
        letter = DeadLetter(
            at=slot.at,
            origin_topic=slot.partition.topic,
            origin_partition=slot.partition.number,
            origin_offset=slot.offset,
            reason="undecodable",
            processor=processor,
            value_base64=base64.b64encode(slot.value).decode(),
        )
        self.put(name, letter)

    def settle(self, name: str, letter: str, copy: str = "") -> None:
        """Say that a letter was dropped, or requeued as this record."""
        at = self.slots[letter].at
        if copy:
            self.slots[copy].headers["requeue-of"] = at.encode()
        resolution = DeadLetterResolution(
            letter=at,
            origin=self.slots[letter].event.at,
            action="requeued" if copy else "dropped",
            run="r",
            value_sha256=digest(self.slots[copy].value) if copy else None,
        )
        self.put(name, resolution)

    def records(self) -> dict[str, list[Record]]:
        topics: dict[str, list[Record]] = {}
        for slot in self.slots.values():
            record = Record(slot.partition, slot.offset, b"k", slot.value, slot.headers)
            topics.setdefault(slot.partition.topic, []).append(record)
        return topics

    def audit(self, **options: Any) -> AuditReport:
        return audit(self.records(), StoreChecker(self.store), **options)

    def ref(self, key: str) -> ObjectRef:
        return self.store.put(key, key.encode())

    def chunk(self, key: str) -> TensorRef:
        ref = self.store.put(key, key.encode())
        return TensorRef(**ref.model_dump(), dtype="float32", shape=(4,))


def mission(id_: str, policy: str) -> Mission:
    return Mission.model_validate(
        {
            "mission_id": id_,
            "policy": policy,
            "problems": {"name": "spell"},
            "budget": {"problems": 100},
            "training": {"staleness_max": 2},
        }
    )


def problem(index: int, policy: str = "main", mission_id: str = "m1") -> Problem:
    question = f"question {index} of {mission_id}"
    return Problem(
        problem_id=problem_id(mission_id, 0, question),
        mission_id=mission_id,
        policy=policy,
        epoch=0,
        index=index,
        question=question,
        prompt=question,
        answer="a",
        verifier=Verifier(),
    )


ROLLOUT = Rollout(tokens=[1], logprobs=[-0.5], reward=1.0, stop="eos")


def group(of: Problem, version: int, source: tuple[str, int, int], **more: Any) -> SampleGroup:
    part, start, stop = source
    fields: dict[str, Any] = {
        "problem_id": of.problem_id,
        "mission_id": of.mission_id,
        "policy": of.policy,
        "prompt_tokens": [1],
        "rollouts": [ROLLOUT, ROLLOUT],
        "version": version,
        "source": {part: (start, stop)},
    }
    return SampleGroup(**(fields | more))


def use(slot: Slot) -> GroupUse:
    event = slot.event
    return GroupUse(
        group_id=event.group_id, at=slot.at, version=event.version, rollouts=len(event.rollouts)
    )


def drop(slot: Slot, reason: Any) -> Dropped:
    return Dropped(group_id=slot.event.group_id, at=slot.at, reason=reason)


def upload(log: BookLog, id_: str, base: int, source: dict[str, tuple[int, int]]) -> GradientUpload:
    return GradientUpload(
        upload_id=id_,
        policy="main",
        mission_id="m1",
        base_version=base,
        chunks=[log.chunk(f"gradients/main/{base}/{id_}/0")],
        weight=2.0,
        groups=[],
        records_sha256=SHA,
        source=source,
    )


def version(log: BookLog, number: int, **more: Any) -> WeightVersion:
    fields: dict[str, Any] = {
        "policy": "main",
        "version": number,
        "previous": number - 1 if number else None,
        "parent": number - 1 if number else None,
        "kind": "step" if number else "base",
        "mission_id": "m1",
        "algorithm": AlgorithmSpec(),
        "code_sha256": SHA,
        "files": {"config.json": log.ref("bases/m1/config.json")},
        "shards": {"model.safetensors": log.ref(f"weights/main/{number}-x/model")},
        "optimizer": {"optimizer": log.ref(f"weights/main/{number}-x/optimizer")},
        "layout": Layout(parameters=4, chunk_elements=4, sha256=SHA),
        "lineage": list(range(number - 1, -1, -1)),
        "environment": ENVIRONMENT,
    }
    return WeightVersion(**(fields | more))


def applied(slot: Slot) -> AppliedUpload:
    event: GradientUpload = slot.event
    return AppliedUpload(
        upload_id=event.upload_id,
        at=slot.at,
        record_sha256=SHA,
        base_version=event.base_version,
        weight=event.weight,
        groups=len(event.groups),
        dropped=len(event.dropped),
    )


def refused(slot: Slot, reason: Any, **counts: int) -> RefusedUpload:
    event: GradientUpload = slot.event
    all_of_it = {"groups": len(event.groups), "dropped": len(event.dropped)}
    return RefusedUpload(upload_id=event.upload_id, at=slot.at, reason=reason, **all_of_it | counts)


def evaluation(number: int) -> Evaluation:
    return Evaluation(
        policy="main",
        mission_id="m1",
        version=number,
        accuracy=0.5,
        correct=1,
        total=2,
        reward=0.5,
        heldout_sha256=SHA,
    )


def valid() -> BookLog:
    """Missions m1 (running) and m0 (rejected) of `main`, and m2 of the policy `other`.

    Of m1's nine problems p3 is a dead letter, p5 and p7 are in flight, p2 was cancelled. Of its
    groups, g0 and g1 are in the applied u0, g2 is dropped and g4 learnt in u1, g6 is in the refused
    u2 and g8 in the open u3. u0 was sent twice. Version 3 rolls back to 1, which is expired. Of its
    three letters one waits, one was dropped, and one, of an evaluation, was requeued.
    """
    log = BookLog()
    _missions(log)
    _problems(log)
    _samples(log)
    _uploads(log)
    _versions(log)
    log.bury("letter-corrupt", "corrupt")
    log.bury("letter-p3", "p3")
    _letters(log)
    log.seal()
    return log


def _letters(log: BookLog) -> None:
    log.put("corrupt-e", b"{", topic="evaluations")
    log.bury("letter-e", "corrupt-e", "gate")
    log.put("mended-e", evaluation(0))
    log.settle("requeued-e", "letter-e", "mended-e")
    log.settle("dropped-corrupt", "letter-corrupt")


def _missions(log: BookLog) -> None:
    lines = b"".join(problem(i, mission_id="heldout").to_bytes() + b"\n" for i in range(2))
    heldout = log.store.put("missions/m1/heldout.jsonl", lines)
    for id_, policy in (("m0", "main"), ("m1", "main"), ("m2", "other")):
        log.put(id_, mission(id_, policy))
    report = MissionReport(mission_id="m1", policy="main", stage="prepared", heldout=heldout)
    base = {"model.safetensors": log.ref("bases/m1/model.safetensors")}
    log.put("prepared", report.model_copy(update={"base_shards": base}))
    log.put("result", MissionResult(mission_id="m0", policy="main", outcome="rejected"))


def _problems(log: BookLog) -> None:
    log.put("p0", problem(0))
    log.put("p1", problem(1))
    log.put("o0", problem(0, "other", "m2"))
    log.put("p2", problem(2))
    log.put("corrupt", b"{not json", topic="problems")
    log.put("p3", problem(3))
    log.skip("problems")
    log.put("p4", problem(4))
    log.put("p5", problem(5))
    log.put("p6", problem(6), number=1)
    log.put("p8", problem(7), number=1)
    log.put("p7", problem(8), number=1)


def _samples(log: BookLog) -> None:
    def of(name: str, version: int, start: int, stop: int, **more: Any) -> SampleGroup:
        slot = log[name]
        return group(slot.event, version, (str(slot.partition), start, stop), **more)

    log.put("g0", of("p0", 0, 0, 1))
    log.put("g1", of("p1", 0, 1, 2))
    log.put("og0", group(log["o0"].event, 0, ("problems-0", 0, 3)))
    log.put("g2", of("p2", 0, 2, 4, outcome="cancelled", rollouts=[]))
    log.skip("samples")
    # p3, at 5, is a dead letter: no source holds it.
    log.put("g4", of("p4", 0, 6, 8))
    log.put("g6", of("p6", 1, 0, 1), number=1)
    log.put("g8", of("p8", 1, 1, 2), number=1)


def _uploads(log: BookLog) -> None:
    u0 = upload(log, "u0", 0, {"samples-0": (0, 2)})
    u0 = u0.model_copy(update={"groups": [use(log["g0"]), use(log["g1"])]})
    log.put("u0", u0)
    log.put("u0-again", u0)
    u1 = upload(log, "u1", 0, {"samples-0": (2, 6)})
    listed = {"groups": [use(log["g4"])], "dropped": [drop(log["g2"], "cancelled")]}
    log.put("u1", u1.model_copy(update=listed))
    u2 = upload(log, "u2", 0, {"samples-1": (0, 1)})
    u3 = upload(log, "u3", 1, {"samples-1": (1, 2)})
    log.put("u2", u2.model_copy(update={"groups": [use(log["g6"])]}))
    log.skip("gradient-chunks")
    log.put("u3", u3.model_copy(update={"groups": [use(log["g8"])]}))


def _versions(log: BookLog) -> None:
    two = Totals(groups=2, samples=4, uploads=1)
    four = Totals(groups=4, samples=6, uploads=2, dropped=1)
    five = Totals(groups=5, samples=6, uploads=2, dropped=1, refused=1)
    marks = [{"samples-0": 2}, {"samples-0": 6}, {"samples-0": 6, "samples-1": 1}]
    shards = {"model.safetensors": log.ref("bases/m1/model.safetensors")}
    log.put("v0", version(log, 0, shards=shards, optimizer={}))
    resume = [{"gradient-chunks-0": n} for n in (1, 2, 3, 4)]
    done = {"uploads": [applied(log["u0"])], "totals": two, "marks": marks[0], "resume": resume[0]}
    log.put("v1", version(log, 1, **done))
    again = [refused(log["u0-again"], "overlap", groups=0)]
    refusal = UploadsRefused(
        policy="main", head=1, refused=again, marks=marks[0], resume=resume[1], totals=two
    )
    log.put("overlap", refusal)
    done = {"uploads": [applied(log["u1"])], "totals": four, "marks": marks[1], "resume": resume[2]}
    log.put("v2", version(log, 2, **done))
    log.put("refusal", refusal.model_copy(update=_refused(log, five, marks[2], resume[3])))
    back = {"kind": "rollback", "parent": 1, "lineage": [1, 0], "totals": five, "marks": marks[2]}
    kept = {"shards": log["v1"].event.shards, "optimizer": log["v1"].event.optimizer}
    log.put("v3", version(log, 3, resume=resume[3], **back, **kept))
    log.put("expired", VersionsExpired(policy="main", versions=[1]))
    other = {"policy": "other", "mission_id": "m2"}
    log.put("ov0", version(log, 0, **other), number=1)
    log.put("oh0", WeightHead(policy="other", version=0), number=1)
    for number in range(4):
        log.put(f"h{number}", WeightHead(policy="main", version=number))
    log.put("e0", evaluation(0))
    log.put("e3", evaluation(3))


def overlapping(log: BookLog, **counts: int) -> BookLog:
    """u0 came again with g2, which u1 then does not name; a refusal counts what it is told."""
    again, dropped = log["u0-again"], [drop(log["g2"], "cancelled")]
    again.edit(source={"samples-0": (0, 4)}, dropped=dropped)
    log["u1"].edit(source={"samples-0": (4, 6)}, dropped=[])
    counts = {"groups": 0, "dropped": 1} | counts
    log["overlap"].edit(
        refused=[refused(again, "overlap", **counts)],
        marks={"samples-0": 2 + 2 * counts["dropped"]},
        totals=Totals(
            groups=2 + counts["dropped"], samples=4, uploads=1, dropped=counts["dropped"]
        ),
    )
    log["v2"].edit(uploads=[applied(log["u1"])])
    log.seal()
    return log


def _refused(log: BookLog, totals: Totals, marks: Any, resume: Any) -> dict[str, Any]:
    uploads = [refused(log["u2"], "layout")]
    return {"refused": uploads, "totals": totals, "marks": marks, "resume": resume, "head": 2}


def names(report: AuditReport) -> Iterator[str]:
    """What is broken, with where, for the message of an assertion."""
    return (f"{i.name}: {i.first}" for i in report.invariants if i.broken)
