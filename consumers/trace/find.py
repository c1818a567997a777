"""From what a person types to the records that it means."""

import re
from collections.abc import Iterable, Iterator, Sequence

from consumers.read import decoded
from consumers.trace.causes import Place
from consumers.trace.naming import KINDS, where
from consumers.trace.nodes import Name
from consumers.trace.opening import Found
from consumers.trace.reading import Reading
from consumers.trace.resolve import Resolver
from schemas.learning import WeightHead
from schemas.records import parse_at
from schemas.topics import TOPICS, WEIGHT_HEADS

_PLACE = re.compile(r"^[a-z0-9-]+\[\d+\]@\d+$")
_VERSION = re.compile(r"^version[ :@]?(\d+)$")
_WORDS = {"sample": "group", "sample-group": "group", "gradient": "upload", "weights": "version"}
_HEX = r"[0-9a-f]{20}"
_LIKE = {
    "mission": r"[a-z0-9][a-z0-9._-]{0,99}",
    "version": r"[a-z0-9][a-z0-9._-]*@\d+",
    "problem": _HEX,
    "group": _HEX + r"\.\d+",
    "upload": _HEX,
    "rollback": r"[0-9a-f]{20}",
    "release": r"[^ .@]+",
    "frame": r".+\.[^.]+\.\d+",
    "state": r".+\.[^.]+\.\d+",
    "command": r".+\.\d+\.\d+",
    "feedback": r".+\.[^.]+\.\d+",
    "safety": r".+\.\d+",
}
"""What an id without its kind may be, by how it looks; the others are asked for by kind."""


class UnknownId(ValueError):
    """Nothing in the log is called so; says what was looked for, and how far the log reaches."""


class AmbiguousId(ValueError):
    """Several kinds have this id; `names` are how to say which."""

    def __init__(self, text: str, found: Sequence[Found]) -> None:
        self.names = {str(one.node.name): one.node.at for one in found}
        lines = [f"  ralo trace {name}    {at}" for name, at in self.names.items()]
        super().__init__(f"{text} is an id of several kinds; say which:\n" + "\n".join(lines))


def find(text: str, policy: str | None, reading: Reading, resolver: Resolver) -> list[Found]:
    """The records that an id means: one, or several of one kind (the steps of a release, copies).

    `version 7` is that of `policy`, or of any. Raises `UnknownId`, `AmbiguousId`.
    """
    text = text.strip()
    if _PLACE.match(text):
        return _at(text, reading, resolver)
    alone = policy is None and _VERSION.match(text)
    policies = list(newest_versions(reading)) if alone else [policy or ""]
    names = list(_names(text, policies))
    found = resolver.named(names)
    kinds = {name: some for name, some in found.items() if some}
    if not kinds:
        raise UnknownId(_unknown(text, names, reading))
    if len(kinds) > 1:
        raise AmbiguousId(text, [some[0] for some in kinds.values()])
    return list(next(iter(kinds.values())))


def _at(at: str, reading: Reading, resolver: Resolver) -> list[Found]:
    partition, offset = parse_at(at)
    if partition.topic not in TOPICS:
        raise UnknownId(f"no topic {partition.topic}: there are {', '.join(TOPICS)}")
    found = resolver.find([Place(at)])[Place(at)]
    if found[0].node.missing:
        raise UnknownId(f"{at}: {reading.why_not(partition, offset, offset + 1)}")
    return found


def newest_versions(reading: Reading) -> dict[str, int]:
    """The newest version of every policy."""
    found: dict[str, int] = {}
    for partition, (first, end) in reading.ends(WEIGHT_HEADS.name).items():
        for record in reading.span(partition, first, end):
            event = decoded(record).event
            if isinstance(event, WeightHead):
                found[event.policy] = event.version
    return found


def _names(text: str, policies: Iterable[str]) -> Iterator[Name]:
    """What the text may name."""
    kind, colon, id_ = text.partition(":")
    kind = _WORDS.get(kind, kind)
    if version := _VERSION.match(text):
        yield from (Name("version", f"{policy}@{version.group(1)}") for policy in policies)
    elif colon and kind in KINDS:
        yield Name(kind, id_)
    else:
        yield from (Name(kind, text) for kind, like in _LIKE.items() if re.fullmatch(like, text))


def _unknown(text: str, names: Iterable[Name], reading: Reading) -> str:
    kinds = [name.kind for name in names]
    if not kinds and _VERSION.match(text):
        return f"{text}: no policy has a version yet; {reading.reach(WEIGHT_HEADS.name)}"
    if not kinds:
        forms = ", ".join(f"{kind}:{form}" for kind, form in KINDS.items())
        return f"{text!r} is no id: it is topic[partition]@offset, or {forms}"
    topics = dict.fromkeys(look.partition.topic for kind in names for look in where(kind))
    others = ", ".join(kind for kind in KINDS if kind not in kinds)
    lines = [f"nothing is called {text}; looked for as {', '.join(kinds)} in"]
    lines += [f"  {reading.reach(topic)}" for topic in topics]
    lines += [f"not looked for as {others}: say KIND:ID for these"] if ":" not in text else []
    newest = newest_versions(reading).get(text.rpartition("@")[0] or text)
    policy = text.rpartition("@")[0] or text
    lines += [f"the newest version of {policy} is {policy}@{newest}"] if newest is not None else []
    return "\n".join(lines)
