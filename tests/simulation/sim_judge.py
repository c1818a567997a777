"""What must hold when all is calm, whatever happened before."""

from collections import Counter

from sim_store import Checker
from sim_world import World

from consumers.audit.log import audit_log
from consumers.audit.report import AuditReport
from consumers.read import read
from consumers.recompute import CannotRecompute, NotReproduced, recompute_upload, recompute_version
from schemas.acting import Feedback
from schemas.learning import DeadLetter, GradientUpload, Problem, SampleGroup, WeightVersion
from schemas.records import Record

LETTERS = "dead-letter-once"
"""What a torn transaction may break: nobody looks whether a letter is there already."""
_PROOF = ("missions", "samples", "gradient-chunks", "weight-versions")


def judge(world: World, proofs: bool) -> None:
    """Note every breach in the world's tally."""
    report = _audit(world)
    if any(report.in_flight.model_dump().values()):
        world.breach(f"audit: on its way still: {report.in_flight}")
    _outcomes(world)
    _uses(world)
    if proofs:
        _proofs(world)


def judge_robot(world: World) -> None:
    """The same for the acting loop; a command is carried out once, and in time."""
    _audit(world)
    said: dict[tuple[str, int], Feedback] = {}
    for record in _records(world, "feedback"):
        if isinstance(record.event, Feedback):
            said.setdefault((record.event.boot_id, record.event.seq), record.event)
    applied = [o for one in said.values() for o in one.outcomes if o.outcome == "applied"]
    for id_, count in Counter((o.controller_epoch, o.seq) for o in applied).items():
        if count != 1:
            world.breach(f"command {id_} was carried out {count} times")
    for outcome in applied:
        if outcome.at_ms >= outcome.deadline_ms:
            world.breach(f"command {outcome.seq} was carried out after its deadline")


def _audit(world: World) -> AuditReport:
    report = audit_log(world.log, Checker(world.store))
    for one in report.invariants:
        if one.broken and not (one.name == LETTERS and world.tally.faults["torn"]):
            world.breach(f"audit: {one.name}: {'; '.join(one.first)}")
    return report


def _records(world: World, *topics: str) -> list[Record]:
    return [record for topic in topics for record in read(topic, log=world.log)]


def _outcomes(world: World) -> None:
    """Each problem has one outcome."""
    problems = {r.at: r.event for r in _records(world, "problems") if isinstance(r.event, Problem)}
    groups = [r.event for r in _records(world, "samples") if isinstance(r.event, SampleGroup)]
    letters = [r.event for r in _records(world, "dead-letters") if isinstance(r.event, DeadLetter)]
    dead = [problems[d.at].problem_id for d in letters if d.at in problems]
    outcomes = Counter([*(g.problem_id for g in groups), *dead])
    for problem in problems.values():
        if outcomes[problem.problem_id] != 1:
            world.breach(f"{problem.problem_id} has {outcomes[problem.problem_id]} outcomes")


def _uses(world: World) -> None:
    """Versions are gap-free, and no group is in two applied uploads."""
    records = _records(world, "gradient-chunks", "weight-versions")
    versions = [r.event for r in records if isinstance(r.event, WeightVersion)]
    if [v.version for v in versions] != list(range(len(versions))):
        world.breach(f"versions {[v.version for v in versions]}")
    uploads = {r.at: r.event for r in records if isinstance(r.event, GradientUpload)}
    applied = [uploads[a.at] for v in versions for a in v.uploads if a.at in uploads]
    uses = Counter(use.group_id for upload in applied for use in upload.groups)
    for group_id, count in uses.items():
        if count != 1:
            world.breach(f"group {group_id} was learnt from {count} times")


def _proofs(world: World) -> None:
    """Every version and every upload can be made again."""
    records = _records(world, *_PROOF)
    try:
        for record in records:
            event = record.event
            if isinstance(event, WeightVersion) and event.kind == "step":
                recompute_version(records, world.store, event.version)
            if isinstance(event, GradientUpload) and event.count("chunks"):
                recompute_upload(records, world.store, record.at)
    except (NotReproduced, CannotRecompute) as error:
        world.breach(f"proof: {error}")
