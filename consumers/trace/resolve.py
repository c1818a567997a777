"""From what a link names to the records there are, read in as few pieces as can be."""

from collections.abc import Iterable, Mapping

from consumers.trace.causes import Lost, Place, Span, Target
from consumers.trace.looking import sweeps
from consumers.trace.naming import where
from consumers.trace.nodes import Name, Node
from consumers.trace.opening import Found, Opening
from consumers.trace.reading import NEAR, Reading
from schemas.records import Partition, Record, parse_at


class Resolver:
    """Finds records by place, range or name; what was opened once is kept by its place."""

    def __init__(self, reading: Reading, opening: Opening) -> None:
        self._reading, self._opening = reading, opening
        self._found: dict[str, Found] = {}
        self._named: dict[Name, list[Found]] = {}

    def open(self, record: Record) -> Found:
        """What a record is."""
        if record.at not in self._found:
            found = self._found[record.at] = self._opening.open(record)
            for name in (found.node.name, *found.node.aliases):
                self._named.setdefault(name, []).append(found)
        return self._found[record.at]

    def find(self, targets: Iterable[Target]) -> dict[Target, list[Found]]:
        """The records of each target; one that has none gets a node that says why."""
        wanted = list(dict.fromkeys(targets))
        found: dict[Target, list[Found]] = {target: [] for target in wanted}
        self._places([t for t in wanted if isinstance(t, Place)], found)
        self._spans([t for t in wanted if isinstance(t, Span)], found)
        for name, some in self.named([t for t in wanted if isinstance(t, Name)]).items():
            found[name] = some
        for target in wanted:
            if not found[target]:
                found[target] = [Found(self._missing(target))]
        return found

    def named(self, names: Iterable[Name]) -> Mapping[Name, list[Found]]:
        """The records of these names, those that there are."""
        wanted = list(names)
        unknown = [name for name in wanted if name not in self._named]
        looks = [look for name in unknown for look in where(name)]
        for sweep in sweeps(self._reading, looks):
            enough = _enough(unknown, sweep.partition)
            self._name(sweep.records(), enough)
            # A copy of a part of the log, as in a sandbox, may begin anywhere.
            if sweep.start and not all(name in self._named for name in unknown):
                self._name(sweep.records(0, sweep.start), enough)
        return {name: self._named.get(name, []) for name in wanted}

    def _name(self, records: Iterable[Record], enough: set[Name]) -> None:
        for record in records:
            self.open(record)
            if enough and enough <= self._named.keys():
                return

    def _places(self, places: list[Place], found: dict[Target, list[Found]]) -> None:
        known = [place for place in places if place.at in self._found]
        for place in known:
            found[place] = [self._found[place.at]]
        rest = [place.at for place in places if place.at not in self._found]
        for record in self._reading.places(rest):
            found[Place(record.at)] = [self.open(record)]

    def _spans(self, spans: list[Span], found: dict[Target, list[Found]]) -> None:
        """All ranges of a partition in one reading, those near to one another in one piece."""
        by_partition: dict[Partition, list[Span]] = {}
        for span in spans:
            by_partition.setdefault(span.partition, []).append(span)
        for partition, some in by_partition.items():
            for start, stop, group in _merged(some):
                keys: dict[bytes, list[Span]] = {}
                for span in group:
                    keys.setdefault(span.key, []).append(span)
                for record in self._reading.span(partition, start, stop):
                    for span in keys.get(record.key or b"", ()):
                        if span.start <= record.offset < span.stop:
                            found[span].append(self.open(record))

    def _missing(self, target: Target) -> Node:
        match target:
            case Lost(name, why):
                return Node(name, missing=why)
            case Place(at):
                partition, offset = parse_at(at)
                why = self._reading.why_not(partition, offset, offset + 1)
                return Node(Name("record", at), missing=why)
            case Span(partition, start, stop, key):
                why = self._reading.why_not(partition, start, stop)
                place = f"{partition.topic}[{partition.number}]@{start}:{stop}"
                return Node(Name("records", f"{key.decode(errors='replace')} {place}"), missing=why)
            case Name() as name:
                topics = dict.fromkeys(look.partition.topic for look in where(name))
                reach = "; ".join(self._reading.reach(topic) for topic in topics)
                return Node(name, missing=f"not in the log: {reach}")


def _enough(names: Iterable[Name], partition: Partition) -> set[Name]:
    """The names after which a partition need not be read on; none where there may be more."""
    looks = [(name, look) for name in names for look in where(name) if look.partition == partition]
    return {name for name, _ in looks} if all(look.one for _, look in looks) else set()


def _merged(spans: Iterable[Span]) -> list[tuple[int, int, list[Span]]]:
    found: list[tuple[int, int, list[Span]]] = []
    for span in sorted(spans, key=lambda span: (span.start, span.stop)):
        if found and span.start - found[-1][1] < NEAR:
            start, stop, group = found[-1]
            found[-1] = start, max(stop, span.stop), [*group, span]
        else:
            found.append((span.start, span.stop, [span]))
    return found
