"""Safety events on disk: numbered over lives, whole after a crash, delivered once in order."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.envelope import message
from infra.log import LogUnavailable, Message
from infra.memory.log import MemoryLog
from infra.robot import spool as module
from infra.robot.delivery import SpoolDelivery
from infra.robot.spool import Spool, read_delivered, undelivered
from schemas.acting import Mode, SafetyEvent
from schemas.records import Record
from schemas.topics import SAFETY_EVENTS, decode

FILE = "safety-events.jsonl"


def keep(spool: Spool, count: int = 1, boot_id: str = "b1", after: Mode = "HOLD") -> None:
    for _ in range(count):
        spool.append(lambda seq: event(seq, boot_id, after))


def event(seq: int, boot_id: str = "b1", after: Mode = "HOLD") -> SafetyEvent:
    return SafetyEvent(
        robot_id="r1",
        boot_id=boot_id,
        seq=seq,
        stamp_ms=seq,
        wall_ms=1e12,
        before="NORMAL",
        after=after,
        cause="silence",
    )


def log() -> MemoryLog:
    made = MemoryLog()
    made.provision([SAFETY_EVENTS])
    return made


def seqs(log: MemoryLog) -> list[int]:
    """The numbers of all events in the log."""
    reader = log.state_reader({p: 0 for p in log.ends(SAFETY_EVENTS.name)})
    found = []
    while records := reader.poll(1000, 0):
        events = [decode(SAFETY_EVENTS.name, r.value) for r in records]
        found += [e.seq for e in events if isinstance(e, SafetyEvent)]
    return found


def test_numbers_and_mode_go_on_over_lives(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    assert (first.next_seq, first.mode) == (0, "NORMAL")
    keep(first, 3, after="SAFE_STOP")
    first.close()
    second = Spool(tmp_path)
    assert (second.next_seq, second.mode) == (3, "SAFE_STOP")
    keep(second, boot_id="b2")
    assert [e.seq for e, _ in undelivered(tmp_path, 10)] == [0, 1, 2, 3]
    second.close()


def test_a_torn_end_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    whole = Spool(tmp_path)
    keep(whole, 2)
    whole.close()
    data = (tmp_path / FILE).read_bytes()
    second = data.index(b"\n") + 1
    for cut in range(second, len(data)):
        (tmp_path / FILE).write_bytes(data[:cut])
        mended = Spool(tmp_path)
        assert mended.next_seq == 1
        keep(mended)
        assert [e.seq for e, _ in undelivered(tmp_path, 10)] == [0, 1]
        mended.close()


def test_a_torn_end_that_looks_like_a_line_is_cut_off_too(tmp_path: Path) -> None:
    whole = Spool(tmp_path)
    keep(whole, 2)
    whole.close()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"seq": 2, "type"\n\0\0\0\n')
    mended = Spool(tmp_path)
    assert mended.next_seq == 2
    mended.close()


def test_a_line_being_written_is_not_delivered(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    keep(spool)
    with (tmp_path / FILE).open("ab") as file:
        file.write(event(1).to_bytes())
    assert [e.seq for e, _ in undelivered(tmp_path, 10)] == [0]
    spool.close()


def test_what_is_no_event_in_the_middle_is_said(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.close()
    (tmp_path / FILE).write_bytes(b"other\n" + event(0).to_bytes() + b"\n")
    with pytest.raises(ValueError, match="line before byte 6 is no safety event"):
        undelivered(tmp_path, 10)


def test_a_disk_that_takes_nothing_stops_no_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNWRITTEN_MAX", 3)
    spool = Spool(tmp_path)
    file, spool._file = spool._file, (tmp_path / FILE).open("rb", buffering=0)
    keep(spool, 5)
    assert (spool.next_seq, spool.dropped) == (5, 2)
    spool._file.close()
    spool._file = file
    keep(spool)
    assert [e.seq for e, _ in undelivered(tmp_path, 10)] == [3, 4, 5]
    spool.close()


def test_delivered_in_order_and_not_again(tmp_path: Path) -> None:
    there, spool = log(), Spool(tmp_path)
    delivery = SpoolDelivery(there, tmp_path, "r1")
    for _ in range(3):
        keep(spool, 2)
        assert delivery.deliver() == 2
        assert delivery.deliver() == 0
    assert SpoolDelivery(there, tmp_path, "r1").deliver() == 0
    assert seqs(there) == [0, 1, 2, 3, 4, 5]
    spool.close()


class Flaky(MemoryLog):
    """Appends, and then may say that it did not; or does not and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.provision([SAFETY_EVENTS])
        self.failures: list[int] = []

    def append(self, messages: Sequence[Message]) -> list[Record]:
        if not self.failures:
            return super().append(messages)
        count = self.failures.pop()
        super().append(messages[:count])
        raise LogUnavailable("the broker was killed")


@pytest.mark.parametrize("arrived", [0, 1, 3])
@pytest.mark.parametrize("killed", [False, True])
def test_a_delivery_of_which_nothing_was_heard_repeats_nothing(
    tmp_path: Path, arrived: int, killed: bool
) -> None:
    there, spool = Flaky(), Spool(tmp_path)
    there.append([message(event(0, boot_id="older"))])
    delivery = SpoolDelivery(there, tmp_path, "r1")
    keep(spool, 3)
    there.failures = [arrived]
    with pytest.raises(LogUnavailable):
        delivery.deliver()
    keep(spool)
    again = SpoolDelivery(there, tmp_path, "r1") if killed else delivery
    assert again.deliver() == 4
    assert seqs(there) == [0, 0, 1, 2, 3]
    spool.close()


def test_a_kill_between_log_and_disk_repeats_nothing(tmp_path: Path) -> None:
    there, spool = log(), Spool(tmp_path)
    delivery = SpoolDelivery(there, tmp_path, "r1")
    keep(spool, 2)
    delivery.deliver()
    before = (tmp_path / "safety-events.delivered").read_bytes()
    keep(spool, 2)
    delivery.deliver()
    (tmp_path / "safety-events.delivered").write_bytes(before)
    SpoolDelivery(there, tmp_path, "r1").deliver()
    assert seqs(there) == [0, 1, 2, 3]
    spool.close()


def test_a_large_spool_forgets_what_the_log_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPACT_BYTES", 500)
    there, spool = log(), Spool(tmp_path)
    keep(spool, 20, after="SAFE_STOP")
    SpoolDelivery(there, tmp_path, "r1").deliver()
    spool.close()
    again = Spool(tmp_path)
    assert len((tmp_path / FILE).read_bytes().splitlines()) == 1
    assert (again.next_seq, again.mode) == (20, "SAFE_STOP")
    keep(again)
    SpoolDelivery(there, tmp_path, "r1").deliver()
    assert seqs(there) == list(range(21))
    again.close()


def test_a_kill_in_the_middle_of_forgetting_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPACT_BYTES", 500)
    there, spool = log(), Spool(tmp_path)
    keep(spool, 20)
    SpoolDelivery(there, tmp_path, "r1").deliver()
    spool.close()
    delivered = json.loads((tmp_path / "safety-events.delivered").read_text())
    Spool(tmp_path).close()
    (tmp_path / "safety-events.delivered").write_text(json.dumps(delivered))
    again = Spool(tmp_path)
    keep(again)
    SpoolDelivery(there, tmp_path, "r1").deliver()
    assert seqs(there) == list(range(21))
    assert read_delivered(tmp_path).bytes == (tmp_path / FILE).stat().st_size
    again.close()
