"""A log with dead letters in memory, a run of `ralo dlq`, and who counts what came of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from audit_books import mission, problem

from consumers.audit.objects import NoObjects, ObjectChecker
from consumers.deadletters.book import REQUEUE_OF, Book, event_of
from consumers.deadletters.filters import Filter, chosen
from consumers.deadletters.patch import Patch
from consumers.deadletters.requeue import Plan, Request, decisions, plan
from consumers.deadletters.resolve import Decision, Outcome, Resolver, settle
from consumers.deadletters.rules import Judge
from consumers.read import read
from infra.envelope import dead_letter, message
from infra.log import Message
from infra.memory.cluster import MemoryCluster
from infra.memory.log import MemoryLog
from schemas.base import Event
from schemas.effects import Bury
from schemas.learning import DeadLetterResolution
from schemas.records import Record
from schemas.topics import TOPICS

BROKEN = b'{"type":"problem","problem_id":"broken"}'


class Crash(BaseException):
    """The process dies here."""


def fresh(namespace: str = "") -> MemoryLog:
    """A log with all topics and the mission m1."""
    log = MemoryLog(namespace, MemoryCluster())
    log.provision(list(TOPICS.values()))
    log.append([message(mission("m1", "main"))])
    return log


def die(
    log: Any,
    what: Event | Message,
    reason: str = "deadly",
    processor: str = "sampler",
    detail: str = "it died",
) -> Record:
    """Append a record and its dead letter; answers the letter's record."""
    (record,) = log.append([message(what) if isinstance(what, Event) else what])
    return bury(log, record, reason, processor, detail)


def bury(
    log: Any, record: Record, reason: str = "deadly", processor: str = "sampler", detail: str = ""
) -> Record:
    """Append the dead letter of a record."""
    letter: Record = log.append([message(dead_letter(Bury(record, reason, detail), processor))])[0]
    return letter


def with_dead_problems(count: int) -> MemoryLog:
    """A log with so many dead problems, the indices of their mission."""
    log = fresh()
    for index in range(count):
        die(log, problem(index))
    return log


def judge(log: Any, objects: ObjectChecker | None = None) -> Judge:
    return Judge(log, objects or NoObjects())


def planned(
    log: Any,
    places: Sequence[str] = (),
    by: Filter | None = None,
    objects: ObjectChecker | None = None,
    **request: Any,
) -> tuple[Book, Plan, Request]:
    """What `ralo dlq requeue` plans."""
    book = Book.read(log)
    asked = Request(named=bool(places), **request)
    letters = chosen(log, book, places, by or Filter(), lambda what, done, of: None)
    return book, plan(log, book, letters, judge(log, objects), asked), asked


def requeue(
    log: Any,
    places: Sequence[str] = (),
    by: Filter | None = None,
    point: Callable[[str], None] = lambda name: None,
    batch: int = 500,
    wait: Callable[[float], None] = lambda seconds: None,
    **request: Any,
) -> Outcome:
    """What `ralo dlq requeue` does, all of it."""
    settle(log)
    book, made, asked = planned(log, places, by, **request)
    resolver = Resolver(log, book, point, batch, sleep=wait)
    return resolver.run(decisions(log, made.accepted, asked))


def drop(log: Any, places: Sequence[str] = (), by: Filter | None = None) -> Outcome:
    """What `ralo dlq drop` does."""
    settle(log)
    book = Book.read(log)
    letters = chosen(log, book, places, by or Filter(), lambda what, done, of: None)
    return Resolver(log, book).run(Decision(letter, "dropped") for letter in letters)


def sent(log: Any, *topics: str) -> list[Record]:
    """The records that were sent again."""
    return [
        record
        for topic in topics or ("missions", "problems", "samples", "gradient-chunks")
        for record in read(topic, log=log)
        if REQUEUE_OF in record.headers
    ]


def resolutions(log: Any) -> list[DeadLetterResolution]:
    """What was said of letters, in the order of the log."""
    found = (event_of(record) for record in read("dead-letters", log=log, raw=True))
    return [event for event in found if isinstance(event, DeadLetterResolution)]


def assert_each_once(log: Any, count: int) -> None:
    """So many letters, each sent again once and settled once, and nothing else was sent."""
    settle(log)
    letters = set(Book.read(log).letters)
    copies = Counter(record.headers[REQUEUE_OF].decode() for record in sent(log))
    settled = Counter(one.letter for one in resolutions(log))
    assert len(letters) == count
    assert copies == settled == dict.fromkeys(letters, 1)


def fix(**document: Any) -> Patch:
    return Patch(document)
