"""The audit itself: reads every topic once, in the order in which things happen, and balances.

Pure: it is given records and somebody who looks at objects. What it keeps is a few numbers for
each problem, group, upload and version, never an event.
"""

from collections.abc import Iterable, Iterator, Mapping

from consumers.audit.acting import ActingBook
from consumers.audit.books import Books, Coverage
from consumers.audit.dead import DeadLetters
from consumers.audit.missions import MissionBook
from consumers.audit.objects import NoObjects, ObjectChecker, References
from consumers.audit.positions import Bounds, Ends, code, text
from consumers.audit.problems import ProblemBook
from consumers.audit.report import AuditReport, Findings, InFlight, MissionBooks
from consumers.audit.samples import SampleBook
from consumers.audit.uploads import UploadBook
from consumers.audit.versions import PolicyEntry, VersionBook
from schemas.base import Event
from schemas.learning import (
    Evaluation,
    GradientUpload,
    Problem,
    SampleGroup,
    WeightHead,
    WeightVersion,
)
from schemas.missions import MissionResult, RobotMission, RobotMissionResult
from schemas.records import Partition, Record
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
    NewerSchema,
    Topic,
    Undecodable,
    decode,
)
from streams.learning.spill import BadSpill, moved_fields

Records = Mapping[str, Iterable[Record]]
"""The committed records of each topic, raw, in order per partition.

`weight-heads` is read twice, before everything else and after it. What is keyed by a robot is asked
for by partition, as `commands-3`.
"""


class UnknownMission(ValueError):
    """The mission to audit is not in the log."""


class NeedsObjects(ValueError):
    """The books cannot be balanced without the store."""


def audit(
    records: Records,
    objects: ObjectChecker,
    *,
    policy: str | None = None,
    mission: str | None = None,
    ends: Ends | None = None,
    began: Mapping[Partition, int] | None = None,
) -> AuditReport:
    """Balance the books of a log and its store; of one policy (or one mission's) when named.

    `ends` tells where the log begins and ends now: with it, records that retention deleted or that
    came after the audit began are told from lost ones; so does `began`, where `dead-letters` ended
    then, of records that were sent again. Raises `UnknownMission`, `NeedsObjects`.
    """
    return _Audit(records, objects, ends, policy, began).run(mission)


class _Audit:
    def __init__(
        self,
        records: Records,
        objects: ObjectChecker,
        ends: Ends | None,
        policy: str | None,
        began: Mapping[Partition, int] | None,
    ) -> None:
        self._records, self._objects, self._policy = records, objects, policy
        findings, bounds = Findings(), Bounds(ends)
        self._findings = findings
        dead = DeadLetters(findings, bounds, began)
        self._books = Books(findings, bounds, dead, References(findings))
        self._missions = MissionBook(self._books, objects)
        self._problems = ProblemBook(self._books, self._missions)
        self._samples = SampleBook(self._books, self._missions, self._problems)
        self._uploads = UploadBook(self._books, self._samples, objects)
        self._versions = VersionBook(self._books, self._missions, self._uploads)
        self._acting = ActingBook(self._books, self._of_partition)
        self._undecodable: dict[str, list[tuple[int, str | None]]] = {}

    def run(self, mission: str | None) -> AuditReport:
        """Read everything, then judge what only the whole can tell."""
        heads = self._heads()
        for record in self._raw(DEAD_LETTERS.name):
            self._books.dead.add(record)
        for record, event in self._events(MISSIONS):
            if isinstance(event, RobotMission):
                self._acting.mission(event)
            self._missions.observe(record, event)
        self._narrow_to(mission)
        self._read_work()
        for record, event in self._events(WEIGHT_VERSIONS):
            whole = self._complete(record, event) if isinstance(event, WeightVersion) else event
            self._versions.observe(record, whole)
        if self._policy is None:
            self._acting.read()
        self._judge_heads(heads, later := self._heads())
        self._judge_named(later)
        return self._settle()

    def _narrow_to(self, mission: str | None) -> None:
        if mission is None:
            return
        if self._acting.has(mission):
            raise UnknownMission(
                f"mission {mission} is of robots: an audit without a mission checks what they do"
            )
        if mission not in self._missions.entries:
            known = ", ".join(list(self._missions.entries)[:10]) or "none"
            raise UnknownMission(f"no mission {mission!r} in the log; there are: {known}")
        self._policy = self._missions.entries[mission].policy

    def _read_work(self) -> None:
        for record, event in self._events(PROBLEMS):
            if isinstance(event, Problem):
                self._problems.observe(record, event)
        for record, event in self._events(SAMPLES):
            if isinstance(event, SampleGroup):
                self._samples.observe(record, event)
        for record, event in self._events(GRADIENT_CHUNKS):
            if isinstance(event, GradientUpload):
                self._uploads.observe(record, event)

    def _complete(self, record: Record, event: WeightVersion) -> WeightVersion:
        """The manifest with what was moved to an object, which is kept as long as the event."""
        if event.spilled is None:
            return event
        self._books.refs.need(self._books.refs.named([event.spilled]), record.at)
        data = self._objects.read(event.spilled)
        if data is None:
            if isinstance(self._objects, NoObjects):
                raise NeedsObjects(f"{record.at}: a part of it is an object: audit objects too")
            return event  # The object is needed, and judged with all others.
        try:
            fields = moved_fields(WeightVersion, event.spilled, data)
        except BadSpill as error:
            self._findings.judge("reference", False, f"{record.at}: {error}")
            return event
        return event.model_copy(update=fields)

    def _settle(self) -> AuditReport:
        self._versions.settle_uploads()
        self._uploads.finish()
        missions = self._problems.finish(self._samples.coverage)
        fates = self._samples.finish(self._uploads.coverage)
        for fate in ("learnt", "dropped", "refused", "dead", "lost", "waiting", "open"):
            self._findings.counts[f"groups_{fate}"] = fates[fate]
        self._judge_undecodable()
        self._books.dead.finish(len(self._versions.policies))
        self._versions.name_objects()
        self._missions.name_objects()
        self._books.refs.check(self._objects)
        return self._findings.report(self._in_flight(missions), missions)

    def _in_flight(self, missions: Mapping[str, MissionBooks]) -> InFlight:
        counts = self._findings.counts
        return InFlight(
            problems=sum(balance.in_flight for balance in missions.values()),
            samples=counts["groups_waiting"] + counts["groups_open"],
            uploads=counts["uploads_open"],
            commands=counts["commands_open"],
        )

    # -- reading ----------------------------------------------------------------------------

    def _raw(self, name: str) -> Iterator[Record]:
        for record in self._records.get(name, ()):
            self._books.bounds.note(record)
            self._findings.counts["records"] += 1
            yield record

    def _events(self, topic: Topic) -> Iterator[tuple[Record, Event]]:
        """The events of a topic that are of the policy."""
        for record, event in self._decoded(topic, self._raw(topic.name)):
            if self._wants(event):
                yield record, event

    def _of_partition(self, topic: Topic, number: int) -> Iterator[tuple[Record, Event]]:
        return self._decoded(topic, self._raw(str(Partition(topic.name, number))))

    def _decoded(self, topic: Topic, records: Iterable[Record]) -> Iterator[tuple[Record, Event]]:
        """What decodes, with its event; each record is held against its dead letter."""
        for record in records:
            event: Event | None = None
            try:
                event = decode(topic.name, record.value)
            except Undecodable:
                self._note_undecodable(topic, record)
            except NewerSchema:
                self._findings.counts["records_of_a_newer_schema"] += 1
            self._books.dead.match(record, event is not None)
            if event is not None:
                yield record, event

    def _wants(self, event: Event) -> bool:
        return self._policy is None or getattr(event, "policy", self._policy) == self._policy

    def _note_undecodable(self, topic: Topic, record: Record) -> None:
        self._findings.counts["records_undecodable"] += 1
        header = record.headers.get("policy")
        policy = None if header is None else header.decode(errors="replace")
        position = code(record.partition.number, record.offset)
        self._undecodable.setdefault(topic.name, []).append((position, policy))

    def _heads(self) -> dict[str, int]:
        """The newest head of each policy."""
        newest: dict[str, int] = {}
        for record in self._records.get(WEIGHT_HEADS.name, ()):
            self._books.bounds.note(record)
            try:
                event = decode(WEIGHT_HEADS.name, record.value)
            except (Undecodable, NewerSchema):
                continue
            if isinstance(event, WeightHead) and self._wants(event):
                newest[event.policy] = event.version
        return newest

    # -- judgements on the whole ------------------------------------------------------------

    def _judge_heads(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """A version may be published while this reads: its head then shows in the later reading."""
        for name in {*after, *self._versions.policies}:
            policy = self._versions.policies.get(name, PolicyEntry())
            low, high = before.get(name, -1), after.get(name, -1)
            where = f"policy {name}: the head is {high}, the newest version is {policy.newest}"
            self._findings.judge("weight-head", low <= policy.newest <= high, where)

    def _judge_named(self, heads: Mapping[str, int]) -> None:
        named = dict(self._samples.versions)
        for upload in self._uploads.entries.values():
            named.setdefault((upload.policy, upload.base), upload.at)
        for record, event in self._events(EVALUATIONS):
            self._findings.counts["evaluations"] += 1
            if isinstance(event, Evaluation):
                named.setdefault((event.policy, event.version), record.at)
        for record, event in self._events(MISSION_RESULTS):
            self._findings.counts["mission_results"] += 1
            if isinstance(event, MissionResult):
                self._missions.result(record, event)
                if event.final_version is not None:
                    named.setdefault((event.policy, event.final_version), record.at)
            if isinstance(event, RobotMissionResult) and self._policy is None:
                self._acting.result(record, event)
        for (name, version), at in named.items():
            policy = self._versions.policies.get(name, PolicyEntry())
            newer = policy.newest < version <= heads.get(name, -1)
            where = f"{at}: version {version} of {name}"
            exists = version in policy.versions or newer
            self._findings.judge("version-named", exists, where)

    def _judge_undecodable(self) -> None:
        for topic, records in self._undecodable.items():
            for position, policy in records:
                if self._was_passed(topic, position, policy):
                    buried = self._books.dead.has(topic, position)
                    place = text(topic, position)
                    self._findings.judge("undecodable-buried", buried, place)

    def _was_passed(self, topic: str, position: int, policy: str | None) -> bool:
        coverages: dict[str, Coverage] = {
            PROBLEMS.name: self._samples.coverage,
            SAMPLES.name: self._uploads.coverage,
        }
        if topic in coverages:
            return coverages[topic].passed(policy, position)
        return topic == GRADIENT_CHUNKS.name and any(
            entry.has_read(position)
            for name, entry in self._versions.policies.items()
            if policy in (None, name)
        )
