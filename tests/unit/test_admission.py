"""Which uploads a step may use, what may be swept, and what the log says of a policy."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from learning_steps import (
    CHUNK_BYTES,
    POLICY,
    layout_of,
    mission,
    prepared,
    shard_bytes,
    upload,
)

from infra.memory.store import MemoryStore
from schemas.learning import AppliedUpload, GradientUpload, GroupUse, Totals, WeightVersion
from schemas.missions import Keep
from streams.learning import janitor, keys
from streams.learning.admission import (
    LINEAGE,
    admissible_bases,
    advanced,
    chain,
    counted,
    gaps,
    lineage_of_child,
    mean_staleness,
    misfit,
    refusal,
    uncounted,
    unread,
)
from streams.learning.manifests import base_version

STORE = MemoryStore()
BASE = base_version(mission(), prepared(STORE, mission()), layout_of(shard_bytes()))


def version(number: int, lineage: list[int] | None = None, **changes: Any) -> WeightVersion:
    ancestors = list(range(number - 1, -1, -1)) if lineage is None else lineage
    fields = {
        "version": number,
        "lineage": ancestors,
        "parent": ancestors[0] if ancestors else None,
    }
    return BASE.model_copy(update={**fields, **changes})


def sent(base: int = 10, samples: tuple[int, int] = (0, 4), **changes: Any) -> GradientUpload:
    return upload(STORE, mission(), base, samples, **changes)


def reason(one: GradientUpload, head: WeightVersion, marks: dict[str, int] | None = None) -> Any:
    found = refusal(one, head, marks or {}, staleness_max=4) or misfit(one, head.layout)
    return found and found.reason


def test_the_newest_bases_are_admissible() -> None:
    head = version(10)
    assert [reason(sent(base), head) for base in (10, 8, 6)] == [None] * 3
    assert [reason(sent(base), head) for base in (5, 0)] == ["stale"] * 2
    assert admissible_bases(head, 4) == {10, 9, 8, 7, 6}


def test_staleness_is_counted_along_the_chain_and_not_in_numbers() -> None:
    # 20 is a rollback to 7: 8 to 19 are abandoned, 7 is one step back.
    head = version(20, lineage=[7, 6, 5, 4, 3, 2, 1, 0])
    assert [reason(sent(base), head) for base in (20, 7, 4)] == [None] * 3
    assert [reason(sent(base), head) for base in (19, 8, 21)] == ["abandoned"] * 3
    assert reason(sent(3), head) == "stale"


def test_a_base_older_than_the_lineage_is_stale() -> None:
    head = version(200, lineage=list(range(199, 135, -1)))
    assert reason(sent(100), head) == "stale"
    assert len(lineage_of_child(head, 4)) == LINEAGE
    assert lineage_of_child(head, 4)[:2] == [200, 199]
    assert len(lineage_of_child(version(200), 99)) == 100


def test_what_overlaps_a_mark_is_refused_whole() -> None:
    marks = {"samples-0": 8}
    assert reason(sent(samples=(4, 8)), version(10), marks) == "overlap"
    assert reason(sent(samples=(7, 12)), version(10), marks) == "overlap"
    assert reason(sent(samples=(8, 12)), version(10), marks) is None
    assert reason(sent(samples=(9, 12)), version(10), marks) is None
    # Overlap is said before staleness: what it repeats must not be counted again.
    assert reason(sent(base=0, samples=(4, 8)), version(10), marks) == "overlap"


def test_a_range_of_nothing_overlaps_nothing() -> None:
    one = sent(source={"samples-0": (8, 12), "samples-1": (3, 3)})
    assert reason(one, version(10), {"samples-0": 8, "samples-1": 5}) is None
    assert advanced({"samples-1": 5}, one.source) == {"samples-0": 12, "samples-1": 5}


@pytest.mark.parametrize(
    "changes", [{"chunks": []}, {"groups": []}, {"weight": 0.0}, {"source": {"samples-0": (4, 4)}}]
)
def test_an_upload_of_nothing_is_empty(changes: dict[str, Any]) -> None:
    assert reason(sent(**changes), version(10)) == "empty"


def test_other_chunks_than_the_layout_has_are_refused() -> None:
    good = sent()
    short = good.chunks[0].model_copy(update={"shape": (3,)})
    wide = good.chunks[0].model_copy(update={"dtype": "float64"})
    cut = good.chunks[0].model_copy(update={"size_bytes": CHUNK_BYTES - 1})
    for chunk in (short, wide, cut):
        assert reason(sent(chunks=[chunk, *good.chunks[1:]]), version(10)) == "layout"
    assert reason(sent(chunks=good.chunks[:-1]), version(10)) == "layout"


def test_uploads_of_two_kinds_do_not_join_one_step() -> None:
    layout = version(10).layout
    for kind, other in (("delta", "gradient"), ("gradient", "delta")):
        assert misfit(sent(kind=kind), layout) is None
        assert misfit(sent(kind=kind), layout, kind) is None
        found = misfit(sent(kind=kind), layout, other)
        assert found and found.reason == "layout" and f"of {other}s" in found.detail


def test_gaps_are_named() -> None:
    marks = {"samples-0": 4, "samples-1": 9}
    assert gaps(marks, {"samples-0": (6, 8), "samples-1": (9, 12), "samples-2": (5, 6)}) == [
        "samples-0: [4, 6)"
    ]


ranges = st.dictionaries(
    st.sampled_from(["samples-0", "samples-1"]),
    st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda t: (t[0], t[0] + t[1])),
    min_size=1,
)


@given(st.lists(ranges, max_size=12))
def test_no_offset_is_ever_used_twice(sources: list[dict[str, tuple[int, int]]]) -> None:
    marks: dict[str, int] = {}
    used: set[tuple[str, int]] = set()
    template = sent()
    for source in sources:
        one = template.model_copy(update={"source": source})
        why = refusal(one, version(10), marks, 4)
        covered = {(part, o) for part, (a, b) in source.items() for o in range(a, b)}
        if why is None:
            assert not covered & used
            used |= covered
        marks = advanced(marks, source)
    assert all(offset < marks[part] for part, offset in used)


def test_every_group_is_counted_once() -> None:
    totals = Totals()
    dropped = [{"group_id": "d", "at": "samples[0]@9", "reason": "stale"}]
    one = GradientUpload.model_validate(sent().model_dump() | {"dropped": dropped})
    for refused in (None, "stale", "empty"):
        totals = counted(totals, one, refused)
    totals = counted(totals, unread(one, {"samples-0": 4}), "overlap")
    assert totals == Totals(groups=15, samples=16, uploads=1, dropped=3, refused=8)
    returned = uncounted(counted(Totals(), one, None), one)
    assert returned == counted(Totals(), one, "abandoned")


def test_of_an_overlap_only_what_no_mark_has_passed_is_left() -> None:
    dropped = [
        {"group_id": "", "at": at, "reason": "unreadable"}
        for at in ("samples[0]@5", "samples[1]@2", "samples[1]@3", "somewhere", "samples[0]@9")
    ]
    changes = {"dropped": dropped, "source": {"samples-0": (0, 6), "samples-1": (2, 4)}}
    one = GradientUpload.model_validate(sent().model_dump() | changes)
    left = unread(one, {"samples-0": 2, "samples-1": 3})
    assert left.source == {"samples-0": (2, 6), "samples-1": (3, 4)}
    assert [use.at for use in left.groups] == ["samples[0]@2", "samples[0]@3"]
    assert [one.at for one in left.dropped] == ["samples[0]@5", "samples[1]@3"]
    nothing = unread(one, {"samples-0": 6, "samples-1": 9})
    assert (nothing.source, nothing.groups, nothing.dropped) == ({}, [], [])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=12))
def test_what_torn_transactions_repeat_leaves_no_group_uncounted(
    batches: list[tuple[int, int]],
) -> None:
    """Work is done again from some earlier offset, and the batch ends where it may."""
    marks, totals, end = {"samples-0": 0}, Totals(), 0
    for back, size in batches:
        since = max(0, end - back)
        one, end = sent(samples=(since, since + size)), max(end, since + size)
        why = refusal(one, version(10), marks, 4)
        left = unread(one, marks) if why else one
        totals = counted(totals, left, why.reason if why else None)
        marks = advanced(marks, left.source)
    assert marks == {"samples-0": end} and totals.groups == end
    assert totals.refused + totals.samples // 4 == end


def test_staleness_is_a_mean_over_rollouts() -> None:
    groups = [
        GroupUse(group_id="a", at="samples[0]@0", version=10, rollouts=3),
        GroupUse(group_id="b", at="samples[0]@1", version=8, rollouts=1),
    ]
    assert mean_staleness(groups, version(10)) == 0.5
    assert mean_staleness([], version(10)) is None
    assert mean_staleness(groups[1:], version(20, lineage=[9, 8, 7])) == 2.0
    assert chain(version(20, lineage=[9, 8, 7]))[2] == 8


def test_retention_keeps_newest_milestones_their_parents_and_ends_of_missions() -> None:
    versions = [version(n, mission_id="a" if n <= 33 else "b") for n in range(60)]
    kept = janitor.retained(versions, Keep(last=3, every=20), staleness_max=1)
    assert kept == {0, 57, 58, 59, 19, 20, 39, 40, 32, 33}
    assert janitor.to_expire(versions, Keep(last=3, every=20), 1) == sorted(set(range(60)) - kept)


def test_versions_that_uploads_may_be_based_on_are_kept() -> None:
    versions = [version(n) for n in range(30)]
    assert {26, 27, 28, 29} <= janitor.retained(versions, Keep(last=1, every=100), 3)


def test_retention_does_not_depend_on_when_it_is_asked() -> None:
    keep = Keep(last=3, every=20)
    left = [version(n) for n in range(30)]
    gone = set(janitor.to_expire(left, keep, 1))
    left = [v for v in left if v.version not in gone] + [version(n) for n in range(30, 60)]
    assert janitor.retained(left, keep, 1) == janitor.retained(
        [version(n) for n in range(60)], keep, 1
    )


def with_weights(number: int, key: str) -> WeightVersion:
    ref = STORE.put(key, b"w")
    return version(number, files={}, shards={"model.safetensors": ref}, optimizer={})


def test_weights_that_no_kept_version_names_are_dead() -> None:
    def at(number: int, content: str) -> str:
        return keys.weights_key(POLICY, number, content, "model.safetensors")

    # 4 is a rollback that shares the object of the expired version 2; 3 left an orphan.
    kept = [with_weights(3, at(3, "live")), with_weights(4, at(2, "shared"))]
    stored = [at(1, "old"), at(2, "shared"), at(3, "live"), at(3, "orphan"), at(5, "coming")]
    foreign = ["weights/main/README", "weights/main/x-y/model"]
    manifests = {keys.manifest_key(POLICY, n, "f" * 64) for n in (1, 3)}
    orphan = keys.manifest_key(POLICY, 3, "0" * 64)
    stored += [*foreign, *manifests, orphan]
    dead = janitor.dead_weights(POLICY, stored, kept, manifests)
    assert dead == [at(1, "old"), at(3, "orphan"), orphan]


def test_gradients_are_dead_when_no_step_may_use_them_and_no_proof_needs_them() -> None:
    def key(base: int, upload_id: str) -> str:
        return keys.gradient_key(POLICY, base, upload_id, 0, "0" * 64)

    proof = AppliedUpload(
        upload_id="proof",
        at="",
        record_sha256="0" * 64,
        base_version=2,
        weight=1,
        groups=1,
        dropped=0,
    )
    kept = [version(3, uploads=[proof]), version(10)]
    stored = [key(2, "proof"), key(2, "orphan"), key(3, "proof"), key(8, "u"), key(11, "u")]
    dead = janitor.dead_gradients(POLICY, [*stored, "gradients/main/2/x"], kept, {10, 9, 8})
    assert dead == [key(2, "orphan"), key(3, "proof")]


def test_keys_are_read_as_they_are_written() -> None:
    key = keys.gradient_key("a.b", 12, "u1", 3, "f" * 64)
    assert keys.base_and_upload("a.b", key) == (12, "u1")
    assert keys.base_and_upload("a", key) is None
    assert keys.version_of("a.b", keys.weights_key("a.b", 7, "cafe", "m.safetensors")) == 7
