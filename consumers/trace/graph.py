"""A graph of causes: nodes by their place, and edges from cause to effect."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from consumers.trace.nodes import Node


@dataclass(frozen=True, slots=True)
class Edge:
    """The effect `how`s the cause: a group "answers" a problem."""

    cause: str
    effect: str
    how: str


@dataclass
class Graph:
    """What was found so far."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[Edge, None] = field(default_factory=dict)

    def add(self, node: Node) -> str:
        """Take in a node; answers what it is known by."""
        self.nodes.setdefault(node.ref, node)
        return node.ref

    def link(self, cause: str, effect: str, how: str) -> None:
        """Take in an edge; a record is never its own cause."""
        if cause != effect:
            self.edges.setdefault(Edge(cause, effect, how))

    def causes(self) -> dict[str, list[Edge]]:
        """The edges to the causes of each node."""
        return _by(self.edges, "effect")

    def effects(self) -> dict[str, list[Edge]]:
        """The edges to the effects of each node."""
        return _by(self.edges, "cause")


def _by(edges: Iterable[Edge], end: str) -> dict[str, list[Edge]]:
    found: dict[str, list[Edge]] = {}
    for edge in edges:
        found.setdefault(getattr(edge, end), []).append(edge)
    return found
