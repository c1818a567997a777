"""`ralo samples`: groups of samples made again of their problems and a weight version."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli import PLAIN
from infra.cli.histories import history_for
from infra.cli.weights_verify import FINDINGS, leave, progress
from infra.settings import settings

if TYPE_CHECKING:
    from consumers.recompute import GroupProof
    from consumers.recompute.index import Index
    from schemas.effects import Processor
    from schemas.records import Record

app = typer.Typer(no_args_is_help=True, **PLAIN)


@app.callback()
def samples() -> None:
    """Sample groups again, to the last bit."""


@app.command()
def verify(
    wanted: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="A group, a problem, or a place: samples[0]@12."),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=0, help="All groups that this version learnt from.")
    ] = None,
    mission: Annotated[str | None, typer.Option(help="The last groups of this mission.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many, with --mission.")] = 100,
    policy: Annotated[str | None, typer.Option(help="Whose version; with --version.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Sample groups again, each with its whole batch, and compare every token, number and reward.

    Exit status 1: something came out otherwise; 3: another kind of machine sampled it.
    """
    from consumers.recompute.groups import verify_groups
    from consumers.recompute.index import Index, proof_topics
    from infra.connect import connect_log, connect_store

    if sum(one is not None for one in (wanted, version, mission)) != 1:
        raise typer.BadParameter("name one of: an ID, --version, --mission")
    config = settings()
    with progress("samples verify") as say:
        index = Index.read(connect_log(config), proof_topics(True), report=say)
        groups = _chosen(index, wanted, version, mission, last, policy)
        proofs = verify_groups(index, connect_store(config), groups, _sampler, say)
    if as_json:
        print(json.dumps([proof.model_dump() for proof in proofs]))
    else:
        _show(proofs)
    verdicts = [proof.verdict for proof in proofs]
    leave(verdicts.count("wrong"), verdicts.count("elsewhere"))


def _chosen(
    index: "Index",
    wanted: str | None,
    version: int | None,
    mission: str | None,
    last: int,
    policy: str | None,
) -> "list[Record]":
    from consumers.recompute.groups import find_groups, groups_of_version, last_of_mission

    if wanted is not None:
        return find_groups(index, wanted)
    if mission is not None:
        return last_of_mission(index, mission, last)
    return groups_of_version(index, version or 0, history_for(policy).policy)


def _sampler(policy: str) -> "Processor":
    from infra.cli.processors import factory

    return factory("sampler")(settings().model_copy(update={"policy": policy}))


def _show(proofs: "list[GroupProof]") -> None:
    equal = [proof for proof in proofs if proof.equal]
    others = [proof for proof in proofs if not proof.equal]
    for proof in equal[:FINDINGS] if len(proofs) <= FINDINGS else ():
        rollouts = f"{proof.rollouts} rollouts" if proof.rollouts else "its rollouts"
        print(f"  equal    {proof.at}  {proof.group_id}  version {proof.version}, {rollouts}")
    for proof in others[:FINDINGS]:
        print(f"  {proof.verdict:8} {proof.at}  {proof.group_id}  version {proof.version}")
        for why in proof.why:
            print(f"           {why}")
    print(f"{len(equal):,} of {len(proofs):,} groups came out equal, to the last bit")
