"""What an audit found: every invariant with how often it was checked and where it is broken."""

from collections import Counter, defaultdict

from pydantic import BaseModel, computed_field

FIRST = 5
"""Offending positions that are named for each invariant."""

LEARNING: dict[str, str] = {
    "mission-known": "every problem and result belongs to a mission in the log, of the same policy",
    "problem-once": "a problem is in the log once",
    "problem-index": "the problems of a mission are numbered without a gap",
    "problem-settled-once": "a problem is only one of sampled, cancelled and a dead letter",
    "problem-lost": "a problem that was read is sampled, cancelled or a dead letter",
    "heldout-apart": "no held-out question is a problem or a sample",
    "group-of-problem": "every sample group belongs to a problem, of the same mission and policy",
    "group-once": "a use of a problem is sampled once",
    "group-source": "a sample group's source holds its problem",
    "samples-source-overlap": "the sources of sample groups do not overlap",
    "samples-source-gap": "no problem lies between the sources of sample groups",
    "samples-source-end": "the sources of sample groups lie inside `problems`",
    "upload-of-groups": "an upload names sample groups that are in the log, inside its source",
    "group-learnt-once": "a sample group is in one applied upload at most",
    "group-settled-once": "a sample group is only one of learnt from, dropped and a dead letter",
    "group-lost": "a sample group that an upload covers is listed in it, or is a dead letter",
    "uploads-source-overlap": "the sources of accepted uploads do not overlap",
    "uploads-source-gap": "no sample group lies between the sources of uploads",
    "uploads-source-end": "the sources of uploads lie inside `samples`",
    "settled-upload": "what a version says of an upload is what the log has at that position",
    "upload-once": "an upload is applied once",
    "upload-kind": "a step takes gradients by its optimizer or adds the mean of deltas, never both",
    "upload-settled-once": "an upload is applied or refused, and that once",
    "upload-lost": "an upload below the resume mark is applied, refused or a dead letter",
    "upload-admissible": "an applied upload's base is on the parent chain, not staler than allowed",
    "undecodable-buried": "what does not decode and was passed is a dead letter",
    "version-sequence": "the versions of a policy are 0 to N, each once, in order",
    "version-previous": "a version's previous is the one before it",
    "version-parent": "a version's parent is in the log, with the hash that it names",
    "version-lineage": "a version's lineage is the chain of parents",
    "version-totals": "a version's totals are the sum of what was settled",
    "version-marks": "a version's marks are the ends of what was settled",
    "version-resume": "resume marks never go back and are past all that was settled",
    "version-named": "every version that a sample, upload, evaluation or result names exists",
    "weight-head": "the newest head of a policy is its newest version",
    "reference": "every object that an event names is in the store, with its hash and size",
    "dead-letter-origin": "a dead letter names a record that is in the log, with the same bytes",
    "dead-letter-once": "a record is a dead letter once",
    "letter-settled-once": "a dead letter is requeued or dropped once, and its record sent once",
    "letter-requeued-once": "what was sent again is in the log once, as its letter says",
    "letter-lost": "what is said to have been sent again is in the log",
    "mission-result-once": "a mission has one result at most",
}
"""The invariants of the learning loop by name."""

ACTING: dict[str, str] = {
    "frame-sequence": "the frames of a boot have no gap but those that are counted as dropped",
    "fused-source-end": "the source of a fused state lies inside its partition of `sensor-frames`",
    "fused-source-overlap": "the sources of a robot's fused states do not overlap",
    "fused-source-gap": "no frame lies between two sources but where fusion was away meanwhile",
    "fused-of-frame": "a fused state names the last frame of its source",
    "command-epoch": "a command's epoch is the offset of a claim of its robot, before it",
    "command-id": "a command is in the log once, but for copies",
    "command-source-end": "the source of a command lies inside its partition of `fused-states`",
    "outcome-of-command": "an outcome names a command, with its deadline and its policy",
    "command-once": "a command is applied once, and none after a later one of its epoch",
    "command-in-time": "a command is applied before its deadline, in the boot it was made for",
    "command-epoch-order": "no command is applied from an older epoch than one applied before",
    "command-settled": "every command has an outcome, or is on its way",
    "policy-released": "what acts is the tracker, or a version since its SWAPPED, not rolled back",
    "policy-hash": "a version has one hash wherever it acts",
    "release-step": "a release goes through its stages in order, and none after the last",
    "release-acting": "from SWAPPED on, the version of the release is what acts",
    "safety-sequence": "a robot's safety events have no gap and no two contents",
    "safety-mode": "a safety event begins in the mode that the one before it ended in",
    "safety-final": "no mode follows TERMINATED",
    "safety-reset": "a robot leaves HOLD and SAFE_STOP by a reset alone",
    "robot-mission-known": "a robot's result is of a mission in the log that names the robot",
    "robot-result-once": "a robot's part of a mission has one result at most",
}
"""The invariants of the acting loop by name."""

INVARIANTS: dict[str, str] = LEARNING | ACTING
"""Every invariant by name."""

_LOST = (
    "problem-lost",
    "group-lost",
    "upload-lost",
    "undecodable-buried",
    "letter-lost",
    "frame-sequence",
    "command-settled",
    "safety-sequence",
)
_GAPS = ("samples-source-gap", "uploads-source-gap", "fused-source-gap")
_DUPLICATED = (
    "problem-once",
    "group-once",
    "group-learnt-once",
    "upload-once",
    "letter-requeued-once",
    "command-id",
    "command-once",
)


class Invariant(BaseModel):
    """One invariant: how many things were checked, how many break it, the first of these."""

    name: str
    meaning: str
    checked: int
    broken: int
    first: list[str] = []


class InFlight(BaseModel):
    """What is on its way: neither done nor lost."""

    problems: int = 0
    samples: int = 0
    uploads: int = 0
    commands: int = 0


class MissionBooks(BaseModel):
    """The balance of one mission: problems = sampled + cancelled + dead + in flight (+ lost)."""

    policy: str
    problems: int = 0
    sampled: int = 0
    cancelled: int = 0
    dead: int = 0
    in_flight: int = 0
    lost: int = 0
    result: str | None = None


class AuditReport(BaseModel):
    """The books of a log and its store."""

    invariants: list[Invariant]
    lost: int
    duplicated: int
    bad_refs: int
    duplicates_dropped: int
    counts: dict[str, int]
    in_flight: InFlight
    dropped: dict[str, int]
    refused: dict[str, int]
    unused_share: float
    """Sample groups dropped or refused, of those settled."""
    missions: dict[str, MissionBooks]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def breaches(self) -> list[str]:
        """The names of the invariants that are broken."""
        return [invariant.name for invariant in self.invariants if invariant.broken]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether the books balance."""
        return not any(invariant.broken for invariant in self.invariants)


class Findings:
    """Collects judgements while the log is read."""

    def __init__(self) -> None:
        self._checked: Counter[str] = Counter()
        self._broken: Counter[str] = Counter()
        self._first: defaultdict[str, list[str]] = defaultdict(list)
        self.counts: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def judge(self, name: str, holds: bool, where: str) -> bool:
        """Note one check of an invariant; `where` names the place."""
        self._checked[name] += 1
        if not holds:
            self._broken[name] += 1
            if len(self._first[name]) < FIRST:
                self._first[name].append(where)
        return holds

    def invariants(self) -> list[Invariant]:
        """Every invariant, in the order of `INVARIANTS`."""
        return [
            Invariant(
                name=name,
                meaning=meaning,
                checked=self._checked[name],
                broken=self._broken[name],
                first=self._first[name],
            )
            for name, meaning in INVARIANTS.items()
        ]

    def report(self, in_flight: InFlight, missions: dict[str, MissionBooks]) -> AuditReport:
        """The report as of now."""
        unused = self.counts["groups_dropped"] + self.counts["groups_refused"]
        settled = unused + self.counts["groups_learnt"]
        return AuditReport(
            invariants=self.invariants(),
            lost=sum(self._broken[name] for name in (*_LOST, *_GAPS)),
            duplicated=sum(self._broken[name] for name in _DUPLICATED),
            bad_refs=self._broken["reference"],
            duplicates_dropped=self.refused["overlap"],
            counts=dict(sorted(self.counts.items())),
            in_flight=in_flight,
            dropped=dict(self.dropped),
            refused=dict(self.refused),
            unused_share=unused / settled if settled else 0.0,
            missions=missions,
        )
