"""`ralo weights`: the versions of a policy: list, show, compare, export, prove, roll back."""

from __future__ import annotations

import json
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra import supervision
from infra.cli import PLAIN
from infra.cli.histories import history_for
from infra.cli.stack import say
from infra.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consumers.weights import TensorDifference
    from schemas.learning import WeightVersion

app = typer.Typer(no_args_is_help=True, **PLAIN)

Policy = Annotated[str | None, typer.Option(help="RALO_POLICY, or the one that learnt last.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Number = Annotated[int, typer.Argument(min=0, help="A version.")]

SAY_EVERY_S = 2.0


@app.command("list")
def list_versions(
    policy: Policy = None,
    last: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="List every version.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the newest versions and what made them."""
    from consumers.weights import summary

    found = history_for(policy)
    events = list(found.versions.values())[-(10**9 if every else last) :]
    rows = [summary(event, event.version in found.expired) for event in events]
    if as_json:
        print(json.dumps(rows))
        return
    print(
        f"policy {found.policy}: {len(found.versions):,} versions, {len(found.expired):,} expired"
    )
    print(
        "version  kind      parent  adam step  lr        norm      clip  groups     stale  objects"
    )
    for row in rows:
        print(_line(row))


@app.command()
def show(version: Number, policy: Policy = None, as_json: AsJson = False) -> None:
    """Print the manifest of a version: all that it was made of."""
    from consumers.read import complete
    from infra.connect import connect_store

    event = history_for(policy).version(version)
    if event.spilled:
        event = complete(event, connect_store(settings()))
    document = event.model_dump(mode="json", exclude_none=True)
    print(json.dumps(document, indent=None if as_json else 2))


@app.command()
def diff(a: Number, b: Number, policy: Policy = None, as_json: AsJson = False) -> None:
    """Compare two versions, by tensors and by manifests."""
    from consumers.read import complete
    from consumers.weights import differing_fields, differing_tensors
    from infra.connect import connect_store

    found, store = history_for(policy), connect_store(settings())
    one, other = complete(found.kept(a), store), complete(found.kept(b), store)
    say = _Progress(f"diff: {2 * len(one.shards)} shards")
    tensors = list(differing_tensors(store, one, other, say))
    say.end()
    fields = differing_fields(one, other)
    if as_json:
        rows = [{**vars(t), "relative": t.relative} for t in tensors]
        print(json.dumps({"tensors": rows, "manifest": fields}))
        return
    _print_tensors(tensors)
    for name, (before, after) in fields.items():
        print(f"{name}: {_short(before)} -> {_short(after)}")


@app.command()
def export(
    version: Number,
    folder: Annotated[Path, typer.Argument(help="An empty folder, made if it is not there.")],
    policy: Policy = None,
    as_json: AsJson = False,
) -> None:
    """Write a version as a Hugging Face folder."""
    from consumers.weights import export as write
    from infra.connect import connect_store

    event = history_for(policy).kept(version)
    say = _Progress(f"export: {len(event.files) + event.count('shards')} files")
    written = write(connect_store(settings()), event, folder, say)
    say.end()
    if as_json:
        print(json.dumps({"version": version, "files": [str(path) for path in written]}))
        return
    size = sum(path.stat().st_size for path in written)
    print(f"version {version} of {event.policy}: {len(written)} files, {size:,} bytes in {folder}")


@app.command()
def verify(
    version: Annotated[
        int | None, typer.Argument(min=0, help="A version; with --chain the last.")
    ] = None,
    chain: Annotated[bool, typer.Option("--chain", help="All versions up to it.")] = False,
    step: Annotated[bool, typer.Option("--step", help="Only gradients to weights.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Also samples to gradients; the default.")
    ] = False,
    samples: Annotated[
        bool, typer.Option("--samples", help="Also problems to samples, under each version.")
    ] = False,
    policy: Policy = None,
    as_json: AsJson = False,
) -> None:
    """Make a version again, of what the log says it was made of, and compare every bit.

    Exit status 1: something is wrong; 3: another kind of machine must prove it; expired versions
    are counted apart.
    """
    from infra.cli.weights_verify import run

    if step and (full or samples):
        raise typer.BadParameter("--step leaves out what --full and --samples add")
    depth: Any = "step" if step else "samples" if samples else "full"
    run(version, chain, depth, policy, as_json)


@app.command()
def rollback(
    version: Number,
    policy: Policy = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the new version.")] = "",
    wait_s: Annotated[float, typer.Option(help="How long to wait for the aggregator.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Go on learning from the content of an old version."""
    found = history_for(policy)
    target = found.kept(version)
    with supervision.borrowed(settings(), "aggregator", target.policy, say):
        event = _ask(target, reason, wait_s)
    if as_json:
        print(json.dumps({"version": event.version, "parent": event.parent}))
    else:
        print(f"version {event.version} of {event.policy} has the content of version {version}")


def _ask(target: WeightVersion, reason: str, wait_s: float) -> WeightVersion:
    """Publish the request and wait for its answer; exits 1 when none comes, 130 on Ctrl-C."""
    from consumers.read import decoded, follow_from
    from consumers.weights import rollback_answer
    from infra.connect import connect_log
    from infra.envelope import message
    from schemas.learning import RollbackRequest

    log = connect_log(settings())
    start = {
        p: end for t in ("weight-versions", "dead-letters") for p, (_, end) in log.ends(t).items()
    }
    request = RollbackRequest(
        request_id=uuid.uuid4().hex[:20],
        policy=target.policy,
        to_version=target.version,
        reason=reason,
    )
    asked = decoded(log.append([message(request)])[0])
    until, say = time.monotonic() + wait_s, _Progress(f"{asked.at}: waiting for the aggregator")
    try:
        for record in follow_from(log, start):
            answer = rollback_answer(asked, decoded(record)) if record else None
            if answer is not None:
                say.end()
                return answer
            say("")
            if time.monotonic() > until:
                break
    except KeyboardInterrupt:
        print(f"\nthe request stays in the log ({asked.at})", file=sys.stderr)
        raise typer.Exit(130) from None
    print(
        f"ralo weights rollback: no answer in {wait_s:.0f} s; the request stays in the log "
        f"({asked.at}) and is met once the aggregator of {target.policy} runs: see `ralo status`",
        file=sys.stderr,
    )
    raise typer.Exit(1)


class _Progress:
    """A line on stderr now and then, from the moment that something takes long."""

    def __init__(self, what: str) -> None:
        self._what, self._said, self._count = what, time.monotonic(), 0
        self._line = False

    def __call__(self, item: str) -> None:
        self._count += bool(item)
        if time.monotonic() - self._said < SAY_EVERY_S:
            return
        self._said, self._line = time.monotonic(), sys.stderr.isatty()
        text = f"{self._what}, at number {self._count}: {item}" if item else f"{self._what} …"
        print(text.ljust(78), end="\r" if self._line else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self._line:
            print(" " * 78, end="\r", file=sys.stderr, flush=True)


def _line(row: dict[str, Any]) -> str:
    def number(name: str, form: str) -> str:
        return "-" if row[name] is None else format(row[name], form)

    return (
        f"{row['version']:>7}  {row['kind']:8}  {number('parent', 'd'):>6}  {row['adam_step']:>9}  "
        f"{number('learning_rate', '.2e'):8}  {number('grad_norm', '.2e'):8}  "
        f"{number('clip_factor', '.2f'):4}  {row['groups']:>6,}  {number('staleness', '.2f'):>8}  "
        f"{row['objects']}"
    )


def _print_tensors(tensors: Iterable[TensorDifference]) -> None:
    for tensor in sorted(tensors, key=lambda t: -t.relative):
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        print(
            f"{tensor.name:40} {shape:>14}  norm {tensor.norm:10.4g}  "
            f"difference {tensor.difference:10.4g}  ({tensor.relative:.2%})"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
