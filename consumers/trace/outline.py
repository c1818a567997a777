"""A graph as a tree for people: each record once, many of a kind in a line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from consumers.trace.causes import MADE_BY
from consumers.trace.graph import Edge, Graph
from consumers.trace.nodes import Node
from consumers.trace.summary import batch, plural

SHOWN = 5
"""So many of one kind beside one another; the others are counted."""
Way = Literal["up", "down"]


@dataclass
class Item:
    """One line; `node` is None for one that stands for `hidden` more."""

    how: str
    node: Node | None
    text: str = ""
    hidden: int = 0
    again: bool = False
    """Whether it stands further above already."""
    items: list["Item"] = field(default_factory=list)


def outline(graph: Graph, root: Node, way: Way, every: bool = False) -> Item:
    """The causes, or the effects, of a node; `every` shows all of them."""
    edges = graph.causes() if way == "up" else graph.effects()
    return _Outline(graph, edges, way, every).item("", root)


class _Outline:
    def __init__(
        self, graph: Graph, edges: Mapping[str, Sequence[Edge]], way: Way, every: bool
    ) -> None:
        self._graph, self._edges, self._way, self._every = graph, edges, way, every
        self._told: set[str] = set()
        self._grown: set[str] = set()

    def item(self, how: str, node: Node) -> Item:
        """A node and what is below it."""
        found = Item(how, node, again=node.ref in self._told)
        self._told.add(node.ref)
        if node.ref in self._grown or (how in MADE_BY and self._way == "up"):
            return found
        self._grown.add(node.ref)
        for (verb, kind), nodes in self._kinds(node).items():
            shown = nodes if self._every or len(nodes) <= SHOWN + 1 else nodes[:SHOWN]
            found.items += [self.item(verb, one) for one in shown]
            if hidden := nodes[len(shown) :]:
                found.items.append(_more(verb, kind, hidden))
        return found

    def _kinds(self, node: Node) -> dict[tuple[str, str], list[Node]]:
        """What is next to a node, by verb and kind; groups of low reward first."""
        found: dict[tuple[str, str], list[Node]] = {}
        for edge in self._edges.get(node.ref, ()):
            other = self._graph.nodes[edge.cause if self._way == "up" else edge.effect]
            kind = "missing" if other.missing else other.name.kind
            found.setdefault((edge.how, kind), []).append(other)
        for (_, kind), nodes in found.items():
            if kind == "group":
                nodes.sort(key=lambda node: node.facts.get("reward", float("inf")))
        return found


def _more(how: str, kind: str, hidden: list[Node]) -> Item:
    first, last = hidden[0].ref, hidden[-1].ref
    noun = "missing record" if kind == "missing" else f"more {kind}"
    text = f"… {plural(len(hidden), noun)} ({first} to {last})"
    if kind == "group":
        reward = batch("", hidden).reward
        text = f"… {plural(len(hidden), noun)}"
        text += f", mean reward {reward:.3f}" if reward is not None else ""
    return Item(how, None, text, len(hidden))


_TOLD = {
    "mission": ("policy", "algorithm", "robots"),
    "problem": ("epoch", "question"),
    "group": ("mission", "rollouts", "reward", "outcome", "task"),
    "upload": ("mission", "kind", "groups", "rollouts", "dropped", "reward", "trainer"),
    "version": ("kind", "uploads", "groups", "refused", "staleness", "norm", "reason"),
}
"""What is told of a kind; of the others, all."""


def facts_text(node: Node) -> str:
    """The facts of a node in a line, without those that its id or its place in the tree tells."""
    told = _TOLD.get(node.name.kind, tuple(node.facts))
    facts = ((name, node.facts[name]) for name in told if name in node.facts)
    return ", ".join(f"{name} {_short(value)}" for name, value in facts)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{count} {name}" for name, count in value.items())
    if isinstance(value, list):
        return f"[{', '.join(_short(one) for one in value)}]"
    return str(value)
