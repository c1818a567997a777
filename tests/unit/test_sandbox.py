"""Sandboxes: names, settings, and a store in which the original cannot be changed."""

from pathlib import Path

import pytest

from infra.connect import connect_store
from infra.memory.store import MemoryStore
from infra.overlay import OverlayStore
from infra.sandbox import settings_for
from infra.settings import Settings, SettingsError
from infra.store import MissingObject, S3Store


@pytest.fixture
def original() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def inside(original: MemoryStore) -> OverlayStore:
    return OverlayStore(original, "sandbox.s./")


def test_what_the_original_has_is_read(
    original: MemoryStore, inside: OverlayStore, tmp_path: Path
) -> None:
    ref = original.put("weights/0/a", b"old")
    assert inside.get(ref) == b"old"
    assert inside.get_file(ref, tmp_path / "a").read_bytes() == b"old"


def test_what_a_sandbox_writes_replaces_nothing(
    original: MemoryStore, inside: OverlayStore
) -> None:
    old, new = original.put("a", b"old"), inside.put("a", b"new")
    assert new.key == "a"
    assert (original.get(old), inside.get(new)) == (b"old", b"new")
    assert list(original.keys()) == ["a", "sandbox.s./a"]


def test_what_a_sandbox_sweeps_is_its_own(original: MemoryStore, inside: OverlayStore) -> None:
    old, ours = original.put("weights/a", b"old"), inside.put("weights/b", b"ours")
    assert list(inside.keys("weights/")) == ["weights/b"]
    inside.delete(["weights/a", "weights/b"])
    assert inside.get(old) == original.get(old) == b"old"
    with pytest.raises(MissingObject, match="object weights/b"):
        inside.get(ours)


def test_two_sandboxes_do_not_see_each_other(original: MemoryStore) -> None:
    one, two = (OverlayStore(original, f"sandbox.{name}./") for name in ("s", "s2"))
    ref = one.put("a", b"x")
    assert list(two.keys()) == []
    with pytest.raises(MissingObject):
        two.get(ref)


@pytest.mark.parametrize("name", ["", "A", "a.b", "a/b", "-a", "a" * 61])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="a name is"):
        settings_for(Settings(), name)


def test_a_sandbox_in_a_sandbox_is_refused() -> None:
    inside = settings_for(Settings(), "one")
    assert inside.namespace == "sandbox.one."
    with pytest.raises(SettingsError, match="is a sandbox itself"):
        settings_for(inside, "two")


def test_only_a_sandbox_has_an_overlay() -> None:
    s3 = {"endpoint": "127.0.0.1:9", "access_key": "a", "secret_key": "b"}
    config = Settings.model_validate({"s3": s3})
    assert isinstance(connect_store(config), S3Store)
    assert isinstance(connect_store(settings_for(config, "one")), OverlayStore)
