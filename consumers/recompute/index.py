"""The records that proofs are made of, read once and found by place, version and id."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from consumers.read import decoded, read_until
from consumers.recompute.evidence import CannotRecompute, Expired, NotReproduced
from consumers.recompute.intact import fault
from consumers.recompute.shelf import Memory, Shelf, Spool
from infra.log import Log
from schemas.learning import (
    DeadLetter,
    SampleGroup,
    UploadsRefused,
    VersionsExpired,
    WeightVersion,
)
from schemas.missions import Mission, MissionReport
from schemas.records import Partition, Record, parse_at
from schemas.topics import TOPICS

Report = Callable[[str, int, int], None]
"""Told what is under way, how much of it is done, and of how much."""
STEP_TOPICS = ("missions", "dead-letters", "weight-versions", "gradient-chunks")
"""What versions are made of; gradients are made of `samples`, these of `problems`."""

Place = tuple[Partition, int]


def nothing(what: str, done: int, of: int) -> None:
    """Report to nobody."""


class Index:
    """Looks up the records of one policy, or of all."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._missions: dict[str, Mission] = {}
        self._prepared: dict[str, MissionReport] = {}
        self._versions: dict[str, dict[int, Place]] = defaultdict(dict)
        self._moves: dict[str, list[Place]] = defaultdict(list)
        self._expired: dict[str, set[int]] = defaultdict(set)
        self._batches: dict[str, list[Place]] = defaultdict(list)
        self._groups: dict[str, list[Place]] = defaultdict(list)
        self._sampled: dict[tuple[str, int], list[str]] = defaultdict(list)
        self._damaged: dict[str, str] = {}
        self._undecoded: list[str] = []
        self.dead: set[str] = set()
        """Where records lie that became dead letters."""

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Index":
        """An index of decoded records, which stay in memory as they are."""
        index = cls(Memory())
        for record in records:
            index.add(record)
        return index

    @classmethod
    def read(
        cls, log: Log, topics: Sequence[str], policy: str | None = None, report: Report = nothing
    ) -> "Index":
        """An index of a policy's records on these topics, up to where they end now.

        Values go to an unnamed file of the size of these topics. Raises `LogUnavailable`.
        """
        index = cls(Spool())
        for topic in topics:
            ends = log.ends(topic)
            total = sum(end - first for first, end in ends.values())
            for done, record in enumerate(read_until(log, ends)):
                if done % 500 == 0:
                    report(f"reading {topic}", done, total)
                index.add(decoded(record), policy)
        return index

    def add(self, record: Record, policy: str | None = None) -> None:
        """Take in one record; of another policy than `policy` it is passed over."""
        event, header = record.event, record.headers.get("policy", b"").decode(errors="replace")
        named = getattr(event, "policy", header) or policy
        if policy is not None and policy not in (named, header):
            return
        if why := fault(record):
            self._damaged[record.at] = why
        elif record.event is None:
            self._undecoded.append(record.at)
        self._shelf.add(record)
        self._enter(record, (record.partition, record.offset))

    def _enter(self, record: Record, place: Place) -> None:
        match record.event:
            case Mission() as mission:
                self._missions.setdefault(mission.mission_id, mission)
            case MissionReport(stage="prepared") as report if report.base_shards:
                self._prepared.setdefault(report.policy, report)
            case WeightVersion() as event:
                self._versions[event.policy].setdefault(event.version, place)
                self._moves[event.policy].append(place)
            case UploadsRefused() as event:
                self._moves[event.policy].append(place)
            case VersionsExpired() as event:
                self._expired[event.policy].update(event.versions)
            case DeadLetter() as letter:
                self.dead.add(letter.at)
            case SampleGroup() as group:
                self._groups[group.group_id].append(place)
                if group.batch is not None:
                    if group.batch.batch_id not in self._batches:
                        self._sampled[group.policy, group.version].append(group.batch.batch_id)
                    self._batches[group.batch.batch_id].append(place)

    @property
    def damaged(self) -> dict[str, str]:
        """Places where the record is not what was written there, and why it cannot be."""
        why = "it does not decode, and no dead letter says so"
        return self._damaged | {at: why for at in self._undecoded if at not in self.dead}

    # -- by place ---------------------------------------------------------------------------

    def at(self, at: str) -> Record | None:
        """The record at `topic[partition]@offset`, or None."""
        try:
            return self._shelf.get(*parse_at(at))
        except ValueError:
            return None

    def between(self, name: str, start: int, stop: int) -> Iterator[Record]:
        """The records at [start, stop) of a partition written as `samples-0`."""
        return self._shelf.between(Partition.parse(name), start, stop)

    def between_all(self, topic: str) -> Iterator[Record]:
        """All records of a topic, in order per partition."""
        for number in range(TOPICS[topic].partitions):
            yield from self._shelf.between(Partition(topic, number), 0, sys.maxsize)

    # -- versions ---------------------------------------------------------------------------

    def policies(self) -> list[str]:
        """The policies that have versions."""
        return sorted(name for name, versions in self._versions.items() if versions)

    def versions(self, policy: str) -> list[int]:
        """The versions of a policy, in order."""
        return sorted(self._versions[policy])

    def moves(self, policy: str) -> Iterator[Record]:
        """The records of a policy's versions and refusals, in log order."""
        return (self._here(place) for place in self._moves[policy])

    def version(self, version: int, policy: str | None) -> tuple[Record, WeightVersion]:
        """A version and its record; raises `CannotRecompute` where there is none, or several."""
        found = {
            name: versions[version]
            for name, versions in self._versions.items()
            if version in versions and policy in (None, name)
        }
        if len(found) > 1:
            names = ", ".join(sorted(found))
            raise CannotRecompute(f"several policies have a version {version}: {names}")
        for place in found.values():
            record = self._here(place)
            assert isinstance(record.event, WeightVersion)
            return record, record.event
        raise CannotRecompute(f"the log has no version {version} of policy {policy or '(any)'}")

    def must_be_kept(self, policy: str, versions: Iterable[int | None]) -> None:
        """Raise `Expired` where the objects of one of these versions were swept."""
        for needed in versions:
            if needed in self._expired[policy]:
                raise Expired(
                    f"version {needed} of {policy} has expired: its objects were swept "
                    f"(missions choose what stays by `keep`)"
                )

    def has_expired(self, policy: str, version: int) -> bool:
        """Whether the objects of this version were swept."""
        return version in self._expired[policy]

    # -- what versions are made of ----------------------------------------------------------

    def mission(self, mission_id: str, at: str) -> Mission:
        """The first mission of that id; `at` names who belongs to it. Raises `CannotRecompute`."""
        if mission_id not in self._missions:
            raise CannotRecompute(f"{at}: mission {mission_id} is not in the log")
        return self._missions[mission_id]

    def prepared(self, policy: str) -> MissionReport:
        """What the provider said of the policy's base model; raises `CannotRecompute`."""
        if policy not in self._prepared:
            raise CannotRecompute(f"missions: no report of policy {policy} names its base model")
        return self._prepared[policy]

    # -- groups -----------------------------------------------------------------------------

    def batch(self, batch_id: str) -> list[Record]:
        """The groups of one of the sampler's batches."""
        return [self._here(place) for place in self._batches.get(batch_id, [])]

    def batches(self, policy: str, version: int) -> list[str]:
        """The batches that were sampled under a version."""
        return self._sampled.get((policy, version), [])

    def groups(self, wanted: str) -> list[Record]:
        """The groups of a problem, or the one of a group id."""
        ids = [wanted, *(id_ for id_ in self._groups if id_.rpartition(".")[0] == wanted)]
        return [self._here(place) for id_ in ids for place in self._groups.get(id_, [])]

    def _here(self, place: Place) -> Record:
        record = self._shelf.get(*place)
        if record is None:
            raise NotReproduced(f"{place[0]}@{place[1]}: the record is gone")
        return record


def proof_topics(full: bool) -> tuple[str, ...]:
    """The topics that the chain's proof reads."""
    names = (*STEP_TOPICS, "samples", *(("problems",) if full else ()))
    assert all(name in TOPICS for name in names)
    return names
