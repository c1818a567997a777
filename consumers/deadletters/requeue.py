"""Sending dead records again: first all are judged, then what passed is sent."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from consumers.deadletters.book import REQUEUE_OF, Book, Letter, contents, unpacked
from consumers.deadletters.filters import Report
from consumers.deadletters.patch import BadPatch, Patch, differences, document_of
from consumers.deadletters.resolve import Decision
from consumers.deadletters.rules import Judge, Refusal
from infra.log import Log, Message
from schemas.base import Event
from schemas.headers import headers_of
from schemas.ids import digest
from schemas.learning import DeadLetter
from schemas.topics import NewerSchema, Undecodable, decode

_REPORT_EVERY = 500
_DERIVED = ("schema", "policy", "mission-id")
"""Headers that say what the value says: by `policy`, others' records are passed over unread."""
Difference = tuple[str, object, object]


@dataclass
class Plan:
    """What is to be sent again, what is not and why, and what was settled before."""

    accepted: list[Letter] = field(default_factory=list)
    refused: list[tuple[Letter, str]] = field(default_factory=list)
    settled: list[Letter] = field(default_factory=list)
    forced: int = 0
    """Accepted ones that will be dead again."""
    first: list[tuple[Letter, list[Difference]]] = field(default_factory=list)
    """What the patch changes in the first of those accepted."""

    @property
    def topics(self) -> Counter[str]:
        """How many go to each topic."""
        return Counter(letter.origin_topic for letter in self.accepted)

    @property
    def reasons(self) -> Counter[str]:
        """How many are refused for each reason."""
        return Counter(why for _, why in self.refused)


@dataclass(frozen=True)
class Request:
    """How to send letters again."""

    patch: Patch = field(default_factory=Patch)
    force: bool = False
    named: bool = False
    """The letters were named by their places."""
    note: str = ""
    show: int = 3
    """Of how many letters to keep what the patch changes."""


def plan(
    log: Log,
    book: Book,
    letters: Sequence[Letter],
    judge: Judge,
    request: Request,
    report: Report = lambda what, done, of: None,
) -> Plan:
    """Judge the letters; nothing is sent. Raises `LogError`, `StoreUnavailable`."""
    made, origins = Plan(), set[str]()
    made.settled = [letter for letter in letters if book.resolved(letter)]
    waiting = [letter for letter in letters if not book.resolved(letter)]
    for done, (letter, _, event) in enumerate(contents(log, waiting), start=1):
        if done % _REPORT_EVERY == 0:
            report("letters judged", done, len(waiting))
        if letter.origin in origins:
            made.settled.append(letter)
            continue
        if (why := _why_not(letter, event, judge, request, made)) is not None:
            made.refused.append((letter, why))
            continue
        origins.add(letter.origin)
        made.accepted.append(letter)
    return made


def decisions(log: Log, letters: Sequence[Letter], request: Request) -> Iterator[Decision]:
    """What `plan` has accepted, as it is to be sent; raises `LogError`."""
    for letter, _, event in contents(log, letters):
        value = request.patch.apply(unpacked(event.value_base64) or b"")
        sent = _decoded(letter.origin_topic, value)
        policy, mission_id = (getattr(sent, name, None) for name in ("policy", "mission_id"))
        yield Decision(
            letter,
            "requeued",
            note=request.note,
            send=_message(letter, event, value, sent, bool(request.patch)),
            policy=policy,
            mission_id=mission_id,
            value_sha256=digest(value),
            patch_sha256=request.patch.sha256 if request.patch else None,
        )


def _why_not(
    letter: Letter, event: DeadLetter, judge: Judge, request: Request, made: Plan
) -> str | None:
    before = unpacked(event.value_base64)
    if before is None:
        return "what the letter holds of the value is no base64"
    try:
        after = request.patch.apply(before)
    except BadPatch as error:
        return str(error)
    _, refusal = judge.judge(letter.origin_topic, after, request.named)
    if refusal and not _forced(refusal, request):
        return refusal.why
    made.forced += refusal is not None
    if request.patch and len(made.first) < request.show:
        made.first.append((letter, differences(document_of(before), document_of(after))))
    return None


def _forced(refusal: Refusal, request: Request) -> bool:
    return request.force and refusal.overridable


def _decoded(topic: str, value: bytes) -> Event | None:
    try:
        return decode(topic, value)
    except (Undecodable, NewerSchema):
        return None


def _message(
    letter: Letter, event: DeadLetter, value: bytes, sent: Event | None, patched: bool
) -> Message:
    """As the record was, with its own time; key and headers follow what the patch changes."""
    key = None if event.key_base64 is None else unpacked(event.key_base64)
    headers = {name: text.encode() for name, text in event.headers.items()}
    if patched and sent is not None:
        known = document_of(unpacked(event.value_base64) or b"")
        same = isinstance(known, Mapping) and known.get(sent.key_field) == sent.key
        key = key if same else sent.key.encode()
        made = headers_of(sent, value)
        headers |= {name: made[name] for name in _DERIVED if name in headers and name in made}
    headers[REQUEUE_OF] = letter.at.encode()
    return Message(letter.origin_topic, key, value, headers, event.timestamp_ms or None)
