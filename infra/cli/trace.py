"""`ralo trace`: from any id up to its causes and down to its effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.counting import Counting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text
    from rich.tree import Tree

    from consumers.trace import Traced
    from consumers.trace.outline import Item, Way
    from infra.settings import Settings
    from infra.store import Bucket


Id = Annotated[
    list[str],
    typer.Argument(
        metavar="ID",
        help="POLICY@N (or: version N), topic[partition]@offset, KIND:ID, or the id of a mission, "
        "problem, group, upload, release, frame, state, command, feedback or safety event.",
    ),
]


def trace(
    id: Id,
    up: Annotated[bool, typer.Option("--up", help="Its causes alone.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Its effects alone.")] = False,
    depth: Annotated[
        int | None, typer.Option(min=1, help="How many levels up and down; all of them.")
    ] = None,
    parents: Annotated[
        int, typer.Option(min=0, help="Versions before it whose causes are followed too.")
    ] = 0,
    every: Annotated[bool, typer.Option("--all", help="Show what is collapsed.")] = False,
    policy: Annotated[str | None, typer.Option(help="Whose version `version N` is.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Nodes and edges as JSON.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="A Mermaid flowchart.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="A Graphviz digraph.")] = False,
) -> None:
    """Follow an id to its causes and its effects, across all topics.

    Say `ralo trace main@7 --up` for the samples that made version 7.
    """
    from consumers.trace import trace as follow
    from infra.connect import connect_log
    from infra.settings import settings

    config, progress = settings(), Counting("trace", "offsets")
    both = up == down
    wanted: dict[Way, bool] = {"up": up or both, "down": down or both}
    ways = [way for way, is_on in wanted.items() if is_on]
    traced = follow(
        " ".join(id),
        connect_log(config),
        _store(config),
        policy=policy,
        up="up" in ways,
        down="down" in ways,
        depth=depth,
        parents=parents,
        report=progress,
    )
    progress.end()
    if as_json:
        _print_json(traced)
    elif mermaid or dot:
        _draw(traced, ways, every, mermaid)
    else:
        show(traced, ways, every)


def _store(config: Settings) -> Bucket | None:
    """The store; a trace without one says what it could not read there."""
    from infra.connect import connect_store
    from infra.settings import SettingsError

    try:
        return connect_store(config)
    except SettingsError:
        return None


def _print_json(traced: Traced) -> None:
    import json

    print(json.dumps(traced.document()))


def _draw(traced: Traced, ways: list[Way], every: bool, as_mermaid: bool) -> None:
    from consumers.trace import pictures

    trees = [(way, item) for way, item in _trees(traced, ways, every)]
    print(pictures.mermaid(trees) if as_mermaid else pictures.dot(trees))


def _trees(traced: Traced, ways: list[Way], every: bool) -> Iterator[tuple[Way, Item]]:
    from consumers.trace.outline import outline

    for root in traced.roots:
        for way in ways:
            yield way, outline(traced.graph, root, way, every)


# -- for people -----------------------------------------------------------------------------------


def show(traced: Traced, ways: list[Way], every: bool = False) -> None:
    """Print a summary, the rewards by mission and upload, and the trees."""
    from rich.console import Console

    from consumers.trace.summary import summary

    console = Console(highlight=False)
    console.print(summary(traced.graph, traced.roots[0]), markup=False, soft_wrap=True)
    for line in _batches(traced, every):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    for way, item in _trees(traced, ways, every):
        if item.items:
            console.print("caused by" if way == "up" else "led to", style="bold")
        if item.items or len(ways) == 1 or way == "up":
            console.print(_tree(item, way), soft_wrap=True)
    for note in traced.notes:
        console.print(f"note: {note}", markup=False, style="yellow", soft_wrap=True)
    missing = len(traced.missing)
    pieces = sum(len(ranges) for ranges in traced.read["read_ranges"].values())
    console.print(
        f"{len(traced.graph.nodes):,} records, {missing:,} of them missing; "
        f"{traced.read['read_records']:,} were read, in {pieces:,} pieces",
        style="dim",
        soft_wrap=True,
    )


def _batches(traced: Traced, every: bool) -> Iterator[str]:
    """Rewards by mission and by upload, the lowest first, where there are several to compare."""
    from consumers.trace.summary import by_mission, by_upload

    root, shown = traced.roots[0], 10**9 if every else 5
    if root.name.kind in ("group", "problem"):
        return
    missions, uploads = by_mission(traced.graph, root), by_upload(traced.graph, root)
    for batches in (missions, uploads if len(uploads) > 1 else []):
        yield from (str(one) for one in batches[:shown])
        if len(batches) > shown:
            yield f"… {len(batches) - shown:,} more, of higher reward"


def _tree(item: Item, way: Way) -> Tree:
    from rich.tree import Tree

    tree = Tree(_line(item, way), guide_style="dim")
    _grow(tree, item, way)
    return tree


def _grow(tree: Tree, item: Item, way: Way) -> None:
    for child in item.items:
        _grow(tree.add(_line(child, way)), child, way)


def _line(item: Item, way: Way) -> Text:
    from rich.text import Text

    from consumers.trace.outline import facts_text

    line = Text(f"{_verb(item.how, way)}  " if item.how else "", style="dim")
    node = item.node
    if node is None:
        return line.append(item.text, style="not dim italic")
    line.append(f"{node.name.kind} ", style="not dim")
    if node.name.id != node.at:
        line.append(f"{node.name.id} ", style="not dim bold")
    line.append(node.at, style="not dim cyan")
    if node.missing:
        return line.append(f" missing: {node.missing}", style="not dim yellow")
    return line if item.again else line.append(f"  {facts_text(node)}")


def _verb(how: str, way: Way) -> str:
    """What the other does, in a tree of effects: refuses it as stale."""
    if way == "up":
        return how
    return how.replace(" as ", " it as ") if " as " in how else f"{how} it"
