"""Goes from records to their causes, and to their effects, level by level."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from consumers.trace.causes import CHILD, Link, Place, Span, Target
from consumers.trace.effects import looks_for
from consumers.trace.graph import Graph
from consumers.trace.looking import Sweep, sweeps
from consumers.trace.nodes import Node
from consumers.trace.opening import Found
from consumers.trace.reading import Reading
from consumers.trace.resolve import Resolver
from schemas.records import Partition, parse_at

MANY = 5_000
"""A level with more nodes is followed only where a depth is asked for."""


class Follower:
    """Fills a graph; `notes` says where it stopped, and why."""

    def __init__(self, reading: Reading, resolver: Resolver, graph: Graph) -> None:
        self._reading, self._resolver, self.graph = reading, resolver, graph
        self.notes: list[str] = []

    # -- up -----------------------------------------------------------------------------------

    def up(self, roots: Sequence[Found], depth: int | None, parents: int = 0) -> None:
        """To the causes; of versions to so many generations of parents with what made them."""
        level = [(found, parents) for found in roots]
        done = {found.node.ref for found in roots}
        for _ in _levels(depth):
            if not level or self._is_wide([found for found, _ in level], depth):
                return
            answers = self._resolver.find(link.to for found, _ in level for link in found.links)
            reached: list[tuple[Found, int]] = []
            for found, left in level:
                for link in found.links:
                    follow, remain = _follows(link, left)
                    for cause in answers[link.to]:
                        self.graph.link(self.graph.add(cause.node), found.node.ref, link.how)
                        if follow and cause.node.ref not in done:
                            done.add(cause.node.ref)
                            reached.append((cause, remain))
            level = reached

    # -- down ---------------------------------------------------------------------------------

    def down(self, roots: Sequence[Found], depth: int | None) -> None:
        """To the effects: records that name one of these as a cause."""
        level, done = [found.node for found in roots], {found.node.ref for found in roots}
        is_root = True
        for _ in _levels(depth):
            if not level or self._is_wide(level, depth):
                return
            reached: list[Node] = []
            for node in self._effects_of(level, is_root):
                if node.ref not in done:
                    done.add(node.ref)
                    reached.append(node)
            level, is_root = reached, False

    def _effects_of(self, level: Sequence[Node], is_root: bool) -> Iterable[Node]:
        """The effects to be followed; all are in the graph."""
        wanted = _Wanted(level)
        looks = [look for node in level for look in looks_for(node, is_root)]
        for sweep in sweeps(self._reading, looks):
            before = len(self.graph.edges)
            yield from self._swept(sweep, wanted, is_root, None)
            # Each of these has an effect, unless it is on its way: clocks may have jumped.
            if len(self.graph.edges) == before and not sweep.endless and sweep.start:
                yield from self._swept(sweep, wanted, is_root, sweep.start)

    def _swept(
        self, sweep: Sweep, wanted: "_Wanted", is_root: bool, before: int | None
    ) -> Iterable[Node]:
        records = sweep.records() if before is None else sweep.records(0, before)
        for record in records:
            found = self._resolver.open(record)
            for link in found.links:
                if not (link.follow or link.aside or is_root):
                    continue
                for cause in wanted.matching(link.to):
                    self.graph.link(cause, self.graph.add(found.node), link.how)
                    if link.follow:
                        yield found.node

    def _is_wide(self, level: Sequence[Found] | Sequence[Node], depth: int | None) -> bool:
        if depth is not None or len(level) <= MANY:
            return False
        self.notes.append(
            f"{len(level):,} records are not followed further: say --depth to do so all the same"
        )
        return True


class _Wanted:
    """The nodes of a level by all that links may call them."""

    def __init__(self, level: Iterable[Node]) -> None:
        self._by_target: dict[Target, list[str]] = {}
        self._by_key: dict[tuple[Partition, bytes], list[tuple[int, str]]] = {}
        for node in level:
            targets: list[Target] = [Place(node.at), node.name, *node.aliases]
            for target in targets:
                self._by_target.setdefault(target, []).append(node.ref)
            if node.at:
                partition, offset = parse_at(node.at)
                self._by_key.setdefault((partition, node.key), []).append((offset, node.ref))
        for places in self._by_key.values():
            places.sort()

    def matching(self, target: Target) -> list[str]:
        """The nodes that a link means."""
        if not isinstance(target, Span):
            return self._by_target.get(target, [])
        places = self._by_key.get((target.partition, target.key), [])
        low = bisect_left(places, (target.start, ""))
        high = bisect_left(places, (target.stop, ""))
        return [ref for _, ref in places[low:high]]


def _follows(link: Link, parents: int) -> tuple[bool, int]:
    """Whether to go on behind a link, and how many generations are left there."""
    if link.how == CHILD:
        return parents > 0, parents - 1
    return link.follow, parents


def _levels(depth: int | None) -> Iterable[int]:
    return range(10_000 if depth is None else depth)
