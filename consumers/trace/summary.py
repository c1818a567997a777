"""A trace in a few lines: the first answer to who debugs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from consumers.trace.causes import CHILD, LEARNS, MADE_BY
from consumers.trace.graph import Graph
from consumers.trace.nodes import Node


@dataclass(frozen=True, slots=True)
class Batch:
    """The groups of one mission, or of one upload, among the causes of something."""

    name: str
    groups: int
    rollouts: int
    reward: float | None

    def __str__(self) -> str:
        reward = "unknown" if self.reward is None else f"{self.reward:.3f}"
        return (
            f"{self.name}: mean reward {reward} over {plural(self.groups, 'group')}, "
            f"{plural(self.rollouts, 'rollout')}"
        )


def summary(graph: Graph, root: Node) -> str:
    """One sentence on what the root is, made of and led to."""
    if root.name.kind == "version":
        return _of_version(graph, root)
    if root.name.kind == "command":
        return _of_command(graph, root)
    made, led = counted(above(graph, root)), counted(below(graph, root))
    parts = [f"{root.name.kind} {root.name.id}"]
    parts += [f"from {made}"] if made else []
    parts += [f"led to {led}"] if led else []
    return "; ".join(parts)


def by_mission(graph: Graph, root: Node) -> list[Batch]:
    """The rewards of each mission among what was learnt from, the lowest first, unknown last."""
    missions: dict[str, list[Node]] = {}
    learnt = {edge.cause for edge in graph.edges if edge.how == LEARNS}
    for node in above(graph, root):
        if node.name.kind == "group" and node.ref in learnt:
            missions.setdefault(f"mission {node.facts.get('mission')}", []).append(node)
    return _sorted(batch(name, groups) for name, groups in missions.items())


def by_upload(graph: Graph, root: Node) -> list[Batch]:
    """The rewards of each upload among the causes, the lowest first."""
    causes, found = graph.causes(), []
    for upload in above(graph, root):
        if upload.name.kind == "upload":
            edges = causes.get(upload.ref, ())
            groups = [graph.nodes[edge.cause] for edge in edges if edge.how == LEARNS]
            found.append(batch(f"upload {upload.name.id} {upload.at}", groups))
    return _sorted(found)


def batch(name: str, groups: list[Node]) -> Batch:
    """What some groups come to; the mean is over their rollouts."""
    known = [node for node in groups if "reward" in node.facts]
    rollouts = sum(int(node.facts.get("rollouts", 0)) for node in groups)
    weight = sum(int(node.facts["rollouts"]) for node in known)
    total = sum(node.facts["reward"] * int(node.facts["rollouts"]) for node in known)
    return Batch(name, len(groups), rollouts, total / weight if weight else None)


def above(graph: Graph, root: Node) -> Iterator[Node]:
    """All that the root was made of, near to far; not what made its parents."""
    edges, level, seen = graph.causes(), [root.ref], {root.ref}
    while level:
        reached = []
        for edge in (edge for ref in level for edge in edges.get(ref, ())):
            if edge.how != CHILD and edge.cause not in seen:
                seen.add(edge.cause)
                yield graph.nodes[edge.cause]
                reached += [] if edge.how in MADE_BY else [edge.cause]
        level = reached


def below(graph: Graph, root: Node) -> Iterator[Node]:
    """All that the root led to."""
    edges, level, seen = graph.effects(), [root.ref], {root.ref}
    while level:
        reached = []
        for ref in level:
            for edge in edges.get(ref, ()):
                if edge.effect not in seen:
                    seen.add(edge.effect)
                    reached.append(edge.effect)
        yield from (graph.nodes[ref] for ref in reached)
        level = reached


def counted(nodes: Iterable[Node]) -> str:
    """How many there are of each kind."""
    counts: dict[str, int] = {}
    for node in nodes:
        kind = f"missing {node.name.kind}" if node.missing else node.name.kind
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(plural(count, kind) for kind, count in counts.items())


def plural(count: int, noun: str) -> str:
    """A number with its noun."""
    plain = count == 1 or noun == "feedback" or noun.endswith("safety")
    return f"{count:,} {noun}" if plain else f"{count:,} {noun}s"


def _of_version(graph: Graph, root: Node) -> str:
    facts, causes = root.facts, graph.causes()
    kind = "base" if facts["kind"] == "base" else facts["kind"]
    head = f"version {facts['version']} of {facts['policy']}"
    uploads = [
        graph.nodes[edge.cause] for edge in causes.get(root.ref, ()) if edge.how == "applies"
    ]
    if not uploads:
        parent = f", it continues version {facts['parent']}" if "parent" in facts else ""
        return f"{head}: {kind}{parent}"
    groups = [
        graph.nodes[edge.cause]
        for upload in uploads
        for edge in causes.get(upload.ref, ())
        if edge.how == LEARNS
    ]
    return f"{head}: {_step(root, uploads, groups)}"


def _of_command(graph: Graph, root: Node) -> str:
    """By which policy, from which frames, and what became of it."""
    made = list(above(graph, root))
    parts = [f"command {root.name.id}: decided by {root.facts['policy']}"]
    for kind in ("state", "frame"):
        if nodes := [node for node in made if node.name.kind == kind]:
            ends = dict.fromkeys((nodes[0].at, nodes[-1].at))
            parts.append(f"from {plural(len(nodes), kind)} ({' to '.join(ends)})")
    for edge in graph.effects().get(root.ref, ()):
        if graph.nodes[edge.effect].name.kind == "feedback":
            parts.append(f"{edge.how.removeprefix('says ').removesuffix(' of')} ({edge.effect})")
    return "; ".join(parts)


def _step(root: Node, uploads: list[Node], groups: list[Node]) -> str:
    missions = {str(node.facts["mission"]) for node in groups or uploads if "mission" in node.facts}
    rollouts = sum(int(node.facts.get("rollouts", 0)) for node in uploads)
    under = sorted({version for node in uploads for version in node.facts.get("under", ())})
    all_of_them = batch("", groups)
    parts = [
        f"step of {plural(len(uploads), 'upload')}, "
        f"{plural(int(root.facts.get('groups', 0)), 'group')}, {plural(rollouts, 'rollout')}, "
        f"of {plural(len(missions), 'mission')}"
    ]
    if under:
        noun = "version" if len(under) == 1 else "versions"
        parts.append(f"sampled under {noun} {', '.join(map(str, under))}")
    if "staleness" in root.facts:
        parts.append(f"mean staleness {root.facts['staleness']:.2g}")
    if all_of_them.reward is not None:
        parts.append(f"mean reward {all_of_them.reward:.2f}")
    return "; ".join(parts)


def _sorted(batches: Iterable[Batch]) -> list[Batch]:
    return sorted(batches, key=lambda one: (one.reward is None, one.reward or 0.0, one.name))
