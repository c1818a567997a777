"""The dead letters, each held against the record that it names."""

from collections.abc import Mapping
from dataclasses import dataclass

from consumers.audit.letters import Resolutions
from consumers.audit.positions import Bounds, code
from consumers.audit.report import Findings
from consumers.deadletters.book import event_of, unpacked
from schemas.ids import digest
from schemas.learning import DeadLetter, DeadLetterResolution
from schemas.records import Partition, Record


@dataclass(slots=True)
class _Letter:
    at: str
    partition: Partition
    offset: int
    sha256: str
    times: int = 1
    found: bool = False
    decodable: bool = False


class DeadLetters:
    """Which records are dead letters; learnt before any other topic is read."""

    def __init__(
        self, findings: Findings, bounds: Bounds, began: Mapping[Partition, int] | None = None
    ) -> None:
        self._findings, self._bounds = findings, bounds
        self._letters: dict[tuple[str, int], _Letter] = {}
        self._origins: dict[str, str] = {}
        self._resolutions = Resolutions(findings, bounds, began)

    def add(self, record: Record) -> None:
        """Take in one record of `dead-letters`."""
        event = event_of(record)
        if isinstance(event, DeadLetterResolution):
            self._resolutions.add(record, event)
            return
        self._findings.counts["dead_letters"] += 1
        original = unpacked(event.value_base64) if event else None
        if event is None or original is None:
            self._judge_origin(False, f"{record.at}: no dead letter")
            return
        self._add(record, event, original)

    def _add(self, record: Record, letter: DeadLetter, original: bytes) -> None:
        partition = Partition(letter.origin_topic, letter.origin_partition)
        named = f"{partition.topic}[{partition.number}]@{letter.origin_offset}"
        self._judge_origin(letter.at == named, f"{record.at}: {letter.at} and {named} differ")
        self._origins[record.at] = named
        key = (partition.topic, code(partition.number, letter.origin_offset))
        if key in self._letters:
            self._letters[key].times += 1
        else:
            sha256 = digest(original)
            self._letters[key] = _Letter(record.at, partition, letter.origin_offset, sha256)

    def match(self, record: Record, decodable: bool) -> None:
        """Hold a record of another topic against its letter, if it has one or came of one."""
        self._resolutions.copy(record)
        letter = self._letters.get(
            (record.partition.topic, code(record.partition.number, record.offset))
        )
        if letter is None:
            return
        letter.found, letter.decodable = True, decodable
        same = digest(record.value or b"") == letter.sha256
        self._judge_origin(same, f"{letter.at}: other bytes than {record.at}")

    def has(self, topic: str, position: int) -> bool:
        """Whether this record is a dead letter."""
        return (topic, position) in self._letters

    def finish(self, policies: int) -> None:
        """Judge what no record matched, and records with several letters.

        What does not decode says no policy, so every policy's processor may bury it.
        """
        self._resolutions.finish(self._origins)
        for letter in self._letters.values():
            allowed = 1 if letter.decodable else max(1, policies)
            origin = f"{letter.partition.topic}[{letter.partition.number}]@{letter.offset}"
            self._findings.judge(
                "dead-letter-once",
                letter.times <= allowed,
                f"{letter.at}: {origin} {letter.times} times",
            )
            if letter.found or self._may_be_unread(letter):
                continue
            self._judge_origin(False, f"{letter.at}: {origin} is not in the log")

    def _may_be_unread(self, letter: _Letter) -> bool:
        """Deleted by retention, or appended after this audit began."""
        first, end = self._bounds.log(letter.partition)
        read_to = self._bounds.read_to(letter.partition)
        return letter.offset < first or read_to <= letter.offset < end

    def _judge_origin(self, holds: bool, where: str) -> None:
        self._findings.judge("dead-letter-origin", holds, where)
