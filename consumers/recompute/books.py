"""Continuity: what a version says was read follows from the version before it and its uploads.

Each partition's ranges of samples adjoin: none is covered twice, none left out; what an upload
covers it learnt from or dropped; marks, totals and where to resume are the sums.
"""

from collections.abc import Iterator, Mapping

from consumers.recompute.evidence import completed
from consumers.recompute.index import Index
from infra.store import ObjectStore
from schemas.learning import (
    AppliedUpload,
    Dropped,
    GradientUpload,
    GroupUse,
    RefusedUpload,
    SampleGroup,
    UploadsRefused,
    WeightVersion,
)
from schemas.records import Record
from streams.learning.admission import gaps, unread
from streams.learning.ledger import Ledger

Move = WeightVersion | UploadsRefused
Fault = tuple[str, str]
"""Where it lies, and what is wrong."""


def settled(move: Move) -> dict[str, AppliedUpload | RefusedUpload]:
    """The uploads that a version or a refusal (with all its fields) accounts for, by place."""
    named: list[AppliedUpload | RefusedUpload] = [*move.refused]
    if isinstance(move, WeightVersion):
        named += move.uploads
    return {one.at: one for one in named}


def follow(index: Index, before: Ledger, record: Record, move: Move) -> tuple[list[Fault], Ledger]:
    """What does not follow from the ledger before it, and the ledger that does follow.

    `move` has all its fields.
    """
    found: list[Fault] = []
    if isinstance(move, WeightVersion):
        found += _sequence(before, record, move)
    ledger, named = before, settled(move)
    for name, to in sorted(move.resume.items()):
        for read in index.between(name, before.resume.get(name, 0), to):
            upload, one = read.event, named.pop(read.at, None)
            ledger = ledger.past(read)
            if not isinstance(upload, GradientUpload):
                continue
            if one is None:
                if read.at not in index.dead:
                    why = f"{read.at} was read, and is neither applied nor refused"
                    found.append((record.at, why))
                continue
            reason = one.reason if isinstance(one, RefusedUpload) else None
            found += _upload(index, ledger, read, upload, one)
            if reason == "overlap":
                upload = unread(upload, ledger.marks)
            ledger = ledger.with_upload(upload, reason)
    no_upload = "which is no upload between its resume offsets"
    found += [(record.at, f"it names {at}, {no_upload}") for at in named]
    found += _sums(record, move, ledger)
    return found, ledger.after(move, record.value or b"") if not found else ledger


def _sequence(before: Ledger, record: Record, move: WeightVersion) -> Iterator[Fault]:
    due = before.head.version + 1 if before.head else 0
    if move.version != due:
        yield record.at, f"version {move.version} where {due} was due: its number, or one is gone"
    if move.previous != (move.version - 1 if move.version else None):
        yield record.at, f"version {move.version} names {move.previous} as the previous one"
    if (move.parent is None) != (move.kind == "base"):
        yield record.at, f"a {move.kind} with parent {move.parent}"
    if move.kind == "step" and move.parent != move.previous:
        yield record.at, f"a step from {move.parent}, the head was {move.previous}"


def _upload(
    index: Index,
    ledger: Ledger,
    read: Record,
    upload: GradientUpload,
    one: AppliedUpload | RefusedUpload,
) -> Iterator[Fault]:
    if one.upload_id != upload.upload_id:
        yield read.at, f"it is upload {upload.upload_id}, {one.upload_id} is said to lie there"
    if isinstance(one, AppliedUpload):
        says = (one.base_version, one.weight, one.groups, one.dropped)
        has = (upload.base_version, upload.weight, len(upload.groups), len(upload.dropped))
        if says != has:
            yield read.at, f"base, weight, groups and dropped are {has}, the version says {says}"
        for part, (since, to) in upload.source.items():
            if since < to and since < ledger.marks.get(part, 0):
                mark = ledger.marks[part]
                yield read.at, f"{part} [{since}, {to}): read up to {mark} before, so twice"
    yield from _left_out(index, ledger.marks, read, upload)


def _left_out(
    index: Index, marks: Mapping[str, int], read: Record, upload: GradientUpload
) -> Iterator[Fault]:
    """Groups between the mark and the upload's range, which nothing accounts for."""
    for gap in gaps({**dict.fromkeys(upload.source, 0), **marks}, upload.source):
        name, _, span = gap.partition(": ")
        start, stop = map(int, span.strip("[)").split(", "))
        for sample in index.between(name, start, stop):
            if isinstance(sample.event, SampleGroup) and sample.at not in index.dead:
                yield read.at, f"{gap}: no upload covers {sample.at}"
                break


def _sums(record: Record, move: Move, ledger: Ledger) -> Iterator[Fault]:
    expected = {"marks": ledger.marks, "resume": ledger.resume, "totals": ledger.totals}
    for name, value in expected.items():
        if (says := getattr(move, name)) != value:
            yield record.at, f"{name} is {says!r}, its uploads come to {value!r}"


def listing_faults(index: Index, read: Record, upload: GradientUpload) -> Iterator[Fault]:
    """What an upload covers and does not list, or lists and does not cover."""
    used: list[GroupUse | Dropped] = [*upload.groups, *upload.dropped]
    listed = {one.at: one.group_id for one in used}
    if len(listed) != len(upload.groups) + len(upload.dropped):
        yield read.at, "it lists a group twice"
    for name, (start, stop) in upload.source.items():
        for sample in index.between(name, start, stop):
            group_id = listed.pop(sample.at, None)
            event = sample.event
            if isinstance(event, SampleGroup) and group_id not in (event.group_id, ""):
                said = f"as {group_id}" if group_id else "not"
                yield read.at, f"{sample.at}, group {event.group_id}, is listed {said}"
            elif event is None and group_id:
                yield sample.at, f"it does not decode; {read.at} learnt of group {group_id} there"
    for at in listed:
        if index.at(at) is None and at in index.dead:
            continue
        yield read.at, f"it lists {at}, which is no record between its offsets"


def whole_move(move: Move, store: ObjectStore, at: str) -> Move:
    """A version with all its fields, a refusal as it is; raises as `completed`."""
    return completed(move, store, at) if isinstance(move, WeightVersion) else move
