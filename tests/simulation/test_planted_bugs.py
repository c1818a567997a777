"""The simulation finds what it is there for: each of these bugs is caught within a few seeds."""

from pathlib import Path
from typing import Any

import pytest
from sim_seeds import run_seed
from sim_world import Odds

from infra import driver, interpreter
from infra.driver import Driver
from infra.intake import Taken
from infra.log import LogError
from infra.publisher import Publisher
from schemas.effects import Put
from schemas.ids import digest
from schemas.tensors import ObjectRef
from streams.learning import aggregator

pytestmark = pytest.mark.slow


def caught_within(seeds: int, odds: Odds | None = None) -> list[str]:
    """The breaches of the first seed that has any."""
    odds = odds or Odds()
    for seed in range(1, seeds + 1):
        outcome = run_seed(seed, planted=odds)
        if outcome.tally.breaches:
            return outcome.tally.breaches
    pytest.fail(f"not caught within {seeds} seeds")


def test_a_missed_dedupe_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = aggregator.refusal

    def blind(*args: Any) -> Any:
        found = refusal(*args)
        return None if found is not None and found.reason == "overlap" else found

    monkeypatch.setattr(aggregator, "refusal", blind)
    # More requests than else arrive twice: one of them is to tear a trainer's transaction.
    breaches = caught_within(100, Odds(twice=0.6, torn=1.0))
    assert any("uploads-source-overlap" in text for text in breaches)


def test_an_offset_committed_early_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    note = Driver._note_attempt

    def early(self: Driver, taken: Taken) -> None:
        note(self, taken)
        try:
            self._reader.commit(self._positions.at(taken.after))
        except LogError:
            return

    monkeypatch.setattr(Driver, "_note_attempt", early)
    assert caught_within(60)


def test_an_announcement_before_its_object_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[tuple[Any, str, bytes]] = []
    publish = Publisher.publish

    def perform(effect: Any, store: Any, outputs: Any) -> Any:
        if not isinstance(effect, Put):
            return interpreter.perform(effect, store, outputs)
        data = effect.data.read_bytes() if isinstance(effect.data, Path) else effect.data
        late.append((store, effect.key, data))
        return ObjectRef(key=effect.key, sha256=digest(data), size_bytes=len(data))

    def publish_first(self: Publisher, *args: Any) -> None:
        mine = late.copy()
        late.clear()
        publish(self, *args)
        for store, key, data in mine:
            store.put(key, data)

    monkeypatch.setattr(driver, "perform", perform)
    monkeypatch.setattr(Publisher, "publish", publish_first)
    assert caught_within(60)
