"""The object store: what S3 servers and the memory double must both do, and a sandbox on either."""

from pathlib import Path

import pytest

from infra.overlay import OverlayStore
from infra.store import Bucket, MissingObject, ObjectStore
from schemas.effects import BadObject
from schemas.ids import digest

LARGE_BYTES = 12 * 2**20
"""More than one part of a multipart upload (5 MiB)."""


@pytest.fixture(params=["plain", "sandbox"])
def store(store: Bucket, request: pytest.FixtureRequest) -> ObjectStore:
    """The store of the cluster, as it is and as a sandbox sees it."""
    return store if request.param == "plain" else OverlayStore(store, "sandbox.s./")


def test_what_was_put_comes_back(store: ObjectStore) -> None:
    ref = store.put("a/b.bin", b"\x00\xffbytes")
    assert (ref.key, ref.size_bytes, ref.sha256) == ("a/b.bin", 7, digest(b"\x00\xffbytes"))
    assert store.get(ref) == b"\x00\xffbytes"


def test_an_empty_object_is_an_object(store: ObjectStore, tmp_path: Path) -> None:
    ref = store.put("empty", b"")
    assert store.get(ref) == b""
    assert store.get_file(ref, tmp_path / "empty").read_bytes() == b""


def test_a_second_put_replaces(store: ObjectStore) -> None:
    old = store.put("a", b"old")
    new = store.put("a", b"new")
    assert store.get(new) == b"new"
    with pytest.raises(BadObject, match="a: sha256"):
        store.get(old)


def test_what_is_missing_is_named(store: ObjectStore, tmp_path: Path) -> None:
    ref = store.put("here", b"x").model_copy(update={"key": "not/here"})
    with pytest.raises(MissingObject, match="not/here"):
        store.get(ref)
    with pytest.raises(MissingObject, match="not/here"):
        store.get_file(ref, tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_hash_is_refused_and_leaves_no_file(store: ObjectStore, tmp_path: Path) -> None:
    ref = store.put("a", b"good").model_copy(update={"sha256": digest(b"else")})
    with pytest.raises(BadObject):
        store.get(ref)
    with pytest.raises(BadObject):
        store.get_file(ref, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_keys_are_listed_in_order_below_a_prefix(store: ObjectStore) -> None:
    names = ["b/2", "b/10", "b/1", "a/1", "b-other", "c"]
    for name in names:
        store.put(name, b"x")
    assert list(store.keys("b/")) == ["b/1", "b/10", "b/2"]
    assert list(store.keys()) == sorted(names)
    assert list(store.keys("nothing/")) == []


def test_more_keys_than_one_page(store: ObjectStore) -> None:
    names = [f"many/{n:04}" for n in range(1010)]
    for name in names:
        store.put(name, b"")
    assert list(store.keys("many/")) == names
    store.delete(names)
    assert list(store.keys("many/")) == []


def test_deleting_what_is_not_there_is_fine(store: ObjectStore) -> None:
    ref = store.put("a", b"x")
    store.delete(["a", "never/was"])
    store.delete(["a"])
    store.delete([])
    with pytest.raises(MissingObject):
        store.get(ref)


def test_a_key_is_taken_as_it_is(store: ObjectStore) -> None:
    ref = store.put("weights/main v1/ä+%20=x.bin", b"odd")
    assert list(store.keys("weights/")) == [ref.key]
    assert store.get(ref) == b"odd"


def test_a_large_file_makes_the_round_trip(store: ObjectStore, tmp_path: Path) -> None:
    pattern = bytes(range(256)) * 4096 + b"odd length"
    (source := tmp_path / "source").write_bytes(pattern * (LARGE_BYTES // len(pattern) + 1))
    ref = store.put("large", source)
    assert ref.size_bytes == source.stat().st_size > LARGE_BYTES
    copy = store.get_file(ref, tmp_path / "copy")
    assert copy == tmp_path / "copy"
    assert copy.read_bytes() == source.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "source"]


def test_a_file_is_replaced_whole(store: ObjectStore, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"a longer text that was there before")
    store.get_file(store.put("short", b"short"), target)
    assert target.read_bytes() == b"short"
