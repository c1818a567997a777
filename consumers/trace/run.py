"""A whole trace: from an id to its graph."""

from dataclasses import asdict, dataclass
from typing import Any

from consumers.trace.find import find
from consumers.trace.follow import Follower
from consumers.trace.graph import Graph
from consumers.trace.nodes import Node
from consumers.trace.opening import Opening
from consumers.trace.reading import Reading, Report, quiet
from consumers.trace.resolve import Resolver
from consumers.trace.summary import by_mission, by_upload, summary
from infra.log import Log
from infra.store import ObjectStore


@dataclass(frozen=True)
class Traced:
    """What a trace found, and what it read for it."""

    roots: tuple[Node, ...]
    graph: Graph
    notes: tuple[str, ...]
    read: dict[str, Any]

    @property
    def missing(self) -> list[Node]:
        """What is named and not there."""
        return [node for node in self.graph.nodes.values() if node.missing]

    def document(self) -> dict[str, Any]:
        """The trace as JSON: nodes by `ref`, edges from cause to effect, what was read."""
        root = self.roots[0]
        return {
            "roots": [node.ref for node in self.roots],
            "summary": summary(self.graph, root),
            "missions": [asdict(one) for one in by_mission(self.graph, root)],
            "uploads": [asdict(one) for one in by_upload(self.graph, root)],
            "nodes": [_node(node) for node in self.graph.nodes.values()],
            "edges": [asdict(edge) for edge in self.graph.edges],
            "notes": list(self.notes),
            **self.read,
        }


def trace(
    text: str,
    log: Log,
    store: ObjectStore | None = None,
    *,
    policy: str | None = None,
    up: bool = True,
    down: bool = True,
    depth: int | None = None,
    parents: int = 0,
    report: Report = quiet,
) -> Traced:
    """Follow an id to its causes and to its effects, by what events say of one another.

    `policy` is whose version `version 7` means, where several have one. `depth` bounds both ways;
    `parents` says for how many generations of a version's parents their causes are followed too.
    Without a store, what was moved out of large events is said to be missing. Raises `UnknownId`,
    `AmbiguousId`, `LogUnavailable`.
    """
    reading, opening = Reading(log, report), Opening(store)
    resolver, graph = Resolver(reading, opening), Graph()
    follower = Follower(reading, resolver, graph)
    roots = find(text, policy, reading, resolver)
    for root in roots:
        graph.add(root.node)
    if up:
        follower.up(roots, depth, parents)
    if down:
        follower.down(roots, depth)
    read = {
        "read_records": reading.records,
        "read_bytes": reading.bytes,
        "read_objects": opening.objects,
        "read_ranges": reading.ranges,
    }
    return Traced(tuple(root.node for root in roots), graph, tuple(follower.notes), read)


def _node(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ref": node.ref,
        "kind": node.name.kind,
        "id": node.name.id,
        "at": node.at or None,
        "timestamp_ms": node.timestamp_ms or None,
        "facts": dict(node.facts),
        "missing": node.missing or None,
    }
    return {name: value for name, value in found.items() if value is not None}
