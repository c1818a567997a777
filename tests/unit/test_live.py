from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.cli import live
from infra.memory.log import MemoryLog
from infra.settings import settings
from schemas.topics import TOPICS


@pytest.fixture(autouse=True)
def _no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv("RALO_KAFKA__BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("RALO_STATE_DIR", str(tmp_path))
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_nobody_watches_what_was_taken_down() -> None:
    log = MemoryLog()
    log.provision(list(TOPICS.values()))
    with pytest.raises(live.Stopped, match="`ralo up` goes on"):
        live.watch(log, "m", live.beginnings(log))
