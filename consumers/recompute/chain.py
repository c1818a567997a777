"""The proof of a chain of versions: each is made again of its stored parent and compared.

Since every parent is compared itself, by SHA-256 with the manifest that names it, the chain is
whole where all its links are; and one version that is wrong hides no other.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consumers.recompute import manifest
from consumers.recompute.books import follow, listing_faults, settled, whole_move
from consumers.recompute.evidence import (
    NOT_OURS,
    CannotRecompute,
    Expired,
    NotReproduced,
    OtherEnvironment,
    broke,
    completed,
    must_be_alike,
    must_hash,
    threads_of,
)
from consumers.recompute.index import Index, Report, nothing, proof_topics
from consumers.recompute.report import ChainReport, Finding, VersionProof, What
from consumers.recompute.sampling import Sampling
from consumers.recompute.upload import gradient_again, must_be_read, sample_of
from consumers.recompute.version import Evidence, gather, made_again, names_parent
from infra.log import Log
from infra.store import MissingObject, ObjectStore
from schemas.effects import BadObject, Processor
from schemas.learning import (
    GradientUpload,
    RefusedUpload,
    RollbackRequest,
    SampleGroup,
    UploadsRefused,
    WeightVersion,
)
from schemas.records import Record
from schemas.tensors import ObjectRef
from streams.learning.learners import Learners
from streams.learning.ledger import Ledger
from streams.learning.scratch import Scratch


def verify_chain(
    log: Log,
    store: ObjectStore,
    policy: str,
    upto: int | None = None,
    full: bool = True,
    report: Report = nothing,
    *,
    since: int = 0,
    sampler: Processor | None = None,
) -> ChainReport:
    """Make the versions `since` to `upto` (the newest) of a policy again, and compare all bits.

    `full` makes their gradients again too, of the samples; with a `sampler` of that policy, also
    what was sampled under them. Takes as many torch threads as the log says, and puts back what it
    found. Raises `CannotRecompute` where the policy has no such version, `LogUnavailable`,
    `StoreUnavailable`.
    """
    began = time.monotonic()
    index = Index.read(log, proof_topics(sampler is not None), policy, report)
    with tempfile.TemporaryDirectory(prefix="ralo-proof-") as folder:
        chain = Chain(index, store, policy, Path(folder), full, sampler)
        found = chain.verify(since, upto, report)
    return found.model_copy(update={"seconds": round(time.monotonic() - began, 3)})


class Chain:
    """The proof of a policy's versions; `folder` is an empty one, for files of the steps."""

    def __init__(
        self,
        index: Index,
        store: ObjectStore,
        policy: str,
        folder: Path,
        full: bool,
        sampler: Processor | None = None,
    ) -> None:
        self._index, self._store, self._policy, self._full = index, store, policy, full
        self._scratch, self._learners = Scratch(folder), Learners()
        self._sampling = Sampling(index, store, sampler) if sampler else None
        self._stored: set[tuple[str, str]] = set()
        self._looked: set[str] = set()
        self._report = ChainReport(policy=policy, full=full, sampling=sampler is not None)
        self._proof = VersionProof(version=-1, kind="", at="", verdict="equal")

    def verify(self, since: int, upto: int | None, report: Report) -> ChainReport:
        """All findings; `since` and `upto` are versions."""
        versions = self._index.versions(self._policy)
        last = max(versions, default=-1) if upto is None else upto
        wanted = [version for version in versions if since <= version <= last]
        if not wanted or (upto is not None and upto not in versions):
            self._index.version(since if upto is None else upto, self._policy)
        ledger, newest = Ledger(), -1
        for record in self._index.moves(self._policy):
            move = record.event
            assert isinstance(move, WeightVersion | UploadsRefused)
            newest = move.version if isinstance(move, WeightVersion) else newest
            if newest > last:
                break
            if newest < since:
                ledger = ledger.after(move, record.value or b"")
                continue
            report("version", len(self._report.versions), len(wanted))
            ledger = self._move(ledger, record, move, newest)
        self._damaged(everywhere=since == 0 and upto is None)
        report("version", len(wanted), len(wanted))
        return self._report.model_copy(update={"objects": len(self._stored)})

    def _move(
        self, ledger: Ledger, record: Record, move: WeightVersion | UploadsRefused, version: int
    ) -> Ledger:
        """Prove one version, or the refusals between two, and say where it leaves the policy."""
        self._looked.add(record.at)
        if isinstance(move, WeightVersion):
            self._proof = VersionProof(
                version=version, kind=move.kind, at=record.at, verdict="equal"
            )
            self._report.versions.append(self._proof)
        with self._finding("record", record.at):
            move = whole_move(move, self._store, record.at)
            faults, ledger = follow(self._index, ledger, record, move)
            for at, why in faults:
                self._find("books", at, why)
            for at, one in settled(move).items():
                self._upload(at, refused=isinstance(one, RefusedUpload))
        if isinstance(move, WeightVersion):
            self._version(record, move)
        return ledger

    # -- versions ---------------------------------------------------------------------------

    def _version(self, record: Record, event: WeightVersion) -> None:
        with self._finding("step", record.at):
            if event.kind == "step":
                self._step(event)
            elif event.kind == "rollback":
                self._rollback(record, event)
            else:
                self._base(record, event)
        if not self._index.has_expired(self._policy, event.version):
            self._objects(event)
        if self._sampling:
            for batch_id in self._index.batches(self._policy, event.version):
                self._batch(self._sampling, batch_id, event, record)

    def _base(self, record: Record, event: WeightVersion) -> None:
        report = self._index.prepared(self._policy)
        mission = self._index.mission(report.mission_id, record.at)
        self._compare(record, event, manifest.of_base(report, mission))
        self._proof.sha256 = {name: ref.sha256 for name, ref in report.base_shards.items()}

    def _rollback(self, record: Record, event: WeightVersion) -> None:
        parent, target = self._index.version(event.parent or 0, self._policy)
        self._looked.add(parent.at)
        target = completed(target, self._store, parent.at)
        mission = self._index.mission(target.mission_id, record.at)
        self._compare(record, event, manifest.of_rollback(target, mission, self._request(event)))
        must_hash(parent, event.parent_sha256 or "", names_parent(record, event.version))
        self._index.must_be_kept(self._policy, (event.version,))
        self._proof.sha256 = {n: r.sha256 for n, r in {**target.shards, **target.optimizer}.items()}

    def _request(self, event: WeightVersion) -> RollbackRequest | None:
        for name, to in event.resume.items():
            for asked in self._index.between(name, to - 1, to):
                if isinstance(asked.event, RollbackRequest):
                    return asked.event
        return None

    def _step(self, event: WeightVersion) -> None:
        parent, _ = self._index.version(event.parent or 0, self._policy)
        self._looked.add(parent.at)
        evidence = gather(self._index, event.version, self._store, self._policy)
        expected = manifest.of_step(evidence.parent, evidence.uploads, evidence.mission)
        self._compare(self._index.version(event.version, self._policy)[0], event, expected)
        with threads_of(event.environment):
            must_be_alike(f"version {event.version} of {event.policy}", event.environment)
            self._take(evidence)

    def _take(self, evidence: Evidence) -> None:
        made = made_again(evidence, self._scratch, self._store)
        self._proof.sha256 = made.sha256
        # What came out equal stands in for what is stored, so that the next step can be taken.
        for name, path in made.files.items():
            self._scratch.adopt(path, made.sha256[name])

    def _compare(self, record: Record, event: WeightVersion, expected: manifest.Fields) -> None:
        for why in manifest.differing(event, expected):
            self._find("record", record.at, why)

    # -- objects ----------------------------------------------------------------------------

    def _objects(self, event: WeightVersion) -> None:
        """Compare what is stored of a version, and keep it for the step that comes next."""
        named = {**event.shards, **event.optimizer}
        for name, ref in event.files.items():
            self._object(ref, f"{self._proof.at}: {name}", keep=False)
        for name, ref in named.items():
            self._object(ref, f"{self._proof.at}: {name}", keep=True)
        self._scratch.keep(named.values())
        self._scratch.clear()

    def _object(self, ref: ObjectRef, whose: str, keep: bool) -> None:
        """Compare a stored object, once; `whose` says what it is of what names it."""
        if (ref.key, ref.sha256) in self._stored:
            return
        path = self._scratch.work("stored")
        with self._finding("object", ref.key, f"{whose}: "):
            try:
                self._store.get_file(ref, path)
            except (BadObject, MissingObject) as error:
                raise NotReproduced(str(error).removeprefix(f"object {ref.key}: ")) from error
            if path.stat().st_size != ref.size_bytes:
                raise NotReproduced(f"{path.stat().st_size} bytes, not {ref.size_bytes}")
            if keep:
                self._scratch.adopt(path, ref.sha256)
            self._stored.add((ref.key, ref.sha256))

    # -- uploads and samples ----------------------------------------------------------------

    def _upload(self, at: str, refused: bool) -> None:
        """What an upload was made of: its records, their objects, and the gradient of them."""
        record = self._index.at(at)
        upload = record.event if record else None
        if record is None or not isinstance(upload, GradientUpload):
            return  # The books name it.
        self._looked.add(at)
        before = len(self._report.findings)
        with self._finding("record", at):
            for where, why in listing_faults(self._index, record, upload):
                self._find("books", where, why)
            what = f"{at}: upload {upload.upload_id}"
            self._looked |= {use.at for use in upload.groups}
            samples = [sample_of(self._index, use, what) for use in upload.groups]
            must_be_read(samples, upload, what)
            for sample, group in samples:
                self._sample_objects(sample, group)
        as_named = len(self._report.findings) == before
        if self._full and as_named and upload.count("chunks"):
            self._gradient(at, upload, refused)

    def _sample_objects(self, record: Record, group: SampleGroup) -> None:
        for ref in (group.rollouts_ref, group.episodes_ref):
            if ref is not None:
                self._object(ref, record.at, keep=False)

    def _gradient(self, at: str, upload: GradientUpload, refused: bool) -> None:
        if not upload.deterministic or upload.environment is None:
            self._proof.taken += 1
            return
        with self._finding("gradient", at), threads_of(upload.environment):
            try:
                gradient_again(self._index, self._store, at, self._learners)
            except CannotRecompute as error:
                # What was refused is swept without a word once its base is inadmissible.
                if refused and not isinstance(error, OtherEnvironment):
                    return
                raise
            self._proof.gradients += 1

    def _batch(
        self, sampling: Sampling, batch_id: str, event: WeightVersion, record: Record
    ) -> None:
        with self._finding("sampling", record.at), threads_of(event.environment):
            must_be_alike(f"batch {batch_id}", event.environment)
            wrong = list(sampling.faults(batch_id))
            for at, why in wrong:
                self._find("sampling", at, why)
            self._proof.samples += len(self._index.batch(batch_id)) - len(wrong)

    # -- findings ---------------------------------------------------------------------------

    @contextmanager
    def _finding(self, what: What, at: str, prefix: str = "") -> Iterator[None]:
        """Take what is raised as a finding at this place, or as what cannot be proved here."""
        try:
            yield
        except NotReproduced as error:
            self._find(what, error.at or at, f"{prefix}{error}")
        except Expired as error:
            self._cannot("expired", str(error))
        except OtherEnvironment as error:
            self._cannot("elsewhere", str(error))
        except CannotRecompute as error:
            self._find(what, at, f"{prefix}{error}")
        except NOT_OURS:
            raise
        except Exception as error:  # what was changed may break anything on its way
            self._find(what, at, f"{prefix}{broke(error)}")

    def _find(self, what: What, at: str, why: str) -> None:
        version = self._proof.version if self._proof.version >= 0 else None
        self._report.findings.append(Finding(what=what, at=at, version=version, why=why))
        self._proof.verdict = "wrong"
        self._proof.why.append(f"{at}: {why}")

    def _cannot(self, verdict: str, why: str) -> None:
        if self._proof.verdict == "equal":
            self._proof.verdict = "expired" if verdict == "expired" else "elsewhere"
        self._proof.why.append(why)

    def _damaged(self, everywhere: bool) -> None:
        """Name the records that are not what was written, each once, before all that follows."""
        damaged = self._index.damaged
        places = [at for at in damaged if everywhere or at in self._looked]
        by_place = {proof.at: proof for proof in self._report.versions}
        named = []
        for at in places:
            proof = by_place.get(at)
            named.append(
                Finding(
                    what="record",
                    at=at,
                    version=proof.version if proof else None,
                    why=damaged[at],
                )
            )
            if proof:
                proof.verdict = "wrong"
                proof.why.insert(0, f"{at}: {damaged[at]}")
        self._report.findings[:0] = named
