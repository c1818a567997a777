"""Which uploads a step may use: pure functions of the upload, the head and the high marks.

Derived from the log alone, never from counters of a process, so a restart cannot change it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.base import Sources
from schemas.learning import GradientUpload, GroupUse, Layout, RefusedUpload, Totals, WeightVersion
from schemas.records import parse_at
from streams.learning.fold import element_bytes
from streams.learning.layout import chunk_ranges

Reason = Literal["stale", "abandoned", "overlap", "layout", "unreadable", "empty"]
LINEAGE = 64
"""Ancestors named in a manifest at least."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no step will use an upload."""

    reason: Reason
    detail: str


def refusal(
    upload: GradientUpload, head: WeightVersion, marks: Mapping[str, int], staleness_max: int
) -> Refusal | None:
    """Why this upload must be refused whatever its chunks are, or None.

    Those of a stale one may have been swept, their list too, so they are not asked for.
    """
    return (
        _overlap(upload.source, marks)
        or _empty(upload)
        or _base(upload.base_version, head, staleness_max)
    )


def chain(head: WeightVersion) -> list[int]:
    """The versions whose content the head continues, itself first, as far as it lists them."""
    return [head.version, *head.lineage]


def lineage_of_child(parent: WeightVersion, staleness_max: int) -> list[int]:
    """The lineage of a version that continues this parent."""
    return chain(parent)[: max(LINEAGE, staleness_max + 1)]


def admissible_bases(head: WeightVersion, staleness_max: int) -> set[int]:
    """The base versions that an upload may have now."""
    return set(chain(head)[: staleness_max + 1])


def advanced(marks: Mapping[str, int], source: Sources) -> dict[str, int]:
    """The high marks after an upload that covers `source`."""
    moved = {
        part: max(marks.get(part, 0), to) for part, (since, to) in source.items() if since < to
    }
    return {**marks, **moved}


def gaps(marks: Mapping[str, int], source: Sources) -> list[str]:
    """Ranges between a mark and the source, which no upload covers: each is an alarm."""
    return [
        f"{part}: [{marks[part]}, {since})"
        for part, (since, to) in sorted(source.items())
        if part in marks and marks[part] < since < to
    ]


def unread(upload: GradientUpload, marks: Mapping[str, int]) -> GradientUpload:
    """An upload reduced to what no mark has passed: all that an overlapping one accounts for.

    Work done again, after a torn transaction or when the trainers' offsets were reset or expired,
    may take more records than before. They read on behind it, so nobody else will name the rest.
    """
    ranges = {p: (max(since, marks.get(p, 0)), to) for p, (since, to) in upload.source.items()}
    left = {part: (since, to) for part, (since, to) in ranges.items() if since < to}
    return upload.model_copy(
        update={
            "source": left,
            "groups": [group for group in upload.groups if _lies_in(left, group.at)],
            "dropped": [group for group in upload.dropped if _lies_in(left, group.at)],
        }
    )


def counted(totals: Totals, upload: GradientUpload, refused: Reason | None) -> Totals:
    """The policy's totals after an upload."""
    used = 0 if refused else 1
    return Totals(
        groups=totals.groups + len(upload.groups) + len(upload.dropped),
        samples=totals.samples + used * sum(group.rollouts for group in upload.groups),
        uploads=totals.uploads + used,
        dropped=totals.dropped + len(upload.dropped),
        refused=totals.refused + (0 if used else len(upload.groups)),
    )


def uncounted(totals: Totals, upload: GradientUpload) -> Totals:
    """The totals when an upload that had joined a step is refused after all."""
    return totals.model_copy(
        update={
            "samples": totals.samples - sum(group.rollouts for group in upload.groups),
            "uploads": totals.uploads - 1,
            "refused": totals.refused + len(upload.groups),
        }
    )


def refused_upload(upload: GradientUpload, at: str, why: Refusal) -> RefusedUpload:
    """How a refusal is published."""
    return RefusedUpload(
        upload_id=upload.upload_id,
        at=at,
        reason=why.reason,
        detail=why.detail,
        groups=len(upload.groups),
        dropped=len(upload.dropped),
    )


def mean_staleness(groups: Sequence[GroupUse], parent: WeightVersion) -> float | None:
    """Steps along the chain from what sampled a rollout to the parent, mean over rollouts."""
    rollouts = sum(group.rollouts for group in groups)
    if not rollouts:
        return None
    ancestors = chain(parent)
    behind = {version: steps for steps, version in enumerate(ancestors)}
    steps = (behind.get(g.version, len(ancestors)) * g.rollouts for g in groups)
    return sum(steps) / rollouts


def _lies_in(source: Sources, at: str) -> bool:
    try:
        partition, offset = parse_at(at)
    except ValueError:
        return False
    since, to = source.get(str(partition), (0, 0))
    return since <= offset < to


def _overlap(source: Sources, marks: Mapping[str, int]) -> Refusal | None:
    ranges = {part: (since, to) for part, (since, to) in sorted(source.items()) if since < to}
    for part, (since, to) in ranges.items():
        if since < marks.get(part, 0):
            return Refusal("overlap", f"{part} [{since}, {to}): read up to {marks[part]} already")
    return None


def _empty(upload: GradientUpload) -> Refusal | None:
    chunks = upload.count("chunks")
    if not chunks or not upload.groups:
        return Refusal("empty", f"{len(upload.groups)} groups, {chunks} chunks")
    if not any(since < to for since, to in upload.source.values()):
        return Refusal("empty", "it names no range of the log, so it could be counted twice")
    if upload.weight <= 0:
        return Refusal("empty", f"its weight is {upload.weight}")
    return None


def _base(base: int, head: WeightVersion, staleness_max: int) -> Refusal | None:
    known = chain(head)
    if base in known:
        steps = known.index(base)
        if steps <= staleness_max:
            return None
        return Refusal("stale", f"base {base} is {steps} steps back, {staleness_max} are allowed")
    if base < known[-1]:
        return Refusal("stale", f"base {base} is more than {len(known) - 1} steps back")
    return Refusal("abandoned", f"base {base} is not on the chain of version {head.version}")


def misfit(upload: GradientUpload, layout: Layout, kind: str | None = None) -> Refusal | None:
    """Why the chunks of an upload, all of them in the event, cannot be applied, or None.

    `kind` is that of the uploads of the open step, where there is one.
    """
    if kind not in (None, upload.kind):
        return Refusal("layout", f"a {upload.kind} cannot join the open step, which is of {kind}s")
    ranges = chunk_ranges(layout.parameters, layout.chunk_elements)
    if len(ranges) != len(upload.chunks):
        return Refusal("layout", f"{len(upload.chunks)} chunks, the layout has {len(ranges)}")
    for index, (ref, (start, stop)) in enumerate(zip(upload.chunks, ranges, strict=True)):
        size = element_bytes(ref.dtype)
        if size is None or ref.shape != (stop - start,) or ref.size_bytes != size * (stop - start):
            return Refusal(
                "layout",
                f"chunk {index} is {ref.dtype} {list(ref.shape)} in {ref.size_bytes} bytes, the "
                f"layout has {stop - start} elements there",
            )
    return None
