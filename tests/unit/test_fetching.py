"""Fetching for a robot: a store may be away for a while."""

import pytest

from infra.memory.store import MemoryStore
from infra.robot.fetching import EVERY_S, patient_fetch
from infra.store import MissingObject
from schemas.effects import BadObject


def test_an_object_that_comes_late_is_waited_for_so_long() -> None:
    store, waited = MemoryStore(), list[float]()
    ref = store.put("k", b"policy")
    del store.objects["k"]

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            store.put("k", b"policy")

    assert patient_fetch(lambda: store, 5, sleep)(ref) == b"policy"
    assert waited == [EVERY_S, EVERY_S]


def test_what_never_comes_is_given_up() -> None:
    waited = list[float]()
    store = MemoryStore()
    ref = store.put("k", b"policy")
    store.objects.clear()
    with pytest.raises(MissingObject):
        patient_fetch(lambda: store, 4, waited.append)(ref)
    assert len(waited) == 3


def test_what_hashes_wrong_is_not_tried_again() -> None:
    waited = list[float]()
    store = MemoryStore()
    ref = store.put("k", b"policy")
    store.objects["k"] = b"p0licy"
    with pytest.raises(BadObject):
        patient_fetch(lambda: store, 4, waited.append)(ref)
    assert not waited
