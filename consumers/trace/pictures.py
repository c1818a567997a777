"""A trace as a picture: Mermaid (for Markdown) and Graphviz; time goes from left to right."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from consumers.trace.outline import Item, Way

_KEPT = ("mission", "version", "reward", "policy", "outcomes", "stage", "kind")


@dataclass
class _Picture:
    """Boxes by what they stand for, and arrows between them."""

    boxes: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Text, and whether it stands for something that is missing."""
    arrows: dict[tuple[str, str, str], None] = field(default_factory=dict)

    def draw(self, item: Item, way: Way) -> str:
        """Take in a tree; answers the box of its root."""
        ref = item.node.ref if item.node else f"more {len(self.boxes)}"
        self.boxes.setdefault(ref, (_text(item), bool(item.node and item.node.missing)))
        for child in item.items:
            other = self.draw(child, way)
            ends = (other, ref) if way == "up" else (ref, other)
            self.arrows.setdefault((*ends, child.how))
        return ref


def mermaid(trees: list[tuple[Way, Item]]) -> str:
    """The trees as a Mermaid flowchart."""
    picture, numbers = _drawn(trees)
    lines = ["flowchart LR"]
    for ref, (text, missing) in picture.boxes.items():
        label = "<br/>".join(line.replace('"', "#quot;") for line in text.split("\n"))
        lines.append(f'    {numbers[ref]}["{label}"]' + (":::missing" if missing else ""))
    for cause, effect, how in picture.arrows:
        lines.append(f'    {numbers[cause]} -->|"{how}"| {numbers[effect]}')
    lines.append("    classDef missing stroke-dasharray: 4 4")
    return "\n".join(lines)


def dot(trees: list[tuple[Way, Item]]) -> str:
    """The trees as a Graphviz digraph."""
    picture, numbers = _drawn(trees)
    lines = ["digraph trace {", "    rankdir=LR;", "    node [shape=box, fontname=monospace];"]
    for ref, (text, missing) in picture.boxes.items():
        style = ", style=dashed" if missing else ""
        lines.append(f'    {numbers[ref]} [label="{_quoted(text)}"{style}];')
    for cause, effect, how in picture.arrows:
        lines.append(f'    {numbers[cause]} -> {numbers[effect]} [label="{_quoted(how)}"];')
    return "\n".join([*lines, "}"])


def _drawn(trees: list[tuple[Way, Item]]) -> tuple[_Picture, dict[str, str]]:
    picture = _Picture()
    for way, item in trees:
        picture.draw(item, way)
    return picture, {ref: f"n{number}" for number, ref in enumerate(picture.boxes)}


def _text(item: Item) -> str:
    node = item.node
    if node is None:
        return item.text
    return "\n".join([f"{node.name.kind} {node.name.id}", *_lines(item)])


def _lines(item: Item) -> Iterator[str]:
    node = item.node
    if node is None:
        return
    if node.at and node.at != node.name.id:
        yield node.at
    if node.missing:
        yield "missing"
    facts = [f"{name} {node.facts[name]}" for name in _KEPT if _is_short(node.facts.get(name))]
    if facts:
        yield ", ".join(facts[:3])


def _is_short(value: object) -> bool:
    return isinstance(value, str | int | float)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
