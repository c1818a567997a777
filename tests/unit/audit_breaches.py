"""One breach each, to be planted in the valid log; the audit must name it and nothing else."""

from collections.abc import Callable

from audit_books import BookLog, applied, drop, evaluation, group, problem, refused, upload, use

from schemas.ids import problem_id
from schemas.learning import GradientUpload, Totals, VersionsExpired, WeightHead
from schemas.missions import MissionResult
from schemas.tensors import ObjectRef

Plant = Callable[[BookLog], None]


def other_problem_again(log: BookLog) -> None:
    log.put("x", log["p7"].event, number=1)


def same_index(log: BookLog) -> None:
    question = "another question"
    update = {"question": question, "problem_id": problem_id("m1", 0, question)}
    log.put("x", log["p7"].event.model_copy(update=update), number=1)


def problem_index(log: BookLog) -> None:
    log["p7"].edit(index=9)


def unknown_mission(log: BookLog) -> None:
    log["p7"].edit(mission_id="m9", index=0)


def result_of_another_policy(log: BookLog) -> None:
    log.put("x", MissionResult(mission_id="m2", policy="main", outcome="ended"))


def settled_twice(log: BookLog) -> None:
    # p3 is a dead letter and sampled, in the hole that its dead letter explains.
    slot = log["p3"]
    log.put("x", group(slot.event, 0, ("problems-0", 5, 6)), number=1)


def problem_lost(log: BookLog) -> None:
    # The source still covers what nothing came of.
    log.remove("g4")
    log["g6"].edit(source={"problems-0": (6, 8), "problems-1": (0, 1)})
    without_g4(log)


def without_g4(log: BookLog) -> None:
    """Take g4 out of its upload and of the sums."""
    log["u1"].edit(groups=[], source={"samples-0": (2, 4)})
    log["v2"].edit(marks={"samples-0": 4})
    for name in ("refusal", "v3"):
        log[name].edit(marks={"samples-0": 4, "samples-1": 1})
    recount(log)


def recount(log: BookLog) -> None:
    """Let versions tell of u1 as it now is."""
    u1: GradientUpload = log["u1"].event
    log["v2"].edit(uploads=[applied(log["u1"])])
    rollouts = sum(g.rollouts for g in u1.groups)
    groups, dropped = len(u1.groups) + len(u1.dropped), len(u1.dropped)
    four = Totals(groups=2 + groups, samples=4 + rollouts, uploads=2, dropped=dropped)
    five = four.model_copy(update={"groups": 3 + groups, "refused": 1})
    log["v2"].edit(totals=four)
    log["refusal"].edit(totals=five)
    log["v3"].edit(totals=five)


def problem_in_a_gap(log: BookLog) -> None:
    log.remove("g4")
    log.put("x", group(log["p5"].event, 0, ("problems-0", 8, 9)), number=1)
    without_g4(log)


def heldout_problem(log: BookLog) -> None:
    question = "question  1 of heldout"
    update = {"question": question, "problem_id": problem_id("m1", 0, question)}
    log["p7"].edit(**update)


def heldout_sample(log: BookLog) -> None:
    of = problem(0, mission_id="heldout").model_copy(update={"mission_id": "m1"})
    log.put("x", group(of, 1, ("problems-1", 2, 2)), number=1)


def group_of_no_problem(log: BookLog) -> None:
    of = problem(77)
    log.put("x", group(of, 1, ("problems-1", 2, 2)), number=1)


def group_of_another_mission(log: BookLog) -> None:
    log["g8"].edit(mission_id="m0")


def group_twice(log: BookLog) -> None:
    log.put("x", log["g8"].event, number=1)


def group_without_its_problem(log: BookLog) -> None:
    log["g8"].edit(source={"problems-1": (1, 1)})
    log.put("x", group(log["p7"].event, 1, ("problems-1", 1, 3)), number=1)


def samples_overlap(log: BookLog) -> None:
    log["g4"].edit(source={"problems-0": (3, 8)})


def samples_beyond_the_end(log: BookLog) -> None:
    log["g8"].edit(source={"problems-1": (1, 2), "problems-3": (0, 99)})


def samples_of_another_topic(log: BookLog) -> None:
    log["g8"].edit(source={"problems-1": (1, 2), "missions-0": (0, 1)})


def upload_of_nothing(log: BookLog) -> None:
    use_ = log["u3"].event.groups[0]
    log["u3"].edit(groups=[use_, use_.model_copy(update={"at": "samples[1]@9"})])


def upload_names_another_version(log: BookLog) -> None:
    use_ = log["u3"].event.groups[0]
    log["u3"].edit(groups=[use_.model_copy(update={"version": 0})])


def upload_outside_its_source(log: BookLog) -> None:
    log["u1"].edit(groups=[*log["u1"].event.groups, use(log["g8"])])
    log["u3"].edit(groups=[])
    recount(log)


def learnt_twice(log: BookLog) -> None:
    log["u1"].edit(groups=[*log["u1"].event.groups, use(log["g0"])])
    recount(log)


def learnt_and_dropped(log: BookLog) -> None:
    log["u1"].edit(dropped=[*log["u1"].event.dropped, drop(log["g4"], "stale")])
    recount(log)


def dead_and_learnt(log: BookLog) -> None:
    log.bury("x", "g0", "trainer")


def group_lost(log: BookLog) -> None:
    log["u1"].edit(dropped=[])
    recount(log)


def uploads_overlap(log: BookLog) -> None:
    # Offset 2 is the other policy's, so nothing is learnt twice.
    log["u0"].edit(source={"samples-0": (0, 3)})
    log["u0-again"].edit(source={"samples-0": (0, 3)})
    for name in ("v1", "overlap"):
        log[name].edit(marks={"samples-0": 3})


def group_in_a_gap(log: BookLog) -> None:
    log["u1"].edit(source={"samples-0": (4, 6)}, dropped=[])
    recount(log)


def uploads_beyond_the_end(log: BookLog) -> None:
    log["u3"].edit(source={"samples-1": (1, 99)})


def applied_elsewhere(log: BookLog) -> None:
    (one,) = log["v1"].event.uploads
    log["v1"].edit(uploads=[one.model_copy(update={"weight": 3.0})])


def refused_other_counts(log: BookLog) -> None:
    (one,) = log["overlap"].event.refused
    log["overlap"].edit(refused=[one.model_copy(update={"groups": 7})])


def applied_twice(log: BookLog) -> None:
    log["v2"].edit(uploads=[*log["v2"].event.uploads, applied(log["u0"])])
    log["v2"].edit(totals=Totals(groups=6, samples=10, uploads=3, dropped=1))
    last = Totals(groups=7, samples=10, uploads=3, dropped=1, refused=1)
    log["refusal"].edit(totals=last)
    log["v3"].edit(totals=last)


def applied_and_refused(log: BookLog) -> None:
    log["refusal"].edit(refused=[*log["refusal"].event.refused, refused(log["u0"], "overlap")])
    totals = log["v3"].event.totals
    # The fate of u0 is that it was applied, so the sums count it once more.
    more = totals.model_copy(update={"groups": 7, "samples": 10, "uploads": 3})
    log["refusal"].edit(totals=more)
    log["v3"].edit(totals=more)


def delta_by_the_optimizer(log: BookLog) -> None:
    log["u1"].edit(kind="delta")
    recount(log)


def upload_lost(log: BookLog) -> None:
    log["v3"].edit(resume={"gradient-chunks-0": 6})


def inadmissible(log: BookLog) -> None:
    # Version 2 applies an upload whose base is version 2's own future.
    log["u1"].edit(base_version=3)
    recount(log)


def unburied(log: BookLog) -> None:
    log.remove("letter-corrupt")


def unburied_upload(log: BookLog) -> None:
    log.put("x", b"{", topic="gradient-chunks")
    log.put("y", upload(log, "u9", 1, {"samples-1": (2, 2)}))
    log["y"].edit(chunks=[])
    log["refusal"].edit(refused=[*log["refusal"].event.refused, refused(log["y"], "empty")])
    log["refusal"].edit(refused=[*log["refusal"].event.refused, refused(log["u3"], "layout")])
    totals = log["v3"].event.totals.model_copy(update={"groups": 6, "refused": 2})
    marks = {"samples-0": 6, "samples-1": 2}
    for name in ("refusal", "v3"):
        log[name].edit(totals=totals, marks=marks, resume={"gradient-chunks-0": 8})


def version_skipped(log: BookLog) -> None:
    log["v3"].edit(version=4, previous=3)
    log["h3"].edit(version=4)
    log["e3"].edit(version=4)


def version_twice(log: BookLog) -> None:
    log.put("x", log["ov0"].event, number=1)


def version_previous(log: BookLog) -> None:
    log["v3"].edit(previous=1)


def step_beside_its_parent(log: BookLog) -> None:
    log["v2"].edit(parent=0, lineage=[0])


def lineage(log: BookLog) -> None:
    log["v3"].edit(lineage=[1, 7])


def lineage_too_short(log: BookLog) -> None:
    log["v2"].edit(lineage=[1])
    log["u1"].edit(base_version=1)
    recount(log)


def totals(log: BookLog) -> None:
    log["v3"].edit(totals=log["v3"].event.totals.model_copy(update={"samples": 7}))


def marks(log: BookLog) -> None:
    log["v3"].edit(marks={"samples-0": 6, "samples-1": 2})


def resume_goes_back(log: BookLog) -> None:
    log["v3"].edit(resume={"gradient-chunks-0": 2})


def resume_before_the_settled(log: BookLog) -> None:
    log["v1"].edit(resume={"gradient-chunks-0": 0})


def resume_beyond_the_end(log: BookLog) -> None:
    log["v3"].edit(resume={"gradient-chunks-0": 4, "gradient-chunks-2": 5})


def evaluated_version(log: BookLog) -> None:
    log.put("x", evaluation(9))


def sampled_version(log: BookLog) -> None:
    log["g8"].edit(version=9)
    log["u3"].edit(groups=[use(log["g8"])])


def uploaded_base(log: BookLog) -> None:
    log["u3"].edit(base_version=9)


def result_version(log: BookLog) -> None:
    log["result"].edit(final_version=9)


def expired_version(log: BookLog) -> None:
    log.put("x", VersionsExpired(policy="main", versions=[9]))


def head_behind(log: BookLog) -> None:
    log.remove("h3")


def head_ahead(log: BookLog) -> None:
    log.put("x", WeightHead(policy="main", version=4))


def object_missing(log: BookLog) -> None:
    del log.store.objects["weights/main/2-x/model"]


def object_changed(log: BookLog) -> None:
    log.store.objects["gradients/main/0/u1/0"] = b"other"


def object_of_another_size(log: BookLog) -> None:
    (chunk,) = log["u3"].event.chunks
    log["u3"].edit(chunks=[chunk.model_copy(update={"size_bytes": 5})])


def shared_object_missing(log: BookLog) -> None:
    # Version 1 is expired, but version 3 was rolled back to it.
    del log.store.objects["weights/main/1-x/model"]


def heldout_missing(log: BookLog) -> None:
    del log.store.objects["missions/m1/heldout.jsonl"]


def rollouts_missing(log: BookLog) -> None:
    log["g8"].edit(rollouts_ref=ObjectRef(key="rollouts/g8", sha256="2" * 64, size_bytes=9))


def letter_of_other_bytes(log: BookLog) -> None:
    log["letter-corrupt"].edit(value_base64="e30=")


def letter_of_nothing(log: BookLog) -> None:
    log.put("x", log["letter-p3"].event.model_copy(update={"origin_offset": 44}))
    log["x"].edit(at="problems[0]@44")


def letter_at_odds(log: BookLog) -> None:
    log["letter-p3"].edit(at="problems[0]@4")


def no_letter(log: BookLog) -> None:
    log.put("x", b"?", topic="dead-letters")


def letter_twice(log: BookLog) -> None:
    log.put("x", log["letter-p3"].event)


def letter_settled_twice(log: BookLog) -> None:
    log.settle("x", "letter-corrupt")


def nothing_settled(log: BookLog) -> None:
    log.settle("x", "letter-p3")
    log["x"].edit(letter="dead-letters[0]@44")


def letter_of_another_record(log: BookLog) -> None:
    log["dropped-corrupt"].edit(origin=log["p3"].at)


def record_sent_for_two_letters(log: BookLog) -> None:
    log.put("letter-e-again", log["letter-e"].event.model_copy(update={"processor": "other"}))
    # What does not decode may be buried for each policy.
    log.put("x", evaluation(0))
    log.settle("requeued-again", "letter-e-again", "x")


def sent_without_a_word(log: BookLog) -> None:
    log.put("x", evaluation(0)).headers["requeue-of"] = log["letter-corrupt"].at.encode()


def sent_twice(log: BookLog) -> None:
    log.put("x", evaluation(0)).headers.update(log["mended-e"].headers)


def sent_other_bytes(log: BookLog) -> None:
    log["requeued-e"].edit(value_sha256="1" * 64)


def sent_nowhere(log: BookLog) -> None:
    log["mended-e"].headers.clear()


def two_results(log: BookLog) -> None:
    log.put("x", MissionResult(mission_id="m0", policy="main", outcome="ended"))


def applied_other_bytes(log: BookLog) -> None:
    (one,) = log["v2"].event.uploads
    log["v2"].edit(uploads=[one.model_copy(update={"record_sha256": "1" * 64})])


def another_parent(log: BookLog) -> None:
    log["v3"].edit(parent_sha256="1" * 64)


def version_tampered_with(log: BookLog) -> None:
    log["v1"].edit(reason="better")


BREACHES: list[tuple[str, Plant]] = [
    ("problem-once", other_problem_again),
    ("problem-once", same_index),
    ("problem-index", problem_index),
    ("mission-known", unknown_mission),
    ("mission-known", result_of_another_policy),
    ("problem-settled-once", settled_twice),
    ("problem-lost", problem_lost),
    ("samples-source-gap", problem_in_a_gap),
    ("heldout-apart", heldout_problem),
    ("heldout-apart", heldout_sample),
    ("group-of-problem", group_of_no_problem),
    ("group-of-problem", group_of_another_mission),
    ("group-once", group_twice),
    ("group-source", group_without_its_problem),
    ("samples-source-overlap", samples_overlap),
    ("samples-source-end", samples_beyond_the_end),
    ("samples-source-end", samples_of_another_topic),
    ("upload-of-groups", upload_of_nothing),
    ("upload-of-groups", upload_names_another_version),
    ("upload-of-groups", upload_outside_its_source),
    ("group-learnt-once", learnt_twice),
    ("group-settled-once", learnt_and_dropped),
    ("group-settled-once", dead_and_learnt),
    ("group-lost", group_lost),
    ("uploads-source-overlap", uploads_overlap),
    ("uploads-source-gap", group_in_a_gap),
    ("uploads-source-end", uploads_beyond_the_end),
    ("settled-upload", applied_elsewhere),
    ("settled-upload", refused_other_counts),
    ("upload-once", applied_twice),
    ("upload-settled-once", applied_and_refused),
    ("upload-kind", delta_by_the_optimizer),
    ("upload-lost", upload_lost),
    ("upload-admissible", inadmissible),
    ("undecodable-buried", unburied),
    ("undecodable-buried", unburied_upload),
    ("version-sequence", version_skipped),
    ("version-sequence", version_twice),
    ("version-previous", version_previous),
    ("version-parent", step_beside_its_parent),
    ("version-lineage", lineage),
    ("version-lineage", lineage_too_short),
    ("version-totals", totals),
    ("version-marks", marks),
    ("version-resume", resume_goes_back),
    ("version-resume", resume_before_the_settled),
    ("version-resume", resume_beyond_the_end),
    ("version-named", evaluated_version),
    ("version-named", sampled_version),
    ("version-named", uploaded_base),
    ("version-named", result_version),
    ("version-named", expired_version),
    ("weight-head", head_behind),
    ("weight-head", head_ahead),
    ("reference", object_missing),
    ("reference", object_changed),
    ("reference", object_of_another_size),
    ("reference", shared_object_missing),
    ("reference", heldout_missing),
    ("reference", rollouts_missing),
    ("dead-letter-origin", letter_of_other_bytes),
    ("dead-letter-origin", letter_of_nothing),
    ("dead-letter-origin", letter_at_odds),
    ("dead-letter-origin", no_letter),
    ("dead-letter-once", letter_twice),
    ("letter-settled-once", letter_settled_twice),
    ("letter-settled-once", nothing_settled),
    ("letter-settled-once", letter_of_another_record),
    ("letter-settled-once", record_sent_for_two_letters),
    ("letter-requeued-once", sent_without_a_word),
    ("letter-requeued-once", sent_twice),
    ("letter-requeued-once", sent_other_bytes),
    ("letter-lost", sent_nowhere),
    ("mission-result-once", two_results),
]

SEALED: list[tuple[str, Plant]] = [
    ("settled-upload", applied_other_bytes),
    ("version-parent", another_parent),
    ("version-parent", version_tampered_with),
]
"""Breaches of hashes: planted after these were taken."""
